"""What the LDAP connector writes to a real Active Directory domain controller: passwords, certificates, mappings."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.foundation.errors import Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.registration.connectors.ldappublish import alt_security
from pkiserver.registration.connectors.ldapsettings import AltSecurity
from pkiserver.registration.connectors.values import Denied, Shown, Step
from tests.registration.connectors.domain import NEW, RIGHT, SERVICE, TEMPLATE, WAYS, WRONG, at, made
from tests.support.samba import PEOPLE, REALM, SERVICE_PASSWORD, USER_PASSWORD, DomainController

PUBLISH = """
[ldap.publish]
alt_security_identities = "issuer_serial"
"""


@pytest.fixture(autouse=True)
def service_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AD_SERVICE", SERVICE_PASSWORD)
    monkeypatch.setenv("AD_BOB", USER_PASSWORD)


def certificate(controller: DomainController, stem: str) -> bytes:
    file, _ = controller.ca.issue(stem)
    return x509.load_pem_x509_certificate(file.read_bytes()).public_bytes(Encoding.DER)


@pytest.mark.parametrize("number", range(len(WAYS)))
async def test_a_user_changes_their_password(domain_controller: DomainController, number: int) -> None:
    name, connector = f"carol{number}", at(domain_controller, WAYS[number])
    domain_controller.person(name)
    for old, new, text in [
        (WRONG, NEW, "refuses the password"),
        (RIGHT, Secret("aB1-x"), "does not meet the domain's policy"),
        (RIGHT, Secret("nothing but small letters"), "does not meet the domain's policy"),
        (RIGHT, RIGHT, "does not meet the domain's policy"),
        (RIGHT, Secret(""), "is empty"),
    ]:
        refused = await connector.change_password(name, old, new)
        assert isinstance(refused, Denied)
        assert refused.step is Step.PASSWORD
        assert text in refused.text
    assert await connector.change_password(name, RIGHT, NEW) is None
    assert isinstance(await connector.authenticate(name, NEW), Shown)
    back = await connector.change_password(name, NEW, RIGHT)
    assert isinstance(back, Denied), "the history forbids it"


@pytest.mark.parametrize("state", ["must change", "expired"])
async def test_an_expired_password_is_set_by_a_service_account_that_may(
    domain_controller: DomainController, state: str
) -> None:
    name = f"nora-{state.replace(' ', '-')}"
    dn = domain_controller.person(name, more="pwdLastSet: 0" if state == "must change" else "")
    if state == "expired":
        domain_controller.let_expire(dn)
    connector = at(domain_controller)
    refused = await connector.change_password(name, WRONG, NEW)
    assert isinstance(refused, Denied)
    assert not refused.proved
    alone = await at(domain_controller, TEMPLATE).change_password(name, RIGHT, NEW)
    assert isinstance(alone, Denied)
    assert alone.step is Step.EXPIRED
    may_not = SERVICE.replace(f"pki@{REALM}", f"bob@{REALM}").replace("AD_SERVICE", "AD_BOB")
    forbidden = await at(domain_controller, may_not).change_password(name, RIGHT, NEW)
    assert isinstance(forbidden, Denied)
    assert "insufficient access rights" in forbidden.text
    assert await connector.change_password(name, RIGHT, NEW) is None
    assert isinstance(await connector.authenticate(name, NEW), Shown)


async def test_certificates_and_mappings_are_written_and_replaced_ones_removed(
    domain_controller: DomainController,
) -> None:
    dn = domain_controller.person("olga")
    first, second, foreign = (certificate(domain_controller, f"olga{number}") for number in range(3))

    def held() -> tuple[set[bytes], set[bytes]]:
        return domain_controller.values(dn, "userCertificate"), domain_controller.values(dn, "altSecurityIdentities")

    def mapping(der: bytes) -> bytes:
        return alt_security(der, AltSecurity.ISSUER_SERIAL)

    connector = at(domain_controller, SERVICE, PUBLISH)
    await connector.publish("olga", foreign, ())
    await connector.publish("olga", first, ())
    assert held() == ({foreign, first}, {mapping(foreign), mapping(first)})
    for _ in range(2):  # again is the same
        await connector.publish("olga", second, (first,))
        assert held() == ({foreign, second}, {mapping(foreign), mapping(second)})
    kept = at(domain_controller, SERVICE, PUBLISH + "remove_replaced = false\n")
    await kept.publish("olga", first, (second,))
    assert held()[0] == {foreign, first, second}
    # by the catalog they are found, to the domain they are written
    both = made(
        f'"{domain_controller.catalog}", "{domain_controller.ldaps}"', domain_controller.ca.pem, SERVICE, PUBLISH
    )
    await both.publish("olga", second, (first,))
    assert held()[0] == {foreign, second}
    with pytest.raises(Rejected, match="no entry"):
        await connector.publish("nobody", first, ())


def test_a_mapping_is_as_microsoft_gives_it() -> None:
    """KB5014754: the issuer as the certificate has it, the serial number's octets in reverse."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name.from_rfc4514_string("CN=CONTOSO-DC-CA,DC=contoso,DC=com")
    made = (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(x509.Name.from_rfc4514_string("CN=olga,DC=contoso,DC=com"))
        .serial_number(0x2B0000000011AC0000000012)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2026, 2, 1, tzinfo=UTC))
        .public_key(key.public_key())
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    own = b"X509:<I>DC=com,DC=contoso,CN=CONTOSO-DC-CA"
    assert alt_security(made, AltSecurity.ISSUER_SERIAL) == own + b"<SR>1200000000ac11000000002b"
    assert alt_security(made, AltSecurity.ISSUER_SUBJECT) == own + b"<S>DC=com,DC=contoso,CN=olga"


async def test_a_service_account_without_rights_writes_nothing(domain_controller: DomainController) -> None:
    may_not = SERVICE.replace(f"pki@{REALM}", f"bob@{REALM}").replace("AD_SERVICE", "AD_BOB")
    with pytest.raises(Rejected, match="insufficient access rights"):
        await at(domain_controller, may_not, PUBLISH).publish("alice", certificate(domain_controller, "a"), ())
    assert domain_controller.values(f"CN=Alice,{PEOPLE}", "userCertificate") == set()
