"""The address book of a whole server on PostgreSQL with three workers, and a directory that it publishes to."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from pkiserver.cli.setup.walk import steps
from tests.support.instance import Instance
from tests.support.slapd import ADMIN, ADMIN_PASSWORD, SUFFIX, Slapd

pytestmark = [pytest.mark.blackbox, pytest.mark.postgresql]
PATIENCE_SECONDS = 60


def until(wanted: Callable[[], bool], what: str) -> None:
    """Ask again and again until it is so; fails after a long time."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not wanted():
        assert time.monotonic() < end, what
        time.sleep(0.2)


@pytest.fixture
def mail(postgres_instance: Instance, tmp_path: Path) -> str:
    """Enrol an S/MIME certificate as the printed walk does; the address in it."""
    (step,) = [one for one in steps(postgres_instance.layout) if one.what.startswith("address book")]
    enrol, look = step.commands[:2], step.commands[2:]
    done = postgres_instance.shell("\n".join(enrol), tmp_path)
    assert done.returncode == 0, done.stderr
    # a worker that was asked before may give the address's earlier certificate for half a second
    until(lambda: postgres_instance.shell("\n".join(look), tmp_path).stdout == "secret\n", "found and of use")
    (address,) = re.findall(r"\(mail=([^)]*)\)", "\n".join(step.commands))
    return str(address)


def found(instance: Instance, address: str, certificate: str) -> bool:
    """Whether one connection finds a certificate: each goes to one of the workers."""
    done = subprocess.run(
        [
            *("ldapsearch", "-LLL", "-o", "ldif-wrap=no", "-x", "-H", f"ldap://127.0.0.1:{instance.layout.ldap_port}"),
            *("-b", "o=pkiserver", f"(mail={address})", "userCertificate"),
        ],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    return certificate in done.stdout


def ready(instance: Instance, name: str) -> dict[str, str]:
    url = f"http://127.0.0.1:{instance.layout.management_port}/health/ready"
    with urllib.request.urlopen(url, timeout=5) as answer:
        told = json.load(answer)
    return next((one for one in told["checks"] if one["name"] == name), {})


def test_every_worker_withdraws_and_a_directory_elsewhere_follows(
    postgres_instance: Instance, slapd: Slapd, mail: str, tmp_path: Path
) -> None:
    instance = postgres_instance
    slapd.load(f"dn: uid=demo,ou=people,{SUFFIX}\nobjectClass: inetOrgPerson\nuid: demo\ncn: D\nsn: D\nmail: {mail}\n")
    (tmp_path / "writer").write_text(ADMIN_PASSWORD)
    (tmp_path / "corporate.toml").write_text(
        f'kind = "directory"\nname = "corporate"\nservers = ["{slapd.url}"]\ninsecure = true\n'
        f'base = "ou=people,{SUFFIX}"\nbind_name = "{ADMIN}"\nbind_password = "file:{tmp_path}/writer"\n'
    )
    instance.cli("apply", "--yes", str(tmp_path / "corporate.toml"))

    pem = x509.load_pem_x509_certificate((tmp_path / "mail.pem").read_bytes())
    certificate = base64.b64encode(pem.public_bytes(serialization.Encoding.DER)).decode()

    def held() -> bool:
        return certificate in slapd.search(f"uid=demo,ou=people,{SUFFIX}", "userCertificate")

    assert json.loads(instance.cli("--json", "addressbook", "resync", "corporate").stdout)["mended"] == 1
    assert held()
    until(lambda: ready(instance, "directory/corporate").get("health") == "ok", "health names the directory")
    slapd.stop()
    assert all(found(instance, mail, certificate) for _ in range(12))
    instance.cli("cert", "revoke", str(tmp_path / "mail.pem"), "--reason", "superseded")
    until(lambda: not any(found(instance, mail, certificate) for _ in range(12)), "every worker has withdrawn it")
    until(lambda: ready(instance, "directory/corporate").get("health") == "warning", "health says that it is away")
    slapd.start()
    until(lambda: not held(), "what could not be brought is brought when the directory is back")
    until(lambda: ready(instance, "directory/corporate").get("health") == "ok", "health is well again")
    url = f"http://127.0.0.1:{instance.layout.management_port}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        metrics = answer.read().decode()
    assert 'pkiserver_outward_waiting{target="directory/corporate"' in metrics
    instance.cli("apply", "--yes", "--delete", "directory/corporate")


def shown_certificates(instance: Instance, *, secure: bool) -> set[bytes]:
    """What the workers show over LDAPS, or after StartTLS, to several connections."""
    port = instance.layout.ldaps_port if secure else instance.layout.ldap_port
    more = () if secure else ("-starttls", "ldap")
    found = set()
    for _ in range(8):
        done = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *more],
            input=b"",
            capture_output=True,
            timeout=20,
            check=False,
        )
        (pem,) = re.findall(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", done.stdout, re.DOTALL)
        found.add(x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER))
    return found


def test_certificates_are_exchanged_while_it_serves(postgres_instance: Instance, tmp_path: Path) -> None:
    folder = postgres_instance.layout.tls
    before = {name: (folder / name).read_bytes() for name in ("server.pem", "server.key")}
    make = "openssl req -x509 -newkey rsa:2048 -nodes -keyout server.key -out server.pem -subj /CN=localhost -days 2"
    assert postgres_instance.shell(make, tmp_path).returncode == 0
    new = x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes())
    wanted = {new.public_bytes(serialization.Encoding.DER)}
    first = shown_certificates(postgres_instance, secure=True)
    assert first.isdisjoint(wanted)
    try:
        for name in before:
            (folder / name).write_bytes((tmp_path / name).read_bytes())
        os.kill(postgres_instance.pid, signal.SIGHUP)
        for secure in (True, False):
            until(
                lambda secure=secure: shown_certificates(postgres_instance, secure=secure) == wanted,  # type: ignore[misc]
                "every worker shows the new certificate",
            )
    finally:
        for name, octets in before.items():
            (folder / name).write_bytes(octets)
        os.kill(postgres_instance.pid, signal.SIGHUP)
    until(lambda: shown_certificates(postgres_instance, secure=True) == first, "and the old one again")
