"""Names as old clients write them: Latin-1 in TeletexStrings, and PrintableStrings that are none."""

from __future__ import annotations

import secrets

import pytest
from asn1crypto import cms, csr
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import AttributeOID, NameOID

from pkiserver.foundation.extensionvalue import extension_value
from pkiserver.store import certificates
from protocols.scep.errors import UNREADABLE
from tests.protocols.scep.device import (
    BAD_CHECK,
    BAD_REQUEST,
    FAILURE,
    GET_CERT,
    PKCS_REQ,
    RENEWAL_REQ,
    SUCCESS,
    Device,
)
from tests.protocols.scep.support import World, template
from tests.protocols.scep.test_scep_walk import identifier
from tests.protocols.scep.wire import Wire, changed, logged, name, self_signed

CONFIG = "[req]\nprompt=no\nstring_mask=nombstr\ndistinguished_name=dn\n{more}[dn]\nCN=Müller\n"
CHALLENGE = "attributes=attr\n[attr]\nchallengePassword={}\n"
SAID = "the subject cannot be read: the common_name is neither ASCII nor UTF-8"
LATIN1 = b"\x14\x06M\xfcller"


@pytest.fixture(scope="module")
def at(scep: World) -> str:
    scep.put(*template("old-names", scep="latin1 = true"))
    return "old-names"


def request(device: Device, *more: str, challenge: str = "") -> bytes:
    config = CONFIG.format(more=CHALLENGE.format(challenge) if challenge else "")
    (device.folder / "old.cnf").write_bytes(config.encode("latin-1"))
    made = device.openssl("req", "-new", "-config", "old.cnf", "-key", "key", "-outform", "DER", *more)
    assert LATIN1 in made
    return made


def old_device(scep: World, at: str) -> Device:
    """Its own certificate, with which it signs its first message, has that subject too."""
    device = scep.device("old", at=at)
    device.use(x509.load_der_x509_certificate(request(device, "-x509", "-days", "9")))
    return device


def test_it_is_refused_with_the_reason_and_costs_nothing(scep: World) -> None:
    device, code = old_device(scep, "device"), scep.code()
    with logged() as lines:
        answer = device.ask(PKCS_REQ, device.envelope(request(device, challenge=code)))
    assert (answer.status, answer.fail_info) == (FAILURE, BAD_REQUEST)
    assert SAID in answer.fail_text
    assert [SAID in line for line in lines] == [True]
    assert scep.device("other").enroll(code).status == SUCCESS


def test_nothing_is_said_of_it_before_the_request_is_known_to_be_its_makers(scep: World) -> None:
    device = old_device(scep, "device")
    forged = request(device)
    answer = device.ask(PKCS_REQ, device.envelope(changed(forged, len(forged) - 1, 1)))
    assert (answer.fail_info, answer.fail_text) == (BAD_CHECK, UNREADABLE)


def test_a_template_may_say_that_it_is_latin1(scep: World, at: str) -> None:
    device = old_device(scep, at)
    message = device.message(PKCS_REQ, device.envelope(request(device, challenge=scep.code(at))))
    (first,) = device.certificates(device.read(device.post(message)))
    assert device.certificates(device.read(device.post(message))) == [first]
    (name,) = first.subject
    assert (name.value, name._type) == ("Müller", _ASN1Type.UTF8String)
    device.use(first)
    asked = device.envelope(request(device))
    (second,) = device.certificates(device.ask(RENEWAL_REQ, asked, transaction="renewal"))
    assert (second.subject, second.serial_number == first.serial_number) == (first.subject, False)
    assert device.certificates(device.ask(GET_CERT, device.envelope(identifier(first)))) == [first]


def test_the_answer_names_its_recipient_by_the_octets_of_its_certificate(scep: World, at: str) -> None:
    device = old_device(scep, at)
    answer = device.ask(PKCS_REQ, device.envelope(request(device, challenge=scep.code(at))))
    assert answer.envelope is not None
    recipient = cms.ContentInfo.load(answer.envelope)["content"]["recipient_infos"][0].chosen
    assert LATIN1 in recipient["rid"].dump()


def test_a_printable_string_may_say_more_than_it_can(scep: World) -> None:
    """As in names that many encoders write, without looking at what is in them."""
    wire = Wire(scep)
    good, odd = name("dev-x").public_bytes(), name("dev-x").public_bytes().replace(b"\x0c\x05dev-x", b"\x13\x05dev_x")
    own = self_signed(wire.key, "dev-x").replace(good, odd)
    unsigned = csr.CertificationRequest.load(wire.csr(scep.code()))["certification_request_info"].copy()
    unsigned["subject"] = asn1_x509.Name.load(odd)
    request = {"signature_algorithm": {"algorithm": "sha256_rsa"}, "certification_request_info": unsigned}
    octets = unsigned.dump(force=True)
    assert odd in octets
    made = csr.CertificationRequest({**request, "signature": wire.sign(octets)}).dump()
    assert wire.ask(PKCS_REQ, wire.envelope(made), certificate=own).granted
    wanted = certificates.Criteria(subject="CN=dev_x", template="device")
    page = scep.one(scep.engine.database.read(lambda c: certificates.search(c, wanted, limit=2)))
    assert [x509.load_der_x509_certificate(one.der).subject for one in page.certificates] == [name("dev_x")]


@pytest.mark.parametrize(
    "extension",
    [
        "extendedKeyUsage=serverAuth",
        "1.3.6.1.4.1.311.25.2=ASN1:UTF8String:S-1-5-21-1-2-3-500",
        "subjectAltName=otherName:1.3.6.1.4.1.311.20.2.3;UTF8:administrator@example.org",
    ],
)
def test_anchor_6_purposes_policies_and_directory_names_are_not_the_requests_to_give(
    scep: World, extension: str
) -> None:
    """A certificate with another's UPN or security identifier logs on to a domain as them."""
    device, code = scep.device("injector"), scep.code()
    answer = device.enroll(code, extensions=extension)
    assert (answer.status, answer.fail_info) == (FAILURE, BAD_REQUEST), answer
    device.transaction = secrets.token_hex(8)
    assert device.enroll(code).status == SUCCESS, "and nothing was spent"


def test_anchor_6_a_policy_that_is_asked_for_is_not_in_the_certificate(scep: World) -> None:
    device = scep.device("ambitious")
    (made,) = device.certificates(device.enroll(scep.code(), extensions="certificatePolicies=1.2.3.4"))
    assert extension_value(made, x509.CertificatePolicies) is None


@pytest.mark.filterwarnings("ignore:Attribute's length")
@pytest.mark.parametrize("text", ["admin\0.example", "admin\n", "admin\u202enimda", "\u200badmin", "a" * 65])
@pytest.mark.parametrize("kind", [_ASN1Type.UTF8String, _ASN1Type.BMPString])
def test_anchor_6_a_common_name_that_looks_like_another(scep: World, text: str, kind: _ASN1Type) -> None:
    wire = Wire(scep)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text, kind, _validate=False)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, scep.code().encode())
    asked = builder.sign(wire.key, hashes.SHA256()).public_bytes(Encoding.DER)
    said = wire.ask(PKCS_REQ, wire.envelope(asked))
    assert (said.status, said.fail_info) == (str(FAILURE), str(BAD_REQUEST)), said
