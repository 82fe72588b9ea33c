"""What an administrator does: back up and restore, rotate an authority's key, look at what happened."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest
from alembic import command
from alembic.config import Config

from pkiserver.store import migrations
from pkiserver.store.engines import parse_url, writing_engine
from tests.support.instance import PKISERVER, Instance, free_port_base

pytestmark = pytest.mark.blackbox


def serials(instance: Instance) -> set[str]:
    return {row["serial"] for row in json.loads(instance.cli("--json", "cert", "list", "--limit", "1000").stdout)}


def audited(instance: Instance, kind: str) -> list[dict[str, Any]]:
    """The events of one kind; the export that tells of them is itself left out."""
    lines = [json.loads(line) for line in instance.cli("audit", "export").stdout.splitlines()]
    return [one for one in lines if one.get("kind") == kind and one["object"] != "audit log"]


def issue_list(instance: Instance) -> int:
    """Let the issuing authority issue a list now; the number of the one that is served then."""
    instance.cli("crl", "issue", "issuing")
    served = instance.cli("crl", "show", "issuing").stdout
    found = re.search(r"number\s+(\d+)", served)
    assert found, served
    return int(found[1])


def test_back_up_while_it_runs_then_restore(tmp_path: Path) -> None:
    instance = Instance(tmp_path, workers=1)
    instance.start()
    saved = tmp_path / "saved.db"
    known = serials(instance)
    instance.cli("database", "backup", str(saved))
    assert saved.stat().st_mode & 0o777 == 0o600
    again = instance.cli("database", "backup", str(saved), check=False)
    assert again.returncode == 1
    assert "exists already" in again.stderr
    [made] = audited(instance, "export")
    assert (made["object"], made["outcome"], made["details"]["file"]) == ("database", "ok", str(saved))
    gone = max(issue_list(instance) for _ in range(3))
    instance.stop()
    for path in instance.layout.directory.glob("pkiserver.db*"):
        path.unlink()
    shutil.copy(saved, instance.layout.database)
    instance.start()
    assert serials(instance) >= known
    assert issue_list(instance) > gone, "lists that the backup does not know of keep their numbers"
    assert instance.cli("audit", "verify").returncode == 0
    assert instance.cli("doctor").returncode == 0
    instance.stop()
    instance.start()
    instance.stop()
    assert audited(instance, "export") == [made], "the copy has it too"
    [told] = [one for one in audited(instance, "recovery") if one["object"] == "database"]
    assert re.fullmatch(r"restored from the backup of \d{4}-\d\d-\d\d \d\d:\d\dZ", told["details"]["change"])


def test_the_pin_as_a_credential_of_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = Instance(tmp_path, workers=2)
    folder = tmp_path / "credentials"
    folder.mkdir(mode=0o700)
    config = instance.layout.config
    settings = tomllib.loads(config.read_text())
    pin = settings["key_store"][0]["pin_source"]
    shutil.move(pin.removeprefix("file:"), folder / "pin")
    config.write_text(config.read_text().replace(pin, "credential:pin"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))  # what LoadCredential=pin:... does
    instance.start()
    assert "ready" in instance.cli("key", "show", "issuing-1").stdout
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    without = instance.cli("crl", "issue", "issuing", check=False)
    assert without.returncode == 75
    assert "a command gets them by systemd-run" in without.stderr
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    assert issue_list(instance) > 1, "no wrong PIN was tried"
    instance.stop()


def test_ctrl_c_reaches_the_workers_too(tmp_path: Path) -> None:
    """A terminal signals every process of the foreground; the parent tells its workers to end besides."""
    instance = Instance(tmp_path, workers=2)
    instance.start()
    children = Path(f"/proc/{instance.pid}/task/{instance.pid}/children").read_text().split()
    assert len(children) == 2
    for child in children:
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            os.kill(int(child), number)
    instance.stop()
    said = instance.log.read_text()
    assert "Traceback" not in said
    assert "is killed" not in said


def test_rekey_while_it_runs(tmp_path: Path) -> None:
    instance = Instance(tmp_path, workers=2)
    instance.start()
    enrol = "\n".join(command for step in _steps(instance) if step.what.startswith("EST") for command in step.commands)
    assert instance.shell(enrol, tmp_path).returncode == 0
    folder = instance.layout.directory / "try"
    (folder / "demo.pem").rename(folder / "old.pem")
    (folder / "issuing.pem").rename(folder / "old-issuing.pem")
    instance.cli("ca", "rekey", "issuing")
    # workers learn of it one by one, within half a second: as often as one of two would hardly be met alone
    until = """
    served=0
    for i in $(seq 200); do
        if curl -fsS -o /dev/null {url}/ca/issuing-2.cer; then served=$((served + 1)); else served=0; fi
        [ $served -ge 20 ] && exit 0
        sleep 0.1
    done
    exit 1
    """
    assert instance.shell(until.format(url=instance.layout.http_url), tmp_path).returncode == 0
    assert instance.shell(enrol, tmp_path).returncode == 0
    ocsp = "openssl ocsp -issuer {issuer} -cert {cert} -url {url}/ocsp -CAfile ../root.pem"
    for cert, issuer in (("old.pem", "old-issuing.pem"), ("demo.pem", "issuing.pem")):
        command = ocsp.format(cert=cert, issuer=issuer, url=instance.layout.http_url)
        wait = f"for i in $(seq 50); do {command} | grep good && exit 0; sleep 0.2; done; exit 1"
        done = instance.shell(f"set +e; {wait}", folder)
        assert done.returncode == 0, done.stdout + done.stderr
    verify = "openssl verify -CAfile ../root.pem -untrusted {issuer} {cert}"
    for cert, issuer in (("old.pem", "old-issuing.pem"), ("demo.pem", "issuing.pem")):
        assert instance.shell(verify.format(cert=cert, issuer=issuer), folder).returncode == 0
    wrong = instance.shell(verify.format(cert="demo.pem", issuer="old-issuing.pem"), folder)
    assert wrong.returncode != 0
    instance.stop()


def _steps(instance: Instance):  # type: ignore[no-untyped-def]
    from pkiserver.cli.setup.walk import steps

    return steps(instance.layout)


@pytest.mark.parametrize("after", [0.6, 1.2, 1.8, 2.4])
def test_stopped_while_it_starts(tmp_path_factory: pytest.TempPathFactory, after: float) -> None:
    instance = _prepared(tmp_path_factory)
    with instance.log.open("wb") as output:
        process = subprocess.Popen(instance._quickstart(), stdout=output, stderr=subprocess.STDOUT)
    time.sleep(after)  # the moment is the point: settings, sockets, workers or engine are half there
    process.send_signal(signal.SIGTERM)
    process.wait(90)
    text = instance.log.read_text()
    assert "did not end in time" not in text
    assert "Traceback" not in text


_kept: list[Instance] = []


def _prepared(factory: pytest.TempPathFactory) -> Instance:
    """One instance for all moments; none of them keeps it running."""
    if not _kept:
        _kept.append(Instance(factory.mktemp("moments"), workers=2))
    return _kept[0]


def test_an_older_database_is_upgraded_at_start_after_a_copy(tmp_path: Path) -> None:
    instance = Instance(tmp_path, workers=1)
    newest = instance.layout.schema.read_text()
    config = Config()
    config.set_main_option("script_location", str(migrations.__path__[0]))
    for path in instance.layout.directory.glob("pkiserver.db*"):
        path.unlink()
    engine = writing_engine(parse_url(f"sqlite:///{instance.layout.database}"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
    instance.layout.schema.write_text("0001")
    kept = instance.layout.directory / f"pkiserver.db.before-{newest}"
    kept.write_text("half a copy, of an upgrade that was interrupted")
    done = instance.shell(f"{' '.join(instance._quickstart())} --setup-only", tmp_path)
    assert f"from schema 0001 to {newest}" in done.stderr
    assert instance.layout.schema.read_text() == newest
    assert json.loads(instance.cli("--json", "database", "show").stdout)["schema"] == newest
    with contextlib.closing(sqlite3.connect(kept)) as copy:
        assert copy.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]
    again = instance.shell(f"{' '.join(instance._quickstart())} --setup-only", tmp_path)
    assert "schema" not in again.stderr


def test_a_newer_programs_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    instance = Instance(tmp_path, workers=1)
    with contextlib.closing(sqlite3.connect(instance.layout.database)) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
    instance.layout.schema.write_text("9999")
    before = {path.name for path in instance.layout.directory.iterdir()}
    done = instance.shell(f"{' '.join(instance._quickstart())} --setup-only", tmp_path)
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert "schema 9999, of a newer program" in line
    assert {path.name for path in instance.layout.directory.iterdir()} <= before


@pytest.mark.parametrize("engine", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def test_an_interrupted_set_up_is_made_anew_and_one_that_goes_on_is_left_alone(
    tmp_path: Path, engine: str, request: pytest.FixtureRequest
) -> None:
    directory = tmp_path / "instance"
    command = [str(PKISERVER), "quickstart", "--dir", str(directory), "--port-base", str(free_port_base())]
    if engine == "postgresql":
        command += ["--database", request.getfixturevalue("postgres_server").new_url()]

    def begin() -> subprocess.Popen[str]:
        process = subprocess.Popen([*command, "--setup-only"], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        assert any("root and issuing CA" in line for line in process.stderr)
        return process

    interrupted = begin()
    interrupted.kill()
    interrupted.communicate()
    first = begin()
    second = subprocess.run([*command, "--setup-only"], capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert second.stderr == f"Error: {directory} is being set up by another process at this moment\n"
    assert first.communicate()[1] is not None
    assert first.returncode == 0
    third = subprocess.run([*command, "--setup-only"], capture_output=True, text=True, check=False)
    assert (third.returncode, third.stderr) == (0, "")
    authorities = [str(PKISERVER), "--config", str(directory / "pkiserver.toml"), "ca", "list"]
    assert subprocess.run(authorities, capture_output=True, check=False).returncode == 0
    if engine == "postgresql":
        command[3] = str(tmp_path / "other")
        other = subprocess.run([*command, "--setup-only"], capture_output=True, text=True, check=False)
        assert other.returncode == 1
        assert "error: the database is in use" in other.stderr


def test_the_folder_may_have_any_name_that_can_be_written_down(tmp_path: Path) -> None:
    instance = Instance(tmp_path / """a "b" \\c' {d} %e""")
    assert json.loads(instance.cli("--json", "ca", "list").stdout)
    for name in ("a#b", "a?b", "a\nb"):
        command = [str(PKISERVER), "quickstart", "--setup-only", "--dir", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert f"Invalid value for --dir: no folder with {name[1]!r} in its path can be used" in done.stderr
        assert not (tmp_path / name).exists()


def test_an_instance_that_was_moved_starts_and_a_copy_of_one_does_not(tmp_path: Path) -> None:
    instance = Instance(tmp_path)
    old, new, copy = instance.layout.directory, tmp_path / 'a "new" place', tmp_path / "copy"
    old.rename(new)
    instance.layout = attrs.evolve(instance.layout, directory=new)
    instance.start()
    try:
        assert f"{new} was {old}: its settings follow" in instance.log.read_text()
        assert json.loads(instance.cli("--json", "key", "test", "issuing-1").stdout)
        assert not old.exists()
        shutil.copytree(new, copy)
        command = [str(PKISERVER), "quickstart", "--setup-only", "--dir", str(copy)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        instance.stop()
    assert done.returncode == 1
    assert done.stderr == f"Error: {copy} is a copy: its settings name the files of {new}\n"


def test_a_wrong_pin_reaches_the_token_once_and_is_told_in_the_log(tmp_path: Path) -> None:
    """Whatever the number of workers and restarts: each of them tried it, and the log said only that all are ready."""
    instance = Instance(tmp_path, workers=2)
    layout = instance.layout
    pin = Path(tomllib.loads(layout.config.read_text())["key_store"][0]["pin_source"].removeprefix("file:"))
    right = pin.read_text()
    pin.write_text("not-the-pin")
    seen = tmp_path / "calls"
    spy = next(Path("/usr/lib").glob("*/pkcs11-spy.so"))
    settings = layout.config.read_text()
    module = re.search(r'^module = "(.*)"$', settings, re.MULTILINE)
    assert module is not None
    watched = f'module = "{spy}"\nenvironment = ["PKCS11SPY={module[1]}", "PKCS11SPY_OUTPUT={seen}"]'
    layout.config.write_text(settings.replace(module[0], watched))

    def tries() -> int:
        return seen.read_text(errors="replace").count("C_Login\n")

    for _ in range(2):
        instance.start(until_logged="ready: 2 worker(s)")
        instance.stop()
    assert tries() == 1
    assert re.search(r"cannot be used: .*key:softhsm.*: the PIN from .* is wrong", instance.log.read_text())
    assert "key:softhsm" in instance.cli("doctor", check=False).stdout
    assert tries() == 1
    pin.write_text(right)
    instance.start()
    instance.stop()
