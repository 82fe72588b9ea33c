"""``pkiserver admin``, ``seat``, ``operation`` and ``request`` on a started server, whose API answers curl."""

from __future__ import annotations

import getpass
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.instance import Instance

TEMPLATE = """
name = "two-officers"
issuer = "issuing"
keys = ["ec-p256"]
protocols = ["est"]
[validity]
duration = "90d"
[seats]
enabled = true
slots = ["learn_once", "locked"]
[[evidence]]
all = ["password"]
approval = true
approvals = 2
approvers = ["officers"]
[[subject.parts]]
attribute = "common_name"
from = "request"
required = true
[key_usage]
usages = ["digital_signature"]
[extended_key_usage]
usages = ["client_auth"]
"""


POST = ("-H", "Content-Type: application/json", "-d", "{}")


class Server:
    """A started instance with the management API on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.instance = Instance(folder)
        layout = self.instance.layout
        self.issuer = json.loads(self.instance.cli("ca", "list", "--json").stdout)[-1]["name"]
        self.port = layout.api_port
        self.passwords: dict[str, str] = {}

    def admin(self, name: str, *options: str) -> None:
        """Make an administrator with ``NAME.p12``."""
        file = str(self.folder / f"{name}.p12")
        made = self.instance.cli("admin", "create", name, *options, "--authority", self.issuer, "--out", file, "--json")
        self.passwords[name] = json.loads(made.stdout)["password"]
        (self.folder / f"{name}.password").write_text(self.passwords[name] + "\n")

    def as_admin(self, name: str) -> tuple[str, ...]:
        file, password = self.folder / f"{name}.p12", self.folder / f"{name}.password"
        return ("--as-admin", str(file), "--password-file", str(password))

    def curl(self, who: str, path: str, *options: str) -> Any:
        root = self.instance.layout.root_certificate
        cert = f"{self.folder / f'{who}.p12'}:{self.passwords[who]}"
        command = ["curl", "-fsS", "--cacert", str(root), "--cert-type", "P12", "--cert", cert, *options]
        done = subprocess.run(
            [*command, f"https://localhost:{self.port}/api/v1{path}"], capture_output=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("management"))
    made.admin("ada", "--role", "administrator")
    for name in ("ruth", "rolf"):
        made.admin(name, "--role", "ra-officer", "--group", "officers")
    file = made.folder / "two.toml"
    file.write_text(TEMPLATE.replace('"issuing"', f'"{made.issuer}"'))
    made.instance.cli("apply", str(file), "--yes")
    made.instance.start()
    yield made
    made.instance.stop()


def test_the_file_is_made_once_and_opens_the_api(server: Server) -> None:
    file = server.folder / "ada.p12"
    assert file.stat().st_mode & 0o777 == 0o600
    assert server.curl("ada", "/me")["roles"] == ["administrator"]
    assert len(server.passwords["ada"]) == 29
    again = server.instance.cli(
        "admin", "create", "ada", "--role", "auditor", "--authority", server.issuer, "--out", str(file), check=False
    )
    assert again.returncode == 1
    both = server.instance.cli(
        *("admin", "create", "x", "--role", "administrator", "--role", "ra-officer"),
        *("--authority", server.issuer),
        check=False,
    )
    assert "who configures does not issue" in both.stderr
    assert "x" not in server.instance.cli("admin", "list", "--json").stdout.split('"')
    no_certificate = subprocess.run(
        ["curl", "-sS", "-k", f"https://localhost:{server.port}/api/v1/me"], capture_output=True, check=False
    )
    assert no_certificate.returncode != 0  # the handshake wants one


def asking(server: Server, name: str, *options: str) -> str:
    """The command that asks two officers for a certificate of a new key, as often as it is given."""
    layout = server.instance.layout
    password = (layout.secrets / "demo-password").read_text().strip()
    script = (
        f"openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.pem -subj /CN={name}"
        f" -outform DER 2>/dev/null | openssl base64 -out {name}.p10"
    )
    assert server.instance.shell(script, server.folder).returncode == 0
    return (
        f"curl -sS -w '%{{http_code}}' {' '.join(options)} --cacert {layout.root_certificate} --user 'demo:{password}'"
        f" -H 'Content-Type: application/pkcs10' --data-binary @{name}.p10"
        f" {layout.https_url}/.well-known/est/two-officers/simpleenroll"
    )


def test_two_officers_approve_one_over_rest_and_one_at_the_command_line(server: Server) -> None:
    enroll = asking(server, "two", "-o answer")
    first = server.instance.shell(enroll, server.folder)
    assert first.stdout == "202", first.stderr + (server.folder / "answer").read_text()
    [waiting] = json.loads(server.instance.cli("request", "list", "--json").stdout)
    assert waiting["needed"] == 2
    number = str(waiting["number"])
    plain = server.instance.cli("request", "approve", number, check=False)
    assert "only members of officers" in plain.stderr
    assert "--as-admin FILE.p12" in plain.stderr
    log = server.instance.cli("audit", "tail").stdout
    assert f'refusal refused actor="cli:{getpass.getuser()}" object="request {number}" why="only members of' in log
    wanted = ("-H", "Content-Type: application/json", "--data-binary", "{}")
    assert server.curl("ruth", f"/requests/{number}/approve", *wanted)["state"] == "pending"
    told = server.instance.cli("request", "approve", number, "--reason", "known", *server.as_admin("rolf")).stdout
    assert f"Request {number} is approved" in told
    shown = json.loads(server.instance.cli("request", "show", number, "--json").stdout)
    assert shown["votes"] == ["ruth approves", "rolf approves known"]
    assert server.instance.shell(enroll, server.folder).stdout == "200"
    [seat] = json.loads(server.instance.cli("seat", "list", "--json").stdout)
    assert (seat["identity"], seat["template"]) == ("demo", "two-officers")


def test_an_officer_denies_at_the_command_line_and_the_client_is_told_why(server: Server) -> None:
    enroll = asking(server, "denied")
    assert server.instance.shell(enroll, server.folder).stdout.endswith("202")
    [waiting] = json.loads(server.instance.cli("request", "list", "--json").stdout)
    number = str(waiting["number"])
    server.instance.cli("request", "deny", number, "--reason", "not one of ours", *server.as_admin("ruth"))
    shown = json.loads(server.instance.cli("request", "show", number, "--json").stdout)
    assert (shown["state"], shown["decided_by"]) == ("denied", "admin:ruth")
    assert shown["votes"] == ["ruth denies not one of ours"]
    assert server.instance.shell(enroll, server.folder).stdout == f"request {number} was denied: not one of ours\n403"
    late = server.instance.cli("request", "approve", number, *server.as_admin("rolf"), check=False)
    assert "is not pending any more" in late.stderr
    file = server.folder / "shorter.toml"
    file.write_text((server.folder / "two.toml").read_text().replace('"90d"', '"10d"'))
    change = ("operation", "change-template", str(file), "--reason", "x", *server.as_admin("ada"), "--json")
    number = str(json.loads(server.instance.cli(*change).stdout)["number"])
    server.instance.cli("operation", "deny", number, "--reason", "no", *server.as_admin("ruth"))
    listed = json.loads(server.instance.cli("operation", "list", "--state", "denied", "--json").stdout)
    assert [(str(one["number"]), one["outcome"]) for one in listed] == [(number, "no")]


def test_seats_at_the_command_line(server: Server) -> None:
    made = json.loads(
        server.instance.cli("seat", "create", "two-officers", "printer", "--owner", "olga", "--json").stdout
    )
    number = str(made["number"])
    server.instance.cli("seat", "set", number, "--note", "room=4.12")
    server.instance.cli("seat", "slot", number, "2", "learn_always", "--device", "tray")
    server.instance.cli("seat", "archive", number)
    shown = json.loads(server.instance.cli("seat", "show", number, "--json").stdout)
    assert shown["archived"] is True
    assert shown["notes"] == ["room=4.12"]
    assert shown["slots"] == ["1 learn_once", "2 learn_always tray"]
    server.instance.cli("seat", "set", number, "--note", "")
    assert json.loads(server.instance.cli("seat", "show", number, "--json").stdout)["notes"] == []
    server.instance.cli("seat", "restore", number)
    assert server.curl("ruth", f"/seats/{number}")["history"][0]["what"] == "taken back"


def test_a_template_is_changed_by_two_at_the_command_line(server: Server) -> None:
    file = server.folder / "two.toml"
    file.write_text(file.read_text().replace('"90d"', '"30d"'))
    asked = server.instance.cli(
        "operation", "change-template", str(file), "--reason", "shorter", *server.as_admin("ada"), "--json"
    )
    number = str(json.loads(asked.stdout)["number"])
    waiting = json.loads(server.instance.cli("operation", "show", number, "--json").stdout)
    assert '-duration = "90d"\n+duration = "30d"' in waiting["difference"], "who votes sees what would change"
    own = server.instance.cli("operation", "approve", number, *server.as_admin("ada"), check=False)
    assert "nobody decides their own request" in own.stderr
    done = server.instance.cli("operation", "approve", number, *server.as_admin("ruth"), "--json")
    assert json.loads(done.stdout)["state"] == "done"
    assert '"30d"' in server.instance.cli("export", "template/two-officers").stdout
    shown = json.loads(server.instance.cli("operation", "show", number, "--json").stdout)
    assert shown["votes"] == ["ruth approves"]
    listed = json.loads(server.instance.cli("operation", "list", "--state", "any", "--json").stdout)
    assert listed[0]["asked_by"] == "admin:ada"


def test_who_votes_on_an_authority_sees_why_it_is_asked_for_and_what_the_list_would_say(server: Server) -> None:
    ask = ("operation", "revoke-authority", "issuing", "--why", "keyCompromise", "--reason", "the token was stolen")
    number = str(json.loads(server.instance.cli(*ask, *server.as_admin("ada"), "--json").stdout)["number"])
    shown = json.loads(server.instance.cli("operation", "show", number, "--json").stdout)
    assert (shown["reason"], shown["revocation_reason"]) == ("the token was stolen", "keyCompromise")
    server.instance.cli("operation", "deny", number, *server.as_admin("ruth"))


def test_who_gives_a_command_that_is_not_theirs_to_give_is_in_the_audit_log(server: Server) -> None:
    cli, user = server.instance.cli, f"cli:{getpass.getuser()}"
    wanted = server.folder / "wanted.toml"
    wanted.write_text((server.folder / "two.toml").read_text().replace('duration = "', 'duration = "1'))
    change = ("operation", "change-template", str(wanted), "--reason", "x")
    refused = cli(*change, *server.as_admin("ruth"), check=False)
    assert "ra-officer does not permit" in refused.stderr
    script = (
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout s.key -subj /CN=ruth -out s.pem 2>/dev/null"
        " && openssl pkcs12 -export -inkey s.key -in s.pem -passout pass:guess -out stranger.p12"
        " && echo guess > stranger.password"
    )
    assert server.instance.shell(script, server.folder).returncode == 0
    assert "administrator" in cli(*change, *server.as_admin("stranger"), check=False).stderr
    log = cli("audit", "tail", "-n", "5").stdout
    for actor in ("admin:ruth", user):
        assert f'refusal refused actor="{actor}" object="pkiserver operation change-template"' in log
    assert cli("cert", "show", "00", check=False).returncode == 1
    assert cli("audit", "tail", "-n", "5").stdout == log, "what is not there is refused to nobody"


def test_an_authority_is_revoked_by_two_and_never_by_a_name_that_somebody_types(server: Server) -> None:
    cli = server.instance.cli
    certificates = cli("ca", "export-chain", "issuing").stdout.split("-----BEGIN")
    (server.folder / "ca.pem").write_text(f"-----BEGIN{certificates[1]}")
    certificate = str(server.folder / "ca.pem")
    typed = cli("cert", "revoke", certificate, "--approved-by", "ruth", check=False)
    assert typed.returncode == 2
    assert "no such option" in typed.stderr.lower()
    silent = cli("cert", "hold", certificate, *server.as_admin("ada"), check=False)
    assert "with --comment" in silent.stderr
    asked = cli("cert", "hold", certificate, "--comment", "drill", *server.as_admin("ada"), "--json")
    number = str(json.loads(asked.stdout)["number"])
    assert json.loads(cli("cert", "show", certificate, "--json").stdout)["state"] == "issued"
    own = cli("operation", "approve", number, *server.as_admin("ada"), check=False)
    assert "nobody decides their own request" in own.stderr
    cli("operation", "approve", number, *server.as_admin("ruth"))
    assert json.loads(cli("cert", "show", certificate, "--json").stdout)["state"] == "held"
    alone = cli("cert", "release", certificate, "--comment", "over", *server.as_admin("ada"), "--json")
    number = str(json.loads(alone.stdout)["number"])
    assert json.loads(cli("cert", "show", certificate, "--json").stdout)["state"] == "held"
    cli("operation", "approve", number, *server.as_admin("ruth"))
    assert json.loads(cli("cert", "show", certificate, "--json").stdout)["state"] == "issued"
    nothing = cli("cert", "release", certificate, "--comment", "again", *server.as_admin("ada"), check=False)
    assert "is not on hold" in nothing.stderr
    (server.folder / "root.pem").write_text(server.instance.layout.root_certificate.read_text())
    root = cli("cert", "revoke", str(server.folder / "root.pem"), "--comment", "drill", check=False)
    assert "self-signed" in root.stderr


def test_apply_asks_for_a_template_where_dual_control_is_switched_on(server: Server) -> None:
    cli, config = server.instance.cli, server.instance.layout.config
    before = config.read_text()
    config.write_text(f"{before}\n[approvals.dual_control]\ntemplates = true\n")
    try:
        file = server.folder / "two.toml"
        was = cli("export", "template/two-officers").stdout
        file.write_text(was.replace("approvals = 2", "approvals = 1"))
        assert "approvals = 1" in file.read_text()
        unsaid = cli("apply", str(file), "--yes", check=False)
        assert "give a reason" in unsaid.stderr
        asked = cli("apply", str(file), "--yes", "--reason", "one is enough", *server.as_admin("ada"), "--json")
        told = json.loads(asked.stdout)
        assert told["applied"] is False
        [number] = told["operations"]
        assert cli("export", "template/two-officers").stdout == was
        removal = cli("apply", "--delete", "template/two-officers", "--yes", "--reason", "x", check=False)
        assert "switched off" in removal.stderr
        cli("operation", "approve", str(number), *server.as_admin("ruth"))
        assert "approvals = 1" in cli("export", "template/two-officers").stdout
    finally:
        config.write_text(before)


def test_nobody_makes_administrators_alone_where_dual_control_is_switched_on(server: Server) -> None:
    cli, config = server.instance.cli, server.instance.layout.config
    before = config.read_text()
    config.write_text(f"{before}\n[approvals.dual_control]\nadministrators = true\n")
    out = server.folder / "mallory.p12"
    create = ("admin", "create", "mallory", "--role", "operator", "--authority", server.issuer, "--out", str(out))
    try:
        assert "give a reason" in cli(*create, check=False).stderr
        number = _asked(cli(*create, "--reason", "help desk", *server.as_admin("ada"), "--json"))
        assert not out.exists()
        assert "no administrator" in cli("admin", "show", "mallory", check=False).stderr
        early = cli(*create, "--operation", number, check=False)
        assert "has 0 of 1 approvals" in early.stderr
        own = cli("operation", "approve", number, *server.as_admin("ada"), check=False)
        assert "nobody decides their own request" in own.stderr
        cli("operation", "approve", number, *server.as_admin("ruth"))
        more = cli(*create[:4], "ra-officer", *create[5:], "--operation", number, check=False)
        assert "approves something else" in more.stderr
        cli(*create, "--operation", number)
        assert out.exists()
        cli("admin", "disable", "mallory")  # who takes away asks nobody
        certificate = str(server.instance.layout.root_certificate)
        for change in (
            ("enable", "mallory"),
            ("set", "mallory", "--group", "officers"),
            ("bind", "mallory", certificate),
            ("certify", "mallory", "--authority", server.issuer, "--out", str(server.folder / "second.p12")),
        ):
            shown = cli("admin", "show", "mallory").stdout
            assert "give a reason" in cli("admin", *change, check=False).stderr, change
            number = _asked(cli("admin", *change, "--reason", "needed", *server.as_admin("ada"), "--json"))
            assert cli("admin", "show", "mallory").stdout == shown
            server.curl("ruth", f"/operations/{number}/approve", *POST)
            cli("admin", *change, "--operation", number)
            assert cli("admin", "show", "mallory").stdout != shown
            again = cli("admin", *change, "--operation", number, check=False)
            assert again.returncode != 0, "an approval serves once"
    finally:
        config.write_text(before)
    cli("admin", "delete", "mallory")
    assert "nobody has to agree here" in cli("admin", "enable", "ada", "--operation", "1", check=False).stderr


def _asked(done: subprocess.CompletedProcess[str]) -> str:
    """The number of the operation that a command asked for instead of doing anything."""
    told = json.loads(done.stdout)
    assert told["done"] is False
    return str(told["operation"])


def test_administrators_are_shown_changed_and_turned_away(server: Server) -> None:
    server.admin("olga", "--role", "operator", "--only-template", "two-officers")
    assert server.curl("olga", "/me")["templates"] == ["two-officers"]
    server.instance.cli("admin", "set", "olga", "--everything", "--group", "desk")
    assert server.curl("olga", "/me")["templates"] == []
    shown = json.loads(server.instance.cli("admin", "show", "olga", "--json").stdout)
    [fingerprint] = [text.split()[0] for text in shown["certificates"]]
    server.instance.cli("admin", "disable", "olga")
    with pytest.raises(AssertionError, match="403"):
        server.curl("olga", "/me")
    server.instance.cli("admin", "enable", "olga")
    server.instance.cli("admin", "unbind", "olga", fingerprint)
    with pytest.raises(AssertionError, match="403"):
        server.curl("olga", "/me")
    chain = server.folder / "foreign.pem"
    made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout f.key -subj /CN=card -out"
    assert server.instance.shell(f"{made} {chain} 2>/dev/null", server.folder).returncode == 0
    server.instance.cli("admin", "bind", "olga", str(chain))
    export = f"openssl pkcs12 -export -inkey f.key -in {chain} -passout pass:x -out card.p12"
    assert server.instance.shell(export, server.folder).returncode == 0
    server.passwords["card"] = "x"
    assert server.curl("card", "/me")["name"] == "olga"
    server.instance.cli("admin", "delete", "olga")
    with pytest.raises(AssertionError, match="403"):
        server.curl("card", "/me")


@pytest.mark.parametrize(
    ("listing", "key"),
    [
        (("operation", "list", "--state", "any"), "number"),
        (("admin", "list"), "name"),
        (("addressbook", "optouts"), "address"),
    ],
)
def test_a_long_list_says_how_to_go_on(server: Server, listing: tuple[str, ...], key: str) -> None:
    cli = server.instance.cli
    if listing[0] == "addressbook":
        for name in ("one", "two", "three"):
            cli("addressbook", "optout", f"{name}@example.org")
    whole = [str(row[key]) for row in json.loads(cli(*listing, "--json").stdout)]
    assert len(whole) > 2
    onward: list[str] = []
    for wanted in whole:
        done = cli(*listing, "--limit", "1", *onward)
        assert wanted in done.stdout
        note = done.stderr.strip().rpartition("More: ")[2]
        onward = note.split(" ", 1)
    last = cli(*listing, "--limit", "1", *onward)
    assert "More:" not in last.stderr
    assert not any(name in last.stdout for name in whole)
