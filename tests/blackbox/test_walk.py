"""What a new user does: the printed commands, pasted one after the other, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import re
import signal
import stat
from pathlib import Path

import attrs
import pytest
from cryptography import x509

from pkiserver.cli.setup.walk import listeners, steps
from tests.support.instance import Instance

pytestmark = pytest.mark.blackbox


def walk(instance: Instance, folder: Path) -> None:
    """Paste every printed command; each step must say what it promises."""
    for protocol, places, _ in listeners(instance.layout):
        assert protocol in instance.printed
        assert all(place in instance.printed for place in places)  # whole, whatever the width
    assert "Starting factory" not in instance.log.read_text()
    outputs = {}
    for step in steps(instance.layout):
        script = "\n".join(step.commands)
        assert script in instance.printed
        done = instance.shell(script, folder if not (folder / "try").exists() else folder / "try")
        outputs[step.what] = done
        if "CRL" not in step.what and done.returncode != 0:
            log = instance.log.read_text(errors="replace")[-4000:]
            pytest.fail(f"{step.what}: {script}\n{done.stdout}\n{done.stderr}\n{log}")
        folder = instance.layout.directory / "try"
    tries = instance.layout.directory / "try"
    made = x509.load_pem_x509_certificate((tries / "demo.pem").read_bytes())
    assert made.subject.rfc4514_string() == "CN=demo"
    good, revoked = (done for what, done in outputs.items() if what.startswith("OCSP"))
    assert "demo.pem: good" in good.stdout
    assert "Response verify OK" in good.stderr
    assert "demo.pem: revoked" in revoked.stdout
    assert "Reason: superseded" in revoked.stdout
    crl = next(done for what, done in outputs.items() if what.startswith("CRL"))
    assert "certificate revoked" in crl.stdout + crl.stderr
    assert crl.returncode != 0
    api = next(done for what, done in outputs.items() if what.startswith("management API"))
    me, certificates = map(json.loads, api.stdout.splitlines())
    assert (me["name"], me["roles"]) == ("ada", ["administrator"])
    assert any("demo" in one["subject"] for one in certificates["items"])


def test_the_management_api_listens_to_administrators_only(instance: Instance, tmp_path: Path) -> None:
    layout = instance.layout
    call = f"curl -sS --cacert {layout.root_certificate} {layout.api_url}/me"
    nobody = instance.shell(call, tmp_path)
    assert nobody.returncode != 0  # the handshake ends without a certificate
    assert not nobody.stdout
    enrol = next(step for step in steps(layout) if "enrol a P-256" in step.what)
    done = instance.shell("\n".join((f"cd {tmp_path}", *enrol.commands)), tmp_path)
    assert done.returncode == 0, done.stderr
    stranger = instance.shell(f"{call} --cert demo.pem --key demo.key -w ' %{{http_code}}'", tmp_path)
    assert stranger.stdout.endswith(" 403"), stranger.stdout + stranger.stderr


def test_settings_of_an_earlier_version_are_served_without_the_api(instance: Instance, tmp_path: Path) -> None:
    older = attrs.evolve(instance.layout, directory=tmp_path)
    text = instance.layout.config.read_text()
    older.config.write_text(text[: text.index("[api]")] + text[text.index("# What time-stamps") :])
    (tmp_path / "tls").symlink_to(instance.layout.tls)
    assert not [step for step in steps(older) if "management API" in step.what]
    assert not [row for row in listeners(older) if "API" in row[0]]


def test_the_printed_walk_works(instance: Instance, tmp_path: Path) -> None:
    walk(instance, tmp_path)


@pytest.mark.postgresql
def test_the_printed_walk_works_on_postgresql_with_three_workers(postgres_instance: Instance, tmp_path: Path) -> None:
    walk(postgres_instance, tmp_path)


def test_secrets_are_readable_by_their_owner_only(instance: Instance) -> None:
    for name in ("pin", "so-pin", "demo-password"):
        mode = (instance.layout.secrets / name).stat().st_mode
        assert stat.S_IMODE(mode) == 0o600, name
    assert stat.S_IMODE((instance.layout.tls / "server.key").stat().st_mode) == 0o600


def test_the_audit_log_verifies_after_the_walk(instance: Instance) -> None:
    assert instance.cli("audit", "verify").returncode == 0


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_cleanly_and_starts_again_with_everything_kept(tmp_path: Path, by: signal.Signals) -> None:
    made = Instance(tmp_path, workers=2)
    made.start()
    root = made.layout.root_certificate.read_bytes()
    before = made.cli("--json", "cert", "list").stdout
    assert made.stop(by) in {0, -by}  # twistd ends by the signal it was given
    made.start()
    assert made.layout.root_certificate.read_bytes() == root
    serials = {row for row in before.splitlines() if '"serial"' in row}
    assert serials <= set(made.cli("--json", "cert", "list").stdout.splitlines())
    assert made.stop(by) in {0, -by}  # twistd ends by the signal it was given
    assert "Traceback" not in made.log.read_text()


def test_a_second_start_on_taken_ports_says_so(instance: Instance) -> None:
    done = instance.shell(f"{' '.join(instance._quickstart())}", Path("/"))
    assert done.returncode == 1
    assert "is in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_page_of_metrics_has_every_one_and_no_other(instance: Instance) -> None:
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    explained = re.findall(r"^\| `(pkiserver_\w+)` \| (\w+) \|", page.read_text(), re.MULTILINE)
    shown = instance.shell(f"curl -sS http://127.0.0.1:{instance.layout.management_port}/metrics", page.parent).stdout
    assert sorted(explained) == sorted(re.findall(r"^# TYPE (pkiserver_\w+) (\w+)$", shown, re.MULTILINE))
