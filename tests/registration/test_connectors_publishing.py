"""Certificates that a connector writes to where their holders are kept, and what they wait for."""

from __future__ import annotations

from base64 import b64encode
from datetime import timedelta
from pathlib import Path

import pytest

from pkiserver.authority.requests import ClientCertificateEvidence, IssuedCertificate
from pkiserver.foundation.clock import SystemClock
from pkiserver.runtime.engine import open_engine
from tests.registration.test_connectors import ALICE, by, ldap, opened, requester
from tests.support.clock import FakeClock
from tests.support.engines import enrollment
from tests.support.outward import deliver
from tests.support.slapd import SUFFIX, Slapd

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDAP_SERVICE", "service secret")


async def test_certificates_are_written_to_the_directory_and_replaced_ones_removed(
    tmp_path: Path, directory: Slapd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDAP_ADMIN", "admin secret")
    writing = ldap(directory.url).replace("cn=pki,", "cn=admin,").replace("LDAP_SERVICE", "LDAP_ADMIN")
    writing += '[ldap.publish]\nalt_security_identities = "issuer_serial"\n'
    dn = f"uid=alice,ou=people,{SUFFIX}"

    async def entry_with(certificate: bytes) -> str:
        await deliver(engine)
        shown = directory.search(dn, "userCertificate", "altSecurityIdentities")
        assert b64encode(certificate).decode() in shown
        assert (shown.count("userCertificate;binary:: "), shown.count("X509:")) == (1, 1)
        return shown

    async with opened(tmp_path, {"ldap": by("staff")}, writing) as engine:
        first = await engine.enroll(enrollment("ldap", ALICE))
        assert isinstance(first, IssuedCertificate)
        assert "X509:<I>" in await entry_with(first.der)
        shown = ClientCertificateEvidence(first.der)
        renewed = await engine.enroll(enrollment("ldap", shown, renewal_of=first.der))
        assert isinstance(renewed, IssuedCertificate)
        assert await requester(engine, renewed) == "staff:alice"
        found = await entry_with(renewed.der)
        octets = renewed.serial.to_bytes((renewed.serial.bit_length() + 8) // 8, "big")
        assert f"X509:<I>O=Example,CN=issuing<SR>{octets[::-1].hex()}" in found


async def test_a_certificate_waits_for_its_directory_however_often_the_server_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDAP_ADMIN", "admin secret")
    directory = Slapd()
    try:
        writing = ldap(directory.url).replace("cn=pki,", "cn=admin,").replace("LDAP_SERVICE", "LDAP_ADMIN")
        async with opened(tmp_path, {"ldap": by("staff")}, writing + "[ldap.publish]\n") as engine:
            issued = await engine.enroll(enrollment("ldap", ALICE))
            assert isinstance(issued, IssuedCertificate)
            directory.stop()
            (standing,) = await deliver(engine)
            assert standing.attempts == 1
            assert "Connection was refused" in str(standing.problem)
            settings = engine.settings
        directory.start()
        later = FakeClock(SystemClock().now() + timedelta(minutes=1))
        async with open_engine(settings, clock=later) as engine:
            (standing,) = await deliver(engine)
            assert (standing.waiting, standing.attempts) == (0, 0)
        shown = directory.search(f"uid=alice,ou=people,{SUFFIX}", "userCertificate")
        assert b64encode(issued.der).decode() in shown
    finally:
        directory.discard()


async def test_a_certificate_waits_while_the_directory_does_not_let_the_service_account_in(
    tmp_path: Path, directory: Slapd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDAP_ADMIN", "admin secret")
    writing = ldap(directory.url).replace("cn=pki,", "cn=admin,").replace("LDAP_SERVICE", "LDAP_ADMIN")
    async with opened(tmp_path, {"ldap": by("staff")}, writing + "[ldap.publish]\n") as engine:
        issued = await engine.enroll(enrollment("ldap", ALICE))
        assert isinstance(issued, IssuedCertificate)
        monkeypatch.setenv("LDAP_ADMIN", "what it was before somebody changed it")
        (standing,) = await deliver(engine)
        assert (standing.waiting, standing.attempts) == (1, 1)
        assert "invalid credentials" in str(standing.problem)


@pytest.mark.parametrize(("settings", "kept"), [("", 1), ("remove_replaced = false\n", 2)])
async def test_the_page_s_rule_lets_the_service_account_write_certificates_and_nothing_else(
    tmp_path: Path, settings: str, kept: int
) -> None:
    page = (ROOT / "docs" / "registration.md").read_text()
    [rule] = [line for line in page.splitlines() if line.startswith("access to attrs=userCertificate ")]
    server = Slapd(rules=rule)
    try:
        writing = ldap(server.url) + f"[ldap.publish]\n{settings}"
        async with opened(tmp_path, {"ldap": by("staff")}, writing) as engine:
            first = await engine.enroll(enrollment("ldap", ALICE))
            assert isinstance(first, IssuedCertificate)
            shown = ClientCertificateEvidence(first.der)
            assert isinstance(await engine.enroll(enrollment("ldap", shown, renewal_of=first.der)), IssuedCertificate)
            await deliver(engine)
            entry = server.search(f"uid=alice,ou=people,{SUFFIX}", "userCertificate")
            assert entry.count("userCertificate;binary:: ") == kept
    finally:
        server.discard()


async def test_a_service_account_without_rights_is_in_the_audit_log(tmp_path: Path, directory: Slapd) -> None:
    async with opened(tmp_path, {"ldap": by("staff")}, ldap(directory.url) + "[ldap.publish]\n") as engine:
        assert isinstance(await engine.enroll(enrollment("ldap", ALICE)), IssuedCertificate)
        await deliver(engine)
        query = "SELECT details FROM audit_event WHERE kind = 'export' AND outcome = 'failed'"
        [details] = await engine.database.read(lambda c: c.exec_driver_sql(query).scalars().all())
        assert "insufficient access rights" in str(details)
