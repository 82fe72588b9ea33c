"""Wrong input, files that cannot be written, readers that leave: one line each, the right exit code, nothing broken."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import stat
import subprocess
import time
from pathlib import Path

import pytest

from pkiserver.cli.selectors import load_certificates
from pkiserver.cli.voting import who
from tests.support.commands import PKISERVER, configured, run, run_json
from tests.support.keys import software_store


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node with one authority and one account."""
    folder = tmp_path_factory.mktemp("node")
    made = configured(folder, software_store(folder))
    run(made, "ca", "create", "root", "--subject", "CN=Root", "--key-type", "ec-p256")
    run(made, "account", "create", "alice", "--no-password", "--group", "staff")
    return made


def piped(config: Path, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a shell's pipe or redirection: its exit code is ``pkiserver``'s own."""
    line = f'"$@" {command}; exit ${{PIPESTATUS[0]}}'
    return subprocess.run(
        ["bash", "-c", line.replace("CONFIG", str(config)), "bash", *PKISERVER, "--config", str(config)],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("cert search --fingerprint abc", 2, "'abc' is no SHA-256 digest of 64 hexadecimal digits"),
        ("key blocked --after abc", 2, "no SHA-256 digest"),
        ("timestamp log --serial abc", 0, ""),
        ("request show 99999999999999999999", 2, "is not in the range"),
        ("seat list --before 99999999999999999999", 2, "is not in the range"),
        ("crl show root --number 99999999999999999999", 2, "is not in the range"),
        ("crl sign --certificate /tmp --key file:/x --out /tmp/x.crl", 2, "File '/tmp' is a directory"),
        ("ca export-chain root --out /nonexistent/x.pem", 1, "error: /nonexistent/x.pem: No such file or directory"),
        ("export authority/root --dir /proc/x", 1, "error: /proc/x"),
        ("timestamp request /etc/hostname --out /nonexistent/x", 1, "error: /nonexistent/x: No such file"),
        ("timestamp request /etc/hostname --url http://localhost:abc/", 1, "nonnumeric port"),
        ("audit export --output /nonexistent/log", 1, "/nonexistent/log: No such file or directory"),
        ("database backup /nonexistent/x", 1, "error: /nonexistent/x: No such file or directory"),
        ("certs list", 2, "No such command 'certs'. Did you mean 'cert'?"),
        ("nonsense", 2, "No such command 'nonsense'."),
        ("timestamp verify /etc/hostname --data /etc/hostname", 1, "/etc/hostname is no time-stamp token: "),
        ("addressbook publish a@b.ch /etc/hostname", 1, "/etc/hostname is no userSMIMECertificate: "),
        ("ca import x /etc/hostname", 2, "/etc/hostname holds no certificate that can be read"),
        ("key delete root", 1, "there is no key 'root'"),
        ("key adopt k file:/nonexistent --doors crl", 1, "no configured key store serves file:/nonexistent"),
        ("key adopt k nonsense --doors crl", 1, "no configured key store serves nonsense"),
        ("key generate k --doors crl --store pkcs11:token=x", 1, "no configured key store serves pkcs11:token=x"),
        ("ca retire root 1", 1, "generation 1 of root is the one that issues"),
        ("ca retire root 7", 1, "authority root has no key generation 7"),
        ("operation revoke-authority root --reason x", 1, "it is the self-signed certificate of authority root"),
        ("timestamp request /etc/hostname --url http://127.0.0.1:1/", 75, "Connection refused"),
        ("quickstart --port-base 65000 --dir /nonexistent/x", 2, "is not in the range"),
    ],
)
def test_wrong_input_is_told_in_a_line(config: Path, arguments: str, code: int, said: str) -> None:
    answer = run(config, *arguments.split(), code=code)
    assert said in answer
    assert "Traceback" not in answer
    assert "internal error" not in answer


def test_a_certificate_of_a_version_that_there_is_not(config: Path, tmp_path: Path) -> None:
    root, odd = tmp_path / "root.pem", tmp_path / "odd.der"
    run(config, "ca", "export-chain", "root", "--out", root)
    der = load_certificates(root)[0]
    odd.write_bytes(der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020104"), 1))
    for command in (("ca", "import", "x", odd), ("cert", "show", odd)):
        assert f"{odd} holds no certificate that can be read" in run(config, *command, code=2)


def test_an_earlier_key_is_retired_when_somebody_says_yes_and_once(config: Path) -> None:
    run(config, "ca", "create", "old", "--subject", "CN=Old", "--key-type", "ec-p256")
    run(config, "ca", "rekey", "old")
    assert "say --yes" in run(config, "ca", "retire", "old", "1", code=2)
    assert run_json(config, "ca", "retire", "old", "1", "--yes")["state"] == "retired"
    assert "is retired already" in run(config, "ca", "retire", "old", "1", "--yes", code=1)


def test_every_failure_has_a_form_for_scripts(config: Path) -> None:
    answer = run(config, "cert", "show", "zz", "--json", code=2)
    found = json.loads(answer)
    assert found["exit_code"] == 2
    assert found["error"][0]["code"] == "command-line"
    assert "no serial number" in found["error"][0]["text"]


def test_what_must_be_asked_names_the_option_where_nobody_is_there(config: Path, tmp_path: Path) -> None:
    run(config, "key", "generate", "spare", "--doors", "crl")
    assert "say --yes" in run(config, "key", "delete", "spare", code=2)
    run(config, "key", "delete", "spare", "--yes")
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-aes128", "-pass", "pass:x",
         "-out", str(locked)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    assert "give --password-source" in run(config, "key", "import", "other", locked, "--doors", "crl", code=2)


class TestFiles:
    def test_what_is_replaced_is_told(self, config: Path, tmp_path: Path) -> None:
        file = tmp_path / "chain.pem"
        assert "replaced" not in _stderr(config, "ca", "export-chain", "root", "--out", file)
        assert "replaced" not in _stderr(config, "ca", "export-chain", "root", "--out", file)
        file.write_text("something else")
        assert f"{file} was there already and has been replaced" in _stderr(
            config, "ca", "export-chain", "root", "--out", file
        )
        assert [one.name for one in tmp_path.iterdir()] == ["chain.pem"]

    def test_a_link_a_pipe_and_a_device_stay_what_they_are(self, config: Path, tmp_path: Path) -> None:
        """``--out /dev/stdout``, as root, once put a file in the place of the device."""
        target, link, pipe = tmp_path / "target.pem", tmp_path / "link.pem", tmp_path / "pipe"
        link.symlink_to(target)
        run(config, "ca", "export-chain", "root", "--out", link)
        assert link.is_symlink()
        assert target.read_text().startswith("-----BEGIN CERTIFICATE")
        os.mkfifo(pipe)
        with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
            run(config, "ca", "export-chain", "root", "--out", pipe)
            assert reader.stdout is not None
            assert reader.stdout.read() == target.read_bytes()
        assert stat.S_ISFIFO(pipe.stat().st_mode)

    def test_a_log_is_never_exported_over_an_older_one(self, config: Path, tmp_path: Path) -> None:
        file = tmp_path / "log.jsonl"
        run(config, "audit", "export", "--since", "2026-01-01T00:00:00Z", "--output", file)
        before = file.read_bytes()
        assert file.stat().st_mode & 0o777 == 0o600
        assert f"{file} exists already" in run(config, "audit", "export", "--output", file, code=1)
        assert file.read_bytes() == before
        other = tmp_path / "other.jsonl"
        wrong = tmp_path / "wrong.toml"
        wrong.write_text("workers = -1\n")
        run(wrong, "audit", "export", "--output", other, code=1)
        assert not other.exists()


def _stderr(config: Path, *arguments: object) -> str:
    done = subprocess.run(
        [*PKISERVER, *map(str, arguments), "--config", str(config)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stderr


def test_a_backup_that_is_interrupted_leaves_no_half_copy(config: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with contextlib.closing(sqlite3.connect(config.parent / "pkiserver.db")) as database, database:
        database.execute("CREATE TABLE long AS SELECT zeroblob(300000000) AS octets")  # a copy of some seconds
    command = [*PKISERVER, "database", "backup", str(copy), "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        try:
            while not copy.exists():
                assert running.poll() is None
                time.sleep(0.01)
            running.send_signal(signal.SIGINT)
            _, said = running.communicate(timeout=60)
        finally:
            running.kill()
    assert (running.returncode, said.strip()) == (130, "interrupted")
    assert not copy.exists()
    with contextlib.closing(sqlite3.connect(config.parent / "pkiserver.db")) as database, database:
        database.execute("DROP TABLE long")
    run(config, "database", "backup", copy)


class TestOutput:
    @pytest.mark.parametrize("command", ["ca list", "ca list --json", "audit export", "completion bash"])
    def test_a_full_disk_is_told(self, config: Path, command: str) -> None:
        done = piped(config, f"{command} >/dev/full")
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        assert "Exception ignored" not in done.stderr

    @pytest.mark.parametrize("command", ["ca list", "ca list --json", "audit export", "audit tail -n 1000"])
    def test_a_reader_that_leaves_is_no_failure(self, config: Path, command: str) -> None:
        done = piped(config, f"{command} | true")
        assert (done.returncode, done.stderr.replace("lines", "").strip(" 0123456789\n")) == (0, "")

    def test_a_letter_that_the_locale_lacks(self, config: Path) -> None:
        """In any locale: what people read is escaped, what programs read is UTF-8."""
        run(config, "account", "create", "Łukasz", "--no-password", "--attribute", "mail=ł@example.org")
        for encoding in ("ascii", "latin-1"):
            shown = piped(config, "account show Łukasz", PYTHONIOENCODING=encoding)
            assert (shown.returncode, shown.stderr) == (0, "")
            assert "\\u0141ukasz" in shown.stdout
            told = piped(config, "--json account show Łukasz", PYTHONIOENCODING=encoding)
            assert json.loads(told.stdout)["name"] == "Łukasz"

    def test_streams_that_are_closed(self, config: Path) -> None:
        done = piped(config, "ca list <&- >&-")
        assert (done.returncode, done.stderr) == (0, "")
        assert piped(config, "cert show zz 2>&-").returncode == 2


class TestAdministrators:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--out", "/nonexistent/eve.p12"), "/nonexistent/eve.p12: No such file or directory"),
            (("--out", "EXISTING"), "exists already"),
            (("--validity", "100y"), "between an hour and five years"),
            (("--validity", "0d"), "between an hour and five years"),
        ],
    )
    def test_who_gets_no_file_is_not_made(
        self, config: Path, tmp_path: Path, options: tuple[str, str], said: str
    ) -> None:
        existing, fresh = tmp_path / "there.p12", tmp_path / "fresh.p12"
        existing.write_text("precious")
        out = () if "--out" in options else ("--out", fresh)
        given = [str(existing) if one == "EXISTING" else one for one in options]
        answer = run(config, "admin", "create", "eve", "--role", "auditor", "--authority", "root", *given, *out, code=1)
        assert said in answer
        assert existing.read_text() == "precious"
        assert not fresh.exists()
        assert "no administrator" in run(config, "admin", "show", "eve", code=1)

    def test_a_slip_in_a_scope_is_seen(self, config: Path, tmp_path: Path) -> None:
        out = ("--authority", "root", "--out", tmp_path / "zed.p12")
        scope = ("--only-template", "tls-sevrer", "--only-authority", "rot", "--group", "officers")
        told = _stderr(config, "admin", "create", "zed", "--role", "auditor", *scope, *out)
        assert "there is no authority rot yet" in told
        assert "there is no template tls-sevrer yet" in told
        run(config, "admin", "set", "zed", "--group", "")
        assert run_json(config, "admin", "show", "zed")["groups"] == []
        run(config, "admin", "delete", "zed")


def test_an_account_leaves_its_last_group(config: Path) -> None:
    run(config, "account", "set", "alice")
    assert run_json(config, "account", "show", "alice")["groups"] == ["staff"]
    run(config, "account", "set", "alice", "--group", "")
    assert run_json(config, "account", "show", "alice")["groups"] == []


def test_who_it_was_is_not_for_the_environment_to_say(config: Path) -> None:
    """``LOGNAME=ruth pkiserver request approve`` would have been a second person's vote."""
    run(config, "account", "disable", "alice", LOGNAME="ruth", USER="ruth", LNAME="ruth", USERNAME="ruth")
    newest = json.loads(run(config, "audit", "tail", "-n", "1", "--json"))
    assert newest["actor"].startswith("cli:")
    assert newest["actor"] != "cli:ruth"


def test_an_account_without_a_name_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under any number."""
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert who() == "cli:54321"
