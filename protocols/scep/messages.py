"""SCEP's wire: the path and query of a request, pkiMessages and their attributes, what goes back (RFC 8894).

Nothing here decides or waits. Reading says what is wrong with the public parts of a message; what is encrypted is for
:mod:`protocols.scep.service`.
"""

from __future__ import annotations

import base64
import binascii
import enum
import re
from urllib.parse import unquote_to_bytes

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509 import ObjectIdentifier

from pkiserver.authority.certparts import issuer_octets
from pkiserver.authority.oldstrings import load_certificate
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.unreadable import UNREADABLE
from protocols.cms import oids
from protocols.cms.ber import BerLimits, header, malformed, only_child
from protocols.cms.messages import (
    EncapsulatedContentInfo,
    IssuerAndSerialNumber,
    SignedData,
    content_info,
    decode,
    octets,
    set_tlv,
    tlv,
)
from protocols.cms.signing import attribute
from protocols.cms.verification import Attributes, SignedMessage, Signer, parse_signed

MESSAGE_TYPE = "2.16.840.1.113733.1.9.2"
PKI_STATUS = "2.16.840.1.113733.1.9.3"
FAIL_INFO = "2.16.840.1.113733.1.9.4"
SENDER_NONCE = "2.16.840.1.113733.1.9.5"
RECIPIENT_NONCE = "2.16.840.1.113733.1.9.6"
TRANSACTION_ID = "2.16.840.1.113733.1.9.7"
FAIL_INFO_TEXT = "1.3.6.1.5.5.7.24.1"

MESSAGE_MEDIA_TYPE = "application/x-pki-message"
CA_MEDIA_TYPE = "application/x-x509-ca-cert"
CHAIN_MEDIA_TYPE = "application/x-x509-ca-ra-cert"
NEXT_CA_MEDIA_TYPE = "application/x-x509-next-ca-cert"

DER = serialization.Encoding.DER
NONCE_OCTETS = 16
MAX_TRANSACTION_ID = 255
MAX_FAILURE_TEXT = 500
LIMITS = BerLimits(octets=128 * 1024)
_MAX_ECHOED_NONCE = 64
_MAX_CERTIFICATES = 8
_CHARACTER_STRINGS = frozenset({b"\x0c", b"\x13", b"\x14", b"\x16"})
_NUMBER = re.compile(rb"[1-9][0-9]{0,9}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*={0,2}")


class Operation(enum.StrEnum):
    """What the query asks for (RFC 8894 section 4), lower case: clients differ in it."""

    GET_CA_CERT = "getcacert"
    GET_CA_CAPS = "getcacaps"
    GET_NEXT_CA_CERT = "getnextcacert"
    PKI_OPERATION = "pkioperation"


class MessageType(enum.IntEnum):
    """messageType (RFC 8894 section 3.2.1.2)."""

    CERT_REP = 3
    RENEWAL_REQ = 17
    PKCS_REQ = 19
    CERT_POLL = 20
    GET_CERT = 21
    GET_CRL = 22


REQUESTS = frozenset(MessageType) - {MessageType.CERT_REP}
"""The types that a client may send; every other number is refused."""


class PkiStatus(enum.IntEnum):
    """pkiStatus (RFC 8894 section 3.2.1.3)."""

    SUCCESS = 0
    FAILURE = 2
    PENDING = 3


class FailInfo(enum.IntEnum):
    """failInfo (RFC 8894 section 3.2.1.4)."""

    BAD_ALG = 0
    BAD_MESSAGE_CHECK = 1
    BAD_REQUEST = 2
    BAD_TIME = 3
    BAD_CERT_ID = 4


@attrs.frozen
class Query:
    """A query string, read; ``operation`` is None where it names none that there is."""

    operation: Operation | None
    message: bytes | None = attrs.field(default=None, repr=False)


def parse_query(query: str) -> Query:
    """Read ``operation=...&message=...``. Names and operations count without case; ``message`` stays undecoded."""
    found: dict[str, bytes] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        found.setdefault(name.lower(), unquote_to_bytes(value))
    asked = found.get("operation", b"").decode("ascii", "replace").lower()
    operation = Operation(asked) if asked in Operation.__members__.values() else None
    return Query(operation, found.get("message"))


def decode_message(text: bytes) -> bytes:
    """The octets of a ``message`` parameter: base64, percent-decoded already, whatever the client left unescaped.

    A plus sign stays one, and a blank was one before something on the way took it for a form's; line ends are dropped,
    and missing padding is added.

    Raises:
        Rejected: empty, or not base64.
    """
    packed = text.replace(b" ", b"+").translate(None, b"\r\n\t").rstrip(b"=")
    if not packed or not _BASE64.fullmatch(packed):
        raise malformed("the message parameter is not base64 (RFC 8894 section 4.1)")
    try:
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except binascii.Error as error:
        raise malformed("the base64 of the message parameter is truncated") from error


@attrs.frozen
class PkiMessage:
    """A pkiMessage as it came; nothing in it is verified.

    ``kind`` is None for a type that no client may send, whose text is in ``kind_text``. ``nonce`` is the senderNonce,
    of whatever length. ``certificate`` is the signer's, None where it is not in the message; ``issuer`` is its issuer's
    DER where cryptography cannot read that as it is written.
    """

    signed: SignedMessage = attrs.field(repr=False)
    signer: Signer = attrs.field(repr=False)
    kind: MessageType | None
    kind_text: str
    transaction_id: str
    nonce: bytes | None
    certificate: x509.Certificate | None
    public_key: CertificatePublicKeyTypes | None = attrs.field(repr=False)
    issuer: bytes | None = attrs.field(repr=False)

    @property
    def envelope(self) -> bytes | None:
        """The pkcsPKIEnvelope, undecoded; None where there is none."""
        return self.signed.content or None


def parse_message(data: bytes) -> PkiMessage:
    """Read a pkiMessage, BER or DER.

    Raises:
        Rejected: it is none, or has no transaction ID to answer it under.
    """
    signed = parse_signed(data, LIMITS)
    if signed.content_type != oids.DATA:
        raise malformed("the content of a pkiMessage is of type data (RFC 8894 section 3.2)")
    if len(signed.certificates) > _MAX_CERTIFICATES:
        raise Rejected.because(Refusal.LIMIT, "the message carries too many certificates")
    signer = signed.only_signer()
    transaction_id = _text(signer.signed, TRANSACTION_ID)
    if not transaction_id or len(transaction_id) > MAX_TRANSACTION_ID or not transaction_id.isprintable():
        raise malformed(f"a transactionID of 1 to {MAX_TRANSACTION_ID} printable characters is needed")
    kind_text = _text(signer.signed, MESSAGE_TYPE) or ""
    certificate, public_key, issuer = _signer_certificate(signed, signer)
    return PkiMessage(
        signed=signed,
        signer=signer,
        kind=_kind(kind_text),
        kind_text=kind_text[:16] if kind_text.isprintable() else "?",
        transaction_id=transaction_id,
        nonce=_nonce(signer.signed),
        certificate=certificate,
        public_key=public_key,
        issuer=issuer,
    )


def _kind(text: str) -> MessageType | None:
    if not _NUMBER.fullmatch(text.encode("latin-1", "replace")):
        return None
    number = int(text)
    return MessageType(number) if number in REQUESTS else None


def _text(attributes: Attributes, oid: str) -> str | None:
    """The ASCII text of an attribute; PrintableString by the RFC, other character strings by some clients."""
    value = attributes.single(oid)
    if value is None:
        return None
    element = only_child(value)
    if element.tag not in _CHARACTER_STRINGS or not element.content.isascii():
        raise malformed("an attribute of the message is not a character string")
    return element.content.decode("ascii")


def _nonce(attributes: Attributes) -> bytes | None:
    value = attributes.single(SENDER_NONCE)
    if value is None:
        return None
    element = only_child(value)
    return element.content[:_MAX_ECHOED_NONCE] if element.tag == b"\x04" else None


def _signer_certificate(
    signed: SignedMessage, signer: Signer
) -> tuple[x509.Certificate | None, CertificatePublicKeyTypes | None, bytes | None]:
    """The signer's certificate, its key, and its issuer's octets where they alone tell whose it is.

    One that cannot be read is passed over: it may be another's.
    """
    for der in signed.certificates:
        try:
            certificate = load_certificate(der)
            if _is_signed_by(signer, certificate):
                return certificate, certificate.public_key(), None
            if certificate.serial_number == signer.serial and issuer_octets(der) == signer.issuer:
                return certificate, certificate.public_key(), signer.issuer
        except UNREADABLE:
            continue
    return None, None, None


def _is_signed_by(signer: Signer, certificate: x509.Certificate) -> bool:
    try:
        return signer.is_signed_by(certificate)
    except UNREADABLE:  # its issuer's name, or its extensions
        return False


@attrs.frozen
class Reply:
    """What a CertRep says (RFC 8894 section 3.3.2). ``nonce`` is the request's senderNonce, ``fresh`` our own."""

    status: PkiStatus
    transaction_id: str
    nonce: bytes | None
    fresh: bytes
    fail_info: FailInfo | None = None
    fail_text: str = ""

    def attributes(self) -> tuple[bytes, ...]:
        """The DER Attributes to sign, beside those of CMS."""
        found = [
            attribute(TRANSACTION_ID, _printable(self.transaction_id)),
            attribute(MESSAGE_TYPE, _printable(str(int(MessageType.CERT_REP)))),
            attribute(PKI_STATUS, _printable(str(int(self.status)))),
            attribute(SENDER_NONCE, octets(self.fresh)),
        ]
        if self.nonce is not None:
            found.append(attribute(RECIPIENT_NONCE, octets(self.nonce)))
        if self.fail_info is not None:
            found.append(attribute(FAIL_INFO, _printable(str(int(self.fail_info)))))
        if self.fail_text:
            found.append(attribute(FAIL_INFO_TEXT, octets(self.fail_text[:MAX_FAILURE_TEXT])))
        return tuple(found)


def _printable(text: str) -> bytes:
    """A DER PrintableString; the client's own characters are given back as they came."""
    return header(b"\x13", len(text)) + text.encode("ascii")


def ordered_certificates(certificates: tuple[bytes, ...]) -> bytes:
    """A certs-only ContentInfo (RFC 8894 section 3.4) that keeps the order of its certificates.

    DER would sort them; clients exist that take the first for the one that counts.
    """
    signed = SignedData(
        version=1,
        digest_algorithms=set_tlv(()),
        encap_content_info=EncapsulatedContentInfo(content_type=ObjectIdentifier(oids.DATA), content=None),
        certificates=[tlv(one) for one in dict.fromkeys(certificates)],
        crls=None,
        signer_infos=set_tlv(()),
    )
    return content_info(oids.SIGNED_DATA, octets(signed))


@attrs.frozen
class CertificateId:
    """IssuerAndSerialNumber, the content of GetCert and GetCRL (RFC 8894 section 3.3.4)."""

    issuer: x509.Name
    serial: int


_NO_CERTIFICATE = CertificateId(x509.Name(()), 0)


def parse_certificate_id(data: bytes) -> CertificateId:
    """Read an IssuerAndSerialNumber.

    What is none names no certificate. Its sender may have made it of another's envelope, and is told no more than that.
    """
    try:
        found = decode(IssuerAndSerialNumber, data, "IssuerAndSerialNumber")
        return CertificateId(x509.Name.from_bytes(octets(found.issuer)), found.serial_number)
    except (Rejected, *UNREADABLE):
        return _NO_CERTIFICATE
