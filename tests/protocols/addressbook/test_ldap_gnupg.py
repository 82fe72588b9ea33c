"""GnuPG's S/MIME side as a client: gpgsm and dirmngr-client."""

from __future__ import annotations

import base64
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.protocols.addressbook.support import BASE, Site, certificates_in

GNUPG = "gpgsm or dirmngr-client is missing; install them with: apt-get install -y gpgsm dirmngr"


@pytest.fixture(scope="module", autouse=True)
def bob(site: Site) -> None:
    for kind in ("ec", "rsa"):
        site.issue("Bob Smithers", "bob@example.com", kind=kind)


@pytest.fixture
def gnupg() -> Iterator[Path]:
    """A home of GnuPG's own, short enough for its sockets, whose daemons end with the test."""
    if not shutil.which("gpgsm") or not shutil.which("dirmngr-client"):
        pytest.fail(GNUPG)
    home = Path(tempfile.mkdtemp(prefix="pkiserver-gnupg-"))
    yield home
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, timeout=20)
    shutil.rmtree(home, ignore_errors=True)


def test_gpgsm_finds_a_certificate_by_address(site: Site, gnupg: Path) -> None:
    (gnupg / "dirmngr.conf").write_text("ldapserverlist-file /dev/null\n")
    (gnupg / "gpgsm.conf").write_text(f"keyserver 127.0.0.1:{site.ldap}:::{BASE}:plain\n")
    found = site.run("gpgsm", "--homedir", str(gnupg), "--list-external-keys", "bob@example.com")
    assert "Bob Smithers" in found
    assert "bob@example.com" in found
    nobody = site.run("gpgsm", "--homedir", str(gnupg), "--list-external-keys", "nobody@example.com", rc=None)
    assert "example.com" not in nobody


def test_dirmngr_finds_a_certificate_by_address(site: Site, gnupg: Path) -> None:
    (gnupg / "dirmngr.conf").write_text(f"ldapserver 127.0.0.1:{site.ldap}:::{BASE}:plain\n")
    site.run("gpgconf", "--homedir", str(gnupg), "--launch", "dirmngr")
    found = site.run("dirmngr-client", "--lookup", "<bob@example.com>", GNUPGHOME=str(gnupg))
    newest = certificates_in(site.search("(mail=bob@example.com)", "userCertificate;binary"))
    assert base64.b64decode("".join(found.split())) in newest
    refused = site.run("dirmngr-client", "--lookup", "<nobody@example.com>", rc=None, GNUPGHOME=str(gnupg))
    assert "MII" not in refused
