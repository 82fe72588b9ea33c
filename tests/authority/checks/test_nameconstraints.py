"""Name constraints of issuers: our verdict is OpenSSL's, and what a verifier would refuse is never signed."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from OpenSSL import crypto

from pkiserver.authority.checks.nameconstraints import limits_along
from pkiserver.foundation.errors import Refusal, Rejected
from tests.authority.world import World, authorised

KEY = ec.generate_private_key(ec.SECP256R1())
NOW = datetime.now(UTC).replace(microsecond=0)


def dns(text: str) -> x509.GeneralName:
    return x509.DNSName(text)


def mail(text: str) -> x509.GeneralName:
    return x509.RFC822Name(text)


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


def address(text: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_network(text) if "/" in text else ipaddress.ip_address(text))


def dn(text: str) -> x509.GeneralName:
    return x509.DirectoryName(x509.Name.from_rfc4514_string(text))


CASES: list[tuple[list[x509.GeneralName], list[x509.GeneralName], list[x509.GeneralName], bool]] = [
    ([dns("example.com")], [], [dns("example.com")], True),
    ([dns("example.com")], [], [dns("a.b.EXAMPLE.com")], True),
    ([dns("example.com")], [], [dns("badexample.com")], False),
    ([dns("example.com")], [], [dns("example.com.evil.org")], False),
    ([dns("example.com")], [], [mail("anybody@elsewhere.org")], True),
    ([dns("example.com"), dns("example.org")], [], [dns("www.example.org"), dns("example.com")], True),
    ([], [dns("secret.example.com")], [dns("www.example.com")], True),
    ([], [dns("secret.example.com")], [dns("a.secret.example.com")], False),
    ([dns("example.com")], [dns("secret.example.com")], [dns("secret.example.com")], False),
    ([mail("example.com")], [], [mail("alice@example.com")], True),
    ([mail("example.com")], [], [mail("alice@EXAMPLE.com")], True),
    ([mail("example.com")], [], [mail("alice@sub.example.com")], False),
    ([mail(".example.com")], [], [mail("alice@sub.example.com")], True),
    ([mail(".example.com")], [], [mail("alice@example.com")], False),
    ([mail("alice@example.com")], [], [mail("alice@example.com")], True),
    ([mail("alice@example.com")], [], [mail("bob@example.com")], False),
    ([uri("example.com")], [], [uri("https://example.com/a")], True),
    ([uri("example.com")], [], [uri("https://www.example.com/a")], False),
    ([uri(".example.com")], [], [uri("https://www.example.com:8443/a")], True),
    ([uri("example.com")], [], [uri("urn:example")], False),
    ([], [uri("example.com")], [uri("https://example.com")], False),
    ([address("192.0.2.0/24")], [], [address("192.0.2.77")], True),
    ([address("192.0.2.0/24")], [], [address("192.0.3.1")], False),
    ([address("192.0.2.0/24")], [], [address("2001:db8::1")], False),
    ([], [address("2001:db8::/32")], [address("2001:db8::1")], False),
    ([dn("O=Example,C=CH")], [], [dn("CN=x,O=Example,C=CH")], True),
    ([dn("O=Example,C=CH")], [], [dn("CN=x,O=EXAMPLE,C=CH")], True),
    ([dn("O=Example,C=CH")], [], [dn("CN=x,O=Other,C=CH")], False),
    ([], [dn("O=Example,C=CH")], [dn("CN=x,O=Example,C=CH")], False),
]


def certificate(
    subject: str, issuer: str, *extensions: tuple[x509.ExtensionType, bool], ca: bool = False
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name.from_rfc4514_string(subject))
        .issuer_name(x509.Name.from_rfc4514_string(issuer))
        .public_key(KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical=critical)
    return builder.sign(KEY, hashes.SHA256())


def openssl_accepts(root: x509.Certificate, issuer: x509.Certificate, leaf: x509.Certificate) -> bool:
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(root))
    chain = [crypto.X509.from_cryptography(issuer)]
    try:
        crypto.X509StoreContext(store, crypto.X509.from_cryptography(leaf), chain).verify_certificate()
    except crypto.X509StoreContextError:
        return False
    return True


@pytest.mark.parametrize(("permitted", "excluded", "names", "allowed"), CASES)
def test_our_verdict_is_that_of_openssl(
    permitted: list[x509.GeneralName], excluded: list[x509.GeneralName], names: list[x509.GeneralName], allowed: bool
) -> None:
    subject = "CN=leaf,O=Test"
    sans = [name for name in names if not isinstance(name, x509.DirectoryName)]
    for name in names:
        if isinstance(name, x509.DirectoryName):
            subject = name.value.rfc4514_string()
    constraints = x509.NameConstraints(permitted or None, excluded or None)
    root = certificate("CN=root", "CN=root", ca=True)
    issuer = certificate("CN=issuing", "CN=root", (constraints, True), ca=True)
    extensions: list[tuple[x509.ExtensionType, bool]] = [(x509.SubjectAlternativeName(sans), False)] if sans else []
    leaf = certificate(subject, "CN=issuing", *extensions)
    chain = tuple(one.public_bytes(Encoding.DER) for one in (issuer, root))
    found = limits_along(chain).reasons(leaf.subject, sans)
    assert (not found) is allowed, found
    assert openssl_accepts(root, issuer, leaf) is allowed


def test_a_wildcard_that_may_stand_for_an_excluded_host_is_refused() -> None:
    constraints = x509.NameConstraints(None, [dns("secret.example.com")])
    issuer = certificate("CN=issuing", "CN=root", (constraints, True), ca=True).public_bytes(Encoding.DER)
    subject = x509.Name([])
    assert limits_along((issuer,)).reasons(subject, [dns("*.example.com")])
    assert not limits_along((issuer,)).reasons(subject, [dns("*.example.org")])


def test_a_mail_address_in_the_subject_is_constrained_as_well() -> None:
    issuer = certificate(
        "CN=issuing", "CN=root", (x509.NameConstraints([mail("example.com")], None), True), ca=True
    ).public_bytes(Encoding.DER)

    def subject(address: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.EMAIL_ADDRESS, address)])

    assert not limits_along((issuer,)).reasons(subject("a@example.com"), [])
    [reason] = limits_along((issuer,)).reasons(subject("a@example.org"), [])
    assert reason.text == "the issuer's name constraints do not allow the mail address a@example.org"


async def test_what_a_verifier_would_refuse_is_not_signed(world: World) -> None:
    await world.root(permitted=("dns:example.com", "dns:example.org"))
    await world.subordinate(excluded=("dns:secret.example.com",))
    await world.template()
    good = await world.road.issue(await world.road.prepare(authorised(names=[dns("www.example.com")])))
    assert good.der
    with pytest.raises(Rejected) as refused:
        await world.road.prepare(authorised(names=[dns("a.secret.example.com"), dns("example.net")]))
    texts = [reason.text for reason in refused.value.reasons if reason.code is Refusal.BAD_NAME]
    assert texts == [
        "the issuer's name constraints do not allow the DNS names a.secret.example.com, example.net",
    ]
