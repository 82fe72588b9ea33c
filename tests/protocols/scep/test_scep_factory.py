"""Devices that sign their first request with the certificate that they left the factory with (IDevID)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from asn1crypto import core
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from pkiserver.store.authority import templates
from tests.protocols.scep.device import CERT_POLL, FAILURE, PENDING, Device
from tests.protocols.scep.support import World, template, world
from tests.support.tlsfiles import TestCa

RULE = '[[evidence]]\nall = ["client_certificate"]\nconnectors = ["factory"]\n'
BOTH = '[[evidence]]\nall = ["client_certificate", "code"]\nconnectors = ["factory"]\n'
CONNECTOR = """
name = "factory"
kind = "connector"
[certificate]
anchors = '''{anchors}'''
name = "subject.serial_number"
subject = ".*O=Maker.*"
crls = ["file:{crl}"]
refresh = "1s"
"""


@attrs.frozen
class Factory:
    """A maker's authority, its CRL, and the server that trusts it."""

    ca: TestCa
    crl: Path
    scep: World

    def device(self, serial: str, at: str = "ldevid", maker: TestCa | None = None) -> Device:
        """A device whose key the maker has certified."""
        device = self.scep.device("fresh", at=at)
        key = load_pem_private_key((device.folder / "key").read_bytes(), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Maker"),
                x509.NameAttribute(NameOID.SERIAL_NUMBER, serial),
            ]
        )
        device.use((maker or self.ca).certify(subject, key.public_key()))
        return device


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory, on_reactor: Callable[[Any], Any]) -> Iterator[Factory]:
    folder = tmp_path_factory.mktemp("factory")
    ca = TestCa(folder, "Maker CA")
    crl = folder / "maker.crl"
    crl.write_bytes(ca.crl())
    texts = dict(
        (
            template("ldevid", RULE),
            template("approved-ldevid", RULE + "approval = true\n"),
            template("both", BOTH),
            template("coded"),
        )
    )
    with world(folder, on_reactor, texts) as made:
        text, now = CONNECTOR.format(anchors=ca.pem, crl=crl), made.engine.clock.now()
        made.one(
            made.engine.database.write(
                lambda c: templates.put(c, "factory", text, now=now, expected=None, kind="connector")
            )
        )
        made.one(made.engine.refresh())
        assert made.engine.connectors.problems() == ()
        yield Factory(ca, crl, made)


def requester(scep: World, certificate: x509.Certificate) -> str:
    return str(scep.one(scep.port.known(certificate.public_bytes(Encoding.DER))).requester)


def test_a_factory_certificate_brings_the_first_one_for_another_key_and_for_its_own(factory: Factory) -> None:
    device = factory.device("SN-1")
    device.new_key("second")
    (first,) = device.certificates(device.enroll(key="second"))
    assert requester(factory.scep, first) == "factory:SN-1"
    device.transaction = secrets.token_hex(16)
    (own,) = device.certificates(device.enroll(subject="CN=own key"))
    assert own.public_key() != first.public_key()


def test_who_has_none_that_counts_gets_nothing(factory: Factory, tmp_path: Path) -> None:
    other = TestCa(tmp_path, "Another maker")
    assert "shows nobody" in factory.device("SN-2", maker=other).enroll().fail_text
    assert factory.scep.device("fresh", at="ldevid").enroll().status == FAILURE, "signed by itself"
    refused = factory.device("SN-2", at="coded")
    refused.new_key("second")
    assert "certificate from here" in refused.enroll(key="second").fail_text, "the template does not ask for it"
    revoked = factory.device("SN-3")
    pem = (revoked.folder / "own.crt").read_bytes()
    factory.crl.write_bytes(factory.ca.crl(x509.load_pem_x509_certificate(pem)))
    while (answer := revoked.enroll()).status != FAILURE:  # until the list is read again
        revoked.transaction = secrets.token_hex(16)
    assert "shows nobody" in answer.fail_text


def test_a_code_beside_the_factory_certificate(factory: Factory) -> None:
    device, code = factory.device("SN-4", at="both"), factory.scep.code("both")
    assert "code is needed" in device.enroll().fail_text
    device.transaction = secrets.token_hex(16)
    assert len(device.certificates(device.enroll(code))) == 1
    bare = factory.scep.device("bare", at="both")
    assert bare.enroll(factory.scep.code("both")).status == FAILURE


def test_what_waits_for_an_officer_is_fetched_by_polling(factory: Factory) -> None:
    device = factory.device("SN-5", at="approved-ldevid")

    def poll() -> Any:
        return device.ask(CERT_POLL, device.envelope(core.OctetString(b"nobody reads this").dump()))

    assert device.enroll().status == PENDING
    assert poll().status == PENDING
    approvals = factory.scep.engine.approvals
    [waiting] = [one for one in factory.scep.one(approvals.list_page()) if one.template == "approved-ldevid"]
    factory.scep.one(approvals.decide(waiting.id, approved=True, by="officer"))
    (certificate,) = device.certificates(poll())
    assert requester(factory.scep, certificate) == "factory:SN-5"
