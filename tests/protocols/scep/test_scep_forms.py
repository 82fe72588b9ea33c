"""Messages as nobody should make them, and as somebody does: names, keys, structure, octets altered."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import cms, core
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type

from pkiserver.authority.templates.model import LegacyAlgorithm
from pkiserver.foundation import der
from pkiserver.foundation.extensionvalue import extension_value
from protocols.scep.errors import UNREADABLE
from tests.protocols.scep.device import (
    BAD_ALG,
    BAD_CHECK,
    BAD_REQUEST,
    CERT_POLL,
    FAIL_TEXT,
    FAILURE,
    GET_CERT,
    GET_CRL,
    PENDING,
    PKCS_REQ,
    RENEWAL_REQ,
    SUCCESS,
)
from tests.protocols.scep.support import World
from tests.protocols.scep.wire import Said, Wire, changed, identifier, logged, name

RSA_KEY, UNKNOWN_KEY = bytes.fromhex("06092a864886f70d010101"), bytes.fromhex("06092a864886f70d010163")
COMMON_NAME, BIT_STRING = b"\x0c\x05wired", b"\x03\x05\x00ired"
"""A name whose value is a BIT STRING is well-formed, and yet no name that cryptography can hold."""
KEY_IDENTIFIER = b"\x04\x04abcd"
SAN, SKI = "2.5.29.17", "2.5.29.14"
UNREADABLE_SAID = Said(200, "2", "1", UNREADABLE)


@pytest.fixture(scope="module")
def wire(scep: World) -> Wire:
    return Wire(scep)


def certificate(wire: Wire, *extensions: tuple[str, bytes]) -> bytes:
    """A self-signed certificate with extensions that no tool would write."""
    own = asn1_x509.Certificate.load(wire.certificate)["tbs_certificate"]
    parts = [own[part].dump() for part in ("version", "serial_number", "signature", "issuer", "validity", "subject")]
    inside = (der.sequence(der.object_identifier(oid), der.tlv(der.OCTET_STRING, value)) for oid, value in extensions)
    more = der.explicit(3, der.sequence(*inside))
    tbs = der.sequence(*parts, own["subject_public_key_info"].dump(), more)
    return der.sequence(tbs, own["signature"].dump(), der.bit_string(wire.sign(tbs)))


BROKEN = {
    "twice": ((SKI, KEY_IDENTIFIER), (SKI, KEY_IDENTIFIER)),
    "no octets": ((SKI, b"\x05\x00"),),
    "no names": ((SKI, KEY_IDENTIFIER), (SAN, b"\x30\x02\x05\x00")),
    "names of an odd kind": ((SKI, KEY_IDENTIFIER), (SAN, b"\x30\x04\xa5\x02\x05\x00")),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_signers_certificate_with_broken_extensions(wire: Wire, what: str) -> None:
    own = certificate(wire, *BROKEN[what])
    by_key = cms.SignerIdentifier({"subject_key_identifier": b"abcd"})
    with logged():
        assert wire.ask(PKCS_REQ, wire.envelope(wire.fresh()), certificate=own).granted, "it proves a key, no more"
        renewal = wire.ask(RENEWAL_REQ, wire.envelope(wire.csr()), certificate=own)
        assert (renewal.fail_info, renewal.text) == ("4", "the certificate to be renewed was not issued here")
        for kind in (PKCS_REQ, RENEWAL_REQ, CERT_POLL, GET_CERT):
            said = wire.ask(kind, wire.envelope(wire.csr()), certificate=own, sid=by_key)
            assert (said.fail_info, "certificate is not in the message" in str(said.text)) == ("1", True)


def test_a_signers_certificate_with_a_key_or_a_name_of_no_known_kind(wire: Wire) -> None:
    with logged():
        unknown = wire.certificate.replace(RSA_KEY, UNKNOWN_KEY)
        said = wire.ask(PKCS_REQ, wire.envelope(wire.csr("x")), certificate=unknown)
        assert (said.fail_info, "certificate is not in the message" in str(said.text)) == ("1", True)
        nameless = wire.certificate.replace(COMMON_NAME, BIT_STRING)
        assert wire.ask(PKCS_REQ, wire.envelope(wire.fresh()), certificate=nameless).granted, "it proves a key, no more"


def test_names_and_keys_of_no_known_kind_inside_the_envelope(wire: Wire) -> None:
    odd = asn1_x509.Name.load(name("wired").public_bytes().replace(COMMON_NAME, BIT_STRING))
    wanted = cms.IssuerAndSerialNumber({"issuer": odd, "serial_number": 5})
    with logged():
        for old, new in ((RSA_KEY, UNKNOWN_KEY), (COMMON_NAME, BIT_STRING)):
            assert wire.ask(PKCS_REQ, wire.envelope(wire.csr("x").replace(old, new))) == UNREADABLE_SAID
        for kind in (GET_CERT, GET_CRL):
            assert wire.ask(kind, wire.envelope(wanted.dump())).fail_info == "4"
        rid = cms.RecipientIdentifier({"issuer_and_serial_number": wanted})
        assert "another certificate" in str(wire.ask(PKCS_REQ, wire.envelope(wire.csr("x"), rid=rid)).text)


def with_ciphertext(envelope: bytes, change: Any) -> bytes:
    """An envelope that somebody has seen, with other blocks and another initialisation vector."""
    info = cms.ContentInfo.load(envelope).copy()
    sealed = info["content"]["encrypted_content_info"]
    iv, octets = change(sealed["content_encryption_algorithm"]["parameters"].native, sealed["encrypted_content"].native)
    sealed["content_encryption_algorithm"]["parameters"] = core.OctetString(iv)
    sealed["encrypted_content"] = octets
    return bytes(info.dump(force=True))


def test_anchor_37_an_envelope_put_together_anew_tells_nothing_of_what_is_in_it(scep: World, wire: Wire) -> None:
    """CBC lets whoever has seen an envelope alter what it says, and sign the result: the answer must be no oracle."""
    foreign = x509.load_der_x509_certificate(wire.certificate)
    seen, mallory = wire.envelope(wire.csr("the password of all devices")), Wire(scep)
    length = len(cms.ContentInfo.load(seen)["content"]["encrypted_content_info"]["encrypted_content"].native)
    with logged():
        for position in range(0, length + 16, 3):

            def alter(iv: bytes, octets: bytes, at: int = position) -> tuple[bytes, bytes]:
                whole = changed(iv + octets, at, 1 << at % 8)
                return whole[:16], whole[16:]

            assert mallory.ask(PKCS_REQ, with_ciphertext(seen, alter)) == UNREADABLE_SAID, position
        for kind in (GET_CERT, GET_CRL):
            told = {
                mallory.ask(kind, with_ciphertext(seen, lambda iv, octets, at=at: (iv, octets[at : at + 32])))
                for at in range(0, length - 16, 16)
            }
            well_formed = mallory.ask(kind, mallory.envelope(identifier(foreign).dump()))
            assert told == {well_formed}, "nor whether it has the form of an identifier"
            assert well_formed.fail_info == "4"


def test_what_was_wrong_inside_stands_in_the_log_alone(wire: Wire) -> None:
    with logged() as lines:
        assert wire.ask(PKCS_REQ, wire.envelope(wire.csr().replace(RSA_KEY, UNKNOWN_KEY))) == UNREADABLE_SAID
    (line,) = lines
    assert f"BAD_MESSAGE_CHECK: {UNREADABLE} (the public key cannot be used: Unknown key type" in line


def test_the_log_says_why_there_was_no_answer_in_the_protocol(scep: World, wire: Wire) -> None:
    with logged() as lines:
        assert wire.post(b"\x30\x00").http == 400
        nameless = wire.attributes(PKCS_REQ, b"x")
        del nameless[2]
        assert wire.ask(PKCS_REQ, b"x", attributes=nameless).http == 400
        scep.curl(f"{scep.base}/nowhere?operation=GetCACaps", status=404)
        scep.curl(f"{scep.base}/device?operation=GetCA", status=400)
    said = ("CMS ContentInfo", "a transactionID", "no template named 'nowhere'", "operation must be")
    assert [text in line for text, line in zip(said, lines, strict=True)] == [True] * 4, lines


def altered(wire: Wire, where: str, position: int) -> bytes | None:
    """A message with one octet altered, in what is signed before it is signed; None after the last octet."""
    inside = {"request": wire.csr("wrong"), "identifier": identifier(wire.ra).dump()}.get(where, b"")
    envelope = wire.envelope(inside or wire.csr("wrong"))
    whole = {"message": wire.message(PKCS_REQ, envelope), "envelope": envelope, "certificate": wire.certificate}
    octets = whole.get(where, inside)
    if position >= len(octets):
        return None
    octets = changed(octets, position, (1, 0x80, 0xFF)[position % 3])
    match where:
        case "message":
            return octets
        case "envelope":
            return wire.message(PKCS_REQ, octets)
        case "certificate":
            return wire.message(PKCS_REQ, envelope).replace(wire.certificate, octets)
    return wire.message(PKCS_REQ if where == "request" else GET_CRL, wire.envelope(octets))


@pytest.mark.parametrize("where", ["message", "envelope", "certificate", "request", "identifier"])
def test_an_octet_altered_anywhere_ends_in_a_clean_refusal(wire: Wire, where: str) -> None:
    position, wire.transaction = 0, f"altered-{where}"
    with logged() as lines:
        while (message := altered(wire, where, position)) is not None:
            before = len(lines)
            said = wire.post(message)
            assert said.clean, (position, said)
            assert not said.granted
            assert len(lines) == before + 1, lines[before:]
            position += 11


def pss(digest: str, salt: int) -> Any:
    """RSASSA-PSS with its parameters."""
    algorithm = {"algorithm": digest}
    mask = {"algorithm": "mgf1", "parameters": algorithm}
    parameters = {"hash_algorithm": algorithm, "mask_gen_algorithm": mask, "salt_length": salt}
    return {"algorithm": "rsassa_pss", "parameters": parameters}


def test_a_signature_that_the_signers_key_has_no_room_for(wire: Wire, tmp_path: Path) -> None:
    command = "openssl req -x509 -newkey rsa:512 -nodes -keyout key -subj /CN=small -outform DER -out small"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    small = {"certificate": (tmp_path / "small").read_bytes(), "sign": lambda _data: bytes(64)}
    with logged():
        said = wire.ask(PKCS_REQ, wire.envelope(wire.csr()), algorithm=pss("sha512", 32), **small)
    assert (said.fail_info, "does not suit the signer's key" in str(said.text)) == ("0", True)


def test_anchor_38_a_certificate_of_the_same_name_and_number_is_not_the_signers(scep: World) -> None:
    alice, mallory = Wire(scep, common_name="alice"), Wire(scep, common_name="alice")
    numbers = {x509.load_der_x509_certificate(one.certificate).serial_number for one in (alice, mallory)}
    assert len(numbers) == 1
    envelope = alice.envelope(alice.fresh())
    said = alice.ask(PKCS_REQ, envelope, certificates=(mallory.certificate,))
    assert (said.status, said.fail_info) == (str(FAILURE), str(BAD_CHECK))
    assert alice.ask(PKCS_REQ, envelope, certificates=(alice.certificate,)).granted
    stripped = cms.ContentInfo.load(alice.message(PKCS_REQ, envelope))
    stripped["content"]["signer_infos"] = []
    assert alice.post(stripped.dump(force=True)).http == 400


def test_forms_that_clients_choose_among(wire: Wire) -> None:
    own = extension_value(wire.ra, x509.SubjectKeyIdentifier)
    assert own is not None
    rid = cms.RecipientIdentifier({"subject_key_identifier": own.digest})
    assert wire.ask(PKCS_REQ, wire.envelope(wire.fresh(), rid=rid)).granted
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    by_pss = {"algorithm": pss("sha256", 32), "sign": lambda data: wire.key.sign(data, scheme, hashes.SHA256())}
    assert wire.ask(PKCS_REQ, wire.envelope(wire.fresh()), **by_pss).granted
    ra = wire.ra.public_bytes(Encoding.DER)
    assert wire.ask(PKCS_REQ, wire.envelope(wire.fresh()), certificates=(ra, wire.certificate)).granted


@pytest.mark.parametrize("kind", [_ASN1Type.PrintableString, _ASN1Type.BMPString, _ASN1Type.T61String])
def test_a_signer_whose_issuer_is_written_in_another_kind_of_string(wire: Wire, kind: _ASN1Type) -> None:
    own = x509.load_der_x509_certificate(wire.certificate)
    written = x509.Name([x509.NameAttribute(one.oid, one.value, _type=kind) for one in own.issuer])
    assert written == own.issuer
    assert written.public_bytes() != own.issuer.public_bytes()
    issuer = {"issuer": asn1_x509.Name.load(written.public_bytes()), "serial_number": own.serial_number}
    sid = cms.SignerIdentifier({"issuer_and_serial_number": issuer})
    assert wire.ask(PKCS_REQ, wire.envelope(wire.fresh()), sid=sid).granted


@pytest.mark.parametrize(
    "query", ["", "operation=Nothing", "operation=PKIOperation", "operation=PKIOperation&message=%00", "operation=%ff"]
)
def test_queries_that_ask_for_nothing(scep: World, query: str) -> None:
    scep.curl(f"{scep.base}/device?{query}", status=400)


def test_a_template_may_keep_its_reasons_to_itself(scep: World) -> None:
    device = scep.device("curious", at="quiet")
    answer = device.enroll("wrong")
    assert (answer.status, answer.fail_info, answer.fail_text) == (FAILURE, BAD_REQUEST, "")
    assert FAIL_TEXT not in str(answer)


@pytest.mark.parametrize(("digest", "cipher"), [("sha1", "-des3"), ("md5", "-des3")])
def test_a_device_that_knows_old_algorithms_only_uses_them_throughout(scep: World, digest: str, cipher: str) -> None:
    device = scep.device("relic", at="legacy")
    algorithm = LegacyAlgorithm(digest)
    before = scep.metrics.legacy_count("legacy", algorithm)
    request = device.csr(scep.code("legacy"), digest=digest)
    with logged() as lines:
        answer = device.ask(PKCS_REQ, device.envelope(request, cipher), digest=digest)
    for line, used in zip(lines, (digest, "des3"), strict=True):
        assert f"{used} used, which template legacy allows" in line
    assert len(device.certificates(answer)) == 1
    assert scep.metrics.legacy_count("legacy", algorithm) == before + 1, "once for a message"


@pytest.mark.parametrize("digest", ["sha1", "md5"])
def test_an_old_digest_in_the_request_alone_is_one_too(scep: World, digest: str) -> None:
    device, code = scep.device("half"), scep.code()
    answer = device.enroll(code, digest=digest)
    assert (answer.status, answer.fail_info) == (FAILURE, BAD_ALG)
    assert f"{digest.upper()} is not accepted for template device" in answer.fail_text
    forged = bytearray(device.csr(code, digest=digest))
    forged[-1] ^= 1
    assert device.ask(PKCS_REQ, device.envelope(bytes(forged))).fail_info == BAD_CHECK
    assert device.enroll(code).status == SUCCESS, "and nothing was spent"


@pytest.mark.parametrize(("digest", "brings"), [("sha1", True), ("sha256", False)])
def test_a_content_key_may_be_encrypted_by_oaep_as_far_as_the_token_knows_it(
    scep: World, digest: str, brings: bool
) -> None:
    device = scep.device("padded")
    device.ca()
    chosen = ("rsa_padding_mode:oaep", f"rsa_oaep_md:{digest}", f"rsa_mgf1_md:{digest}")
    options = [part for one in chosen for part in ("-keyopt", one)]
    command = ("-encrypt", "-binary", "-aes256", "-outform", "DER", "-recip", "ra.pem", *options)
    answer = device.ask(PKCS_REQ, device.openssl("cms", *command, data=device.csr(scep.code())))
    assert (answer.status, answer.fail_info) == ((SUCCESS, None) if brings else (FAILURE, BAD_CHECK))


def test_what_brings_no_certificate_is_verified_by_clients_that_want_content(scep: World) -> None:
    """OpenSSL's PKCS7_verify takes absent content for content that it was not given: certmonger, for one, uses it."""
    device = scep.device("strict", at="approved")
    for answer in (device.enroll(), scep.device("stricter").enroll("wrong")):
        assert (answer.status in {PENDING, FAILURE}, answer.envelope) == (True, None)
        (device.folder / "answer").write_bytes(answer.raw)
        command = ("smime", "-verify", "-inform", "DER", "-in", "answer", "-CAfile", "ca.pem", "-purpose", "any")
        assert device.openssl(*command, "-binary") == b""
