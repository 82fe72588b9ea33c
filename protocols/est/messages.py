"""The wire forms of EST (RFC 7030, RFC 8951): paths, base64, HTTP Basic, request attributes, key with certificate.

Reading is lenient where RFC 8951 section 3.1 asks for it (white space inside base64) and strict elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import enum
import re
from typing import Annotated

import attrs
from cryptography.hazmat import asn1
from cryptography.x509 import ObjectIdentifier

from pkiserver.foundation.secret import Secret
from protocols.cms import oids
from protocols.cms.ber import children, malformed, only_child
from protocols.cms.messages import decode, octets
from protocols.cms.verification import Attributes, parse_attributes

PKCS10_TYPE = "application/pkcs10"
CERTS_ONLY_TYPE = "application/pkcs7-mime; smime-type=certs-only"
CSRATTRS_TYPE = "application/csrattrs"
CRLS_TYPE = "application/pkcs7-mime; smime-type=crls-only"
PKCS8_TYPE = "application/pkcs8"
SERVER_KEY_TYPE = "application/pkcs7-mime; smime-type=server-generated-key"
CHALLENGE_PASSWORD = "1.2.840.113549.1.9.7"  # noqa: S105 - an object identifier
CHANGE_SUBJECT_NAME = "1.3.6.1.5.5.7.7.36"

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*={0,2}")
_ARMOUR = re.compile(
    rb"-----BEGIN (?:NEW )?CERTIFICATE REQUEST-----(.*)-----END (?:NEW )?CERTIFICATE REQUEST-----", re.DOTALL
)
_WHITE_SPACE = b" \t\r\n"
_LINE = 64
_MAX_CREDENTIALS = 2048


class Operation(enum.StrEnum):
    """The operations of RFC 7030 section 3.2.2 and, of RFC 8295, ``crls``, by their path segment."""

    CACERTS = "cacerts"
    SIMPLEENROLL = "simpleenroll"
    SIMPLEREENROLL = "simplereenroll"
    FULLCMC = "fullcmc"
    SERVERKEYGEN = "serverkeygen"
    CSRATTRS = "csrattrs"
    CRLS = "crls"

    @property
    def method(self) -> str:
        """The one HTTP method of the operation."""
        return "GET" if self in {Operation.CACERTS, Operation.CSRATTRS, Operation.CRLS} else "POST"


@attrs.frozen
class Target:
    """What a path asks for; ``label`` is None where the path has none."""

    operation: Operation
    label: str | None


def parse_target(tail: str) -> Target | None:
    """The operation and label in what follows ``/.well-known/est/``, or None for a path that EST does not have."""
    label, _, last = tail.rpartition("/")
    if last not in Operation.__members__.values() or (label and not _LABEL.fullmatch(label)) or tail.startswith("/"):
        return None
    return Target(Operation(last), label or None)


class Base64Form(enum.StrEnum):
    """How base64 is written: no form serves every client.

    ``wrapped`` is MIME's (lines of 64 characters), which libest and ``openssl base64 -d`` want and RFC 7030 prescribed;
    ``single_line`` is RFC 4648's, which strongSwan 5.9.8 wants. ``auto`` decides by the User-Agent.
    """

    AUTO = "auto"
    WRAPPED = "wrapped"
    SINGLE_LINE = "single_line"

    def resolve(self, user_agent: str | None) -> Base64Form:
        """The form for one request. strongSwan sends no User-Agent at all; everybody else copes with lines."""
        if self is not Base64Form.AUTO:
            return self
        return Base64Form.WRAPPED if user_agent else Base64Form.SINGLE_LINE


def encode_base64(data: bytes, form: Base64Form) -> bytes:
    """``data`` as base64 text that ends with a line feed, which either kind of client takes."""
    text = base64.b64encode(data)
    if form is Base64Form.SINGLE_LINE:
        return text + b"\n"
    return b"".join(text[start : start + _LINE] + b"\n" for start in range(0, len(text), _LINE))


def decode_base64(text: bytes) -> bytes:
    """The octets in a request body: base64 with any white space, or the same inside PEM armour.

    Raises:
        Rejected: empty, or not base64 (``Refusal.MALFORMED``).
    """
    armour = _ARMOUR.search(text)
    packed = (armour.group(1) if armour else text).translate(None, _WHITE_SPACE)
    if not packed:
        raise malformed("the body is empty: expected a base64-encoded PKCS#10 request")
    if not _BASE64.fullmatch(packed):
        raise malformed("the body is not base64 (RFC 8951 section 3): a binary body must be encoded first")
    try:
        return base64.b64decode(packed, validate=True)
    except binascii.Error as error:
        raise malformed("the base64 of the body is truncated") from error


@attrs.frozen
class Credentials:
    """A user name, which may be empty, and a password, as HTTP Basic carries them (RFC 7617)."""

    name: str
    password: Secret


def parse_basic(values: tuple[str, ...]) -> Credentials | None:
    """The credentials in the values of the Authorization header, or None where there is none of the Basic scheme.

    Raises:
        Rejected: more than one header, or Basic credentials that cannot be read (``Refusal.MALFORMED``).
    """
    if not values:
        return None
    if len(values) > 1:
        raise malformed("more than one Authorization header")
    scheme, _, rest = values[0].strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    packed = rest.strip().encode("latin-1", "replace")
    if len(packed) > _MAX_CREDENTIALS:
        raise malformed("the credentials of the Authorization header are too long")
    if not _BASE64.fullmatch(packed):
        raise malformed("the credentials of the Authorization header are not base64")
    try:
        name, colon, password = base64.b64decode(packed, validate=True).partition(b":")
        decoded = name.decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise malformed("the credentials of the Authorization header cannot be read") from error
    if not colon or b"\x00" in name or b"\x00" in password:
        raise malformed("the credentials of the Authorization header are not name:password")
    return Credentials(decoded, Secret(password))


@asn1.sequence
class RequestInfo:
    """CertificationRequestInfo (RFC 2986 section 4.1), only as far as EST looks into it."""

    version: int
    subject: asn1.TLV
    public_key_info: asn1.TLV
    attributes: Annotated[list[asn1.TLV], asn1.Implicit(0)]


@asn1.sequence
class CertificationRequest:
    """CertificationRequest (RFC 2986 section 4.2)."""

    info: RequestInfo
    signature_algorithm: asn1.TLV
    signature: asn1.BitString


@attrs.frozen
class RequestOutline:
    """What EST must know of a PKCS#10 request before anybody verifies it. Nothing here is proved.

    ``challenge_password`` is the text in that attribute, undecoded. ``capabilities`` are the OIDs of the
    SMIMECapabilities in the client's order, None where the attribute is absent.
    """

    subject: bytes
    attributes: Attributes
    challenge_password: bytes | None
    changes_subject: bool
    decrypt_key_id: bytes | None
    asymmetric_decrypt_key_id: bytes | None
    capabilities: tuple[str, ...] | None


def outline(der: bytes) -> RequestOutline:
    """Look into a DER PKCS#10 request. Raises :class:`Rejected` (malformed)."""
    info = decode(CertificationRequest, der, "PKCS#10 certification request").info
    attributes = parse_attributes(b"".join(octets(item) for item in info.attributes))
    return RequestOutline(
        subject=octets(info.subject),
        attributes=attributes,
        challenge_password=_text(attributes.single(CHALLENGE_PASSWORD)),
        changes_subject=bool(attributes.values(CHANGE_SUBJECT_NAME)),
        decrypt_key_id=_octet_string(attributes.single(oids.DECRYPT_KEY_ID)),
        asymmetric_decrypt_key_id=_octet_string(attributes.single(oids.ASYMM_DECRYPT_KEY_ID)),
        capabilities=_capabilities(attributes.single(oids.SMIME_CAPABILITIES)),
    )


def _text(der: bytes | None) -> bytes | None:
    """The content octets of a DirectoryString that must be ASCII."""
    if der is None:
        return None
    element = only_child(der)
    if element.tag not in {b"\x0c", b"\x13", b"\x14", b"\x16"}:
        raise malformed("a challengePassword that is not a character string")
    return element.content


def _octet_string(der: bytes | None) -> bytes | None:
    """The content of an OCTET STRING; OCTET STRING is the type of both key identifiers (RFC 4108, RFC 7030)."""
    return None if der is None else decode(bytes, der, "key identifier")


def _capabilities(der: bytes | None) -> tuple[str, ...] | None:
    """The OIDs of SMIMECapabilities (RFC 8551 section 2.5.2)."""
    if der is None:
        return None
    found = []
    for capability in children(only_child(der).content):
        first = next(children(capability.content), None)
        if capability.tag != b"\x30" or first is None:
            raise malformed("SMIMECapabilities that cannot be read")
        found.append(decode(ObjectIdentifier, first.whole, "capability").dotted_string)
    return tuple(found)


def key_and_certificate(key_type: str, key: bytes, certificate: bytes, boundary: str) -> bytes:
    """The multipart/mixed body of a serverkeygen answer (RFC 7030 section 4.4.2): the key, then the certificate.

    Args:
        key_type: media type of the key part.
        key: PKCS#8 or CMS DER.
        certificate: certs-only DER.
        boundary: a string that cannot occur in base64.
    """
    lines = [b"This is a multipart message in MIME format."]
    for media_type, data in ((key_type, key), (CERTS_ONLY_TYPE, certificate)):
        lines += [
            f"--{boundary}".encode(),
            f"Content-Type: {media_type}".encode(),
            b"Content-Transfer-Encoding: base64",
            b"",
            encode_base64(data, Base64Form.WRAPPED).rstrip(b"\n").replace(b"\n", b"\r\n"),
        ]
    return b"\r\n".join([*lines, f"--{boundary}--".encode(), b""])
