"""Look-ups over HTTP: exact addresses, and the stores of RFC 4387."""

from __future__ import annotations

import base64
import email
import hashlib
from email.message import Message
from typing import Any

import pytest
from cryptography import x509
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater

from pkiserver.authority.lifecycle.ceremonies import KeyChoice
from pkiserver.keys.algorithms import KeyType
from tests.protocols.addressbook.support import BASE, Site
from tests.support.engines import ACTOR

reactor: Any = _reactor


def get(site: Site, path: str, **query: str) -> tuple[int, str, bytes]:
    """Status, content type and body, as curl gets them."""
    options = [word for name, value in query.items() for word in ("--data-urlencode", f"{name}={value}")]
    target = f"http://127.0.0.1:{site.http}{path}"
    said = site.run("curl", "-sS", "-G", "-o", "body", "-w", "%{http_code} %{content_type}", *options, target)
    status, _, kind = said.partition(" ")
    return int(status), kind, (site.folder / "body").read_bytes()


def key(data: bytes) -> str:
    return base64.b64encode(hashlib.sha1(data).digest()).decode().rstrip("=")


@pytest.fixture(scope="module")
def alice(site: Site) -> x509.Certificate:
    return x509.load_der_x509_certificate(site.issue("Alice", "alice@example.com").der)


def der(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def test_an_exact_address_gives_pem_or_der(site: Site, alice: x509.Certificate) -> None:
    assert get(site, "/addressbook/certificate", mail="ALICE@example.com", format="der")[2] == der(alice)
    status, kind, body = get(site, "/addressbook/certificate", mail="alice@example.com")
    assert (status, kind) == (200, "application/x-pem-file")
    assert x509.load_pem_x509_certificate(body) == alice
    for wrong in ("nobody@example.com", "alice", "*", "alice@example.*"):
        assert get(site, "/addressbook/certificate", mail=wrong)[0] == 404
    assert get(site, "/addressbook/certificate")[0] == 400
    assert get(site, "/addressbook/certificate", mail="a@b.c", format="p12")[0] == 400


def test_the_certificate_store_by_every_key(site: Site, alice: x509.Certificate) -> None:
    identifier = alice.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    serial = alice.serial_number
    number = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
    inner = alice.issuer.public_bytes() + bytes((2, len(number))) + number
    store = "/certificates/search.cgi"
    for name, value in (
        ("certHash", key(der(alice))),
        ("sHash", key(alice.subject.public_bytes())),
        ("sKIDHash", key(identifier)),
        ("iAndSHash", key(bytes((0x30, len(inner))) + inner)),
        ("uri", "alice@example.com"),
        ("email", "alice@example.com"),
    ):
        status, kind, body = get(site, store, **{name: value})
        assert (name, status, kind) == (name, 200, "application/pkix-cert")
        assert body == der(alice)
    for name, value in (("name", "Alice"), ("iHash", key(b"x")), ("certHash", key(b"x"))):
        assert get(site, store, **{name: value})[0] == 404
    for value in ("'; DROP TABLE certificate; --", "a" * 28, "=" * 27, "a" * 5000):
        assert get(site, store, certHash=value)[0] in {400, 414}
    assert get(site, store)[0] == 400
    assert get(site, store, sHash=key(b"x"), iHash=key(b"x"))[0] == 400


def test_authorities_are_found_by_subject_and_several_come_as_multipart(site: Site, alice: x509.Certificate) -> None:
    body = get(site, "/certificates/search.cgi", sHash=key(alice.issuer.public_bytes()))[2]
    assert x509.load_der_x509_certificate(body).subject == alice.issuer
    second = site.issue("Alice", "alice@example.com", kind="rsa")
    status, kind, body = get(site, "/certificates/search.cgi", email="alice@example.com")
    assert status == 200
    message = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
    assert message.get_content_type() == "multipart/mixed"
    parts = [part.get_content_type() for part in message.get_payload() if isinstance(part, Message)]
    assert parts == ["application/pkix-cert"] * 2
    assert second.der in body
    assert der(alice) in body


def test_lists_are_found_by_their_issuer(site: Site, alice: x509.Certificate) -> None:
    site.do(site.engine.status.schedule.run_due)
    store = "/crls/search.cgi"
    status, kind, body = get(site, store, iHash=key(alice.issuer.public_bytes()))
    assert (status, kind) == (200, "application/pkix-crl")
    assert x509.load_der_x509_crl(body).issuer == alice.issuer
    issuer = alice.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert issuer is not None
    assert get(site, store, sKIDHash=key(issuer))[2] == body
    assert get(site, store, iHash=key(b"x"))[0] == 404
    assert get(site, store, name="issuing")[0] == 400


def test_an_opted_out_person_and_a_revoked_certificate_are_not_there(site: Site) -> None:
    from pkiserver.publication.contacts import ContactWriter

    issued = site.issue("Oscar", "oscar@example.com")
    writer = ContactWriter(site.engine.database, site.engine.audit, site.engine.clock)
    assert get(site, "/certificates/search.cgi", certHash=key(issued.der))[0] == 200
    site.do(lambda: writer.opt_out("oscar@example.com", out=True, by="test"))
    site.settle()
    assert get(site, "/certificates/search.cgi", certHash=key(issued.der))[0] == 404
    assert get(site, "/addressbook/certificate", mail="oscar@example.com")[0] == 404


def test_of_several_keys_of_an_issuer_the_latest_list_is_given(site: Site) -> None:
    engine = site.engine
    issuing = engine.authorities.get("issuing")
    (store,) = {one.name for one in engine.settings.key_store}
    choice = KeyChoice(key_type=KeyType.parse("ec-p256"), store=store)

    async def rekey() -> None:
        await engine.road.succession.rekey("issuing", choice, ACTOR)
        await engine.refresh()
        await deferLater(reactor, 1.1)  # lists say when they are from in whole seconds
        await engine.status.schedule.run_due()
        await deferLater(reactor, 0.6)  # what is served may be half a second old

    site.do(rekey)
    after = engine.authorities.get("issuing").current.certificate
    old, new = issuing.current.certificate.key_identifier, after.key_identifier
    assert old != new
    of_keys = [get(site, "/crls/search.cgi", sKIDHash=key(one))[2] for one in (old, new)]
    latest = max(of_keys, key=lambda one: x509.load_der_x509_crl(one).last_update_utc)
    assert latest == of_keys[1]
    assert of_keys[0] != of_keys[1]
    assert get(site, "/crls/search.cgi", iHash=key(issuing.subject_der))[2] == latest
    text = site.search("(cn=issuing)", "certificateRevocationList", base=f"ou=CAs,{BASE}")
    assert text.count("certificateRevocationList;binary::") == 2
    pair = site.search("(cn=issuing)", "crossCertificatePair", base=f"ou=CAs,{BASE}")
    assert pair.count("crossCertificatePair;binary::") == 2
