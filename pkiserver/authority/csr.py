"""PKCS#10 certification requests (RFC 2986): bounded reading with proof of possession, and the request of a CA of ours.

Reading collects every reason. Nothing that a request asks for is believed here: it becomes :class:`Wishes`.
"""

from __future__ import annotations

import base64
import binascii
import textwrap
from collections.abc import Iterable

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import AttributeOID

from pkiserver.authority.csrproof import OldDigest, is_proved, old_digest
from pkiserver.authority.extensions import Extension, encode_extension
from pkiserver.authority.oldstrings import read_name, retagged
from pkiserver.authority.requests import (
    ProofKind,
    ProofOfPossession,
    RequestedExtension,
    Wishes,
    spki_der,
)
from pkiserver.foundation import der
from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.foundation.unreadable import UNREADABLE

MAXIMUM_OCTETS = 65536
MAXIMUM_EXTENSIONS = 64
MAXIMUM_SANS = 1024
_EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
_MICROSOFT_EXTENSIONS = "1.3.6.1.4.1.311.2.1.14"
_RSA_ENCRYPTION = der.object_identifier("1.2.840.113549.1.1.1")
_RESTRICTED = (
    "the RSA key is for one scheme only (RSASSA-PSS or RSAES-OAEP, RFC 4055), and certificates here say rsaEncryption, "
    "which would lift that: ask for it with an rsaEncryption key, which may sign with RSASSA-PSS too"
)
"""The library reads such keys as any other; to certify one as rsaEncryption is to certify another key (RFC 5756)."""
_WIDE = {der.BMP_STRING: "utf-16-be", der.UNIVERSAL_STRING: "utf-32-be"}
_PEM_LABELS = (b"-----BEGIN CERTIFICATE REQUEST-----", b"-----BEGIN NEW CERTIFICATE REQUEST-----")


@attrs.frozen
class ParsedRequest:
    """A PKCS#10 request whose proof of possession has been verified.

    ``spki`` is the DER SubjectPublicKeyInfo in our encoding, ``subject_der`` the subject's octets as received,
    ``old_digest`` what the request's signature is over where that is SHA-1 or MD5.
    """

    der: bytes = attrs.field(repr=False)
    public_key: CertificatePublicKeyTypes
    spki: bytes = attrs.field(repr=False)
    subject_der: bytes = attrs.field(repr=False)
    wishes: Wishes
    challenge_password: Secret | None
    proof: ProofOfPossession
    old_digest: OldDigest | None = None


def decode_text(data: bytes) -> bytes:
    """The DER of a request given as PEM, as bare base64 or as DER; raises :class:`Rejected`."""
    stripped = data.strip()
    if stripped.startswith(b"\x30") and not stripped.isascii():
        return data
    if stripped.startswith(b"-----BEGIN"):
        label = next((label for label in _PEM_LABELS if stripped.startswith(label)), None)
        if label is None:
            raise Rejected.because(Refusal.MALFORMED, "the PEM text is not a CERTIFICATE REQUEST")
        stripped = stripped[len(label) :].split(b"-----END", 1)[0]
    try:
        return base64.b64decode(b"".join(stripped.split()), validate=True)
    except binascii.Error:
        raise Rejected.because(Refusal.MALFORMED, "the certification request is neither DER nor base64") from None


def encode_text(data: bytes) -> str:
    """A DER request as PEM (RFC 7468 section 7), octet for octet as it came."""
    lines = "\n".join(textwrap.wrap(base64.b64encode(data).decode(), 64))
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{lines}\n-----END CERTIFICATE REQUEST-----\n"


def parse_request(
    data: bytes, *, maximum: int = MAXIMUM_OCTETS, old_digests: bool = False, latin1: bool = False
) -> ParsedRequest:
    """Decode a DER PKCS#10 request and verify its signature.

    Args:
        data: the request.
        maximum: in octets, looked at before anything is decoded.
        old_digests: whether SHA-1 and MD5 will do in its signature; the caller judges then by what is returned.
        latin1: whether what is neither ASCII nor UTF-8 in its subject is ISO 8859-1.

    Raises:
        Rejected: with every reason.
    """
    if len(data) > maximum:
        raise Rejected.because(Refusal.LIMIT, f"the certification request has {len(data)} octets, more than {maximum}")
    try:
        request = load_request(data)
        subject_octets = _subject_octets(data)
    except UNREADABLE as error:
        raise Rejected.because(Refusal.MALFORMED, f"not a PKCS#10 certification request: {_line(error)}") from None
    reasons: list[Reason] = []
    public_key = _public_key(request, data, reasons)
    subject = _subject(request, subject_octets, reasons, latin1=latin1)
    digest = None if reasons else old_digest(request)
    if digest is not None and not old_digests:
        text = f"a request that is signed over {digest.upper()} is not accepted: sign it over SHA-256"
        reasons.append(Reason(Refusal.BAD_ALGORITHM, text))
    extensions = _extensions(data, reasons)
    sans = _sans(request, reasons)
    password = _challenge_password(data, reasons)
    if public_key is None or reasons:
        raise Rejected(reasons)
    return ParsedRequest(
        der=data,
        public_key=public_key,
        spki=spki_der(public_key),
        subject_der=subject_octets,
        wishes=Wishes(subject, sans, extensions),
        challenge_password=password,
        proof=ProofOfPossession(ProofKind.CSR_SIGNATURE, verified=True),
        old_digest=digest,
    )


def load_request(data: bytes) -> x509.CertificateSigningRequest:
    """A DER request, decoded, in spite of what clients get wrong.

    strongSwan leaves the SET OF attributes as it happens to be; for strings see :mod:`pkiserver.authority.oldstrings`.
    Then what cryptography says of the signature is not true of ``data``.

    Raises:
        ValueError: it is none. And what else :data:`UNREADABLE` names.
    """
    try:
        return x509.load_der_x509_csr(data)
    except ValueError:
        mended = _mended(data)
        if mended == data:
            raise
        return x509.load_der_x509_csr(mended)


def _mended(data: bytes) -> bytes:
    """The request with readable strings, and its attributes in DER order (X.690 section 11.6).

    Raises:
        ValueError: it is no request.
    """
    info, *rest = der.children(data, der.whole(data), at_most=3)
    *fields, attributes = der.children(data, info, at_most=4)
    _, subject, _ = fields
    data = retagged(data, subject)
    found = sorted(data[one.start : one.end] for one in der.children(data, attributes))
    signed = der.sequence(*(data[one.start : one.end] for one in fields), der.tlv(attributes.tag, *found))
    return der.sequence(signed, *(data[one.start : one.end] for one in rest))


def _line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:200] or type(error).__name__


def _info(data: bytes) -> der.Element:
    """The CertificationRequestInfo, which is what is signed."""
    outer = der.element(data)
    return der.element(data, outer.body, outer.end)


def _subject_octets(data: bytes) -> bytes:
    subject = der.children(data, _info(data))[1]
    return data[subject.start : subject.end]


def _subject(
    request: x509.CertificateSigningRequest, octets: bytes, reasons: list[Reason], *, latin1: bool
) -> x509.Name | None:
    try:
        found = _readable(request, octets, latin1=latin1)
    except UNREADABLE as error:
        reasons.append(Reason(Refusal.BAD_SUBJECT, f"the subject cannot be read: {_line(error)}"))
        return None
    return found if found.rdns else None


def _readable(request: x509.CertificateSigningRequest, octets: bytes, *, latin1: bool) -> x509.Name:
    try:
        return request.subject
    except UNREADABLE:
        return read_name(octets, latin1=latin1)


def subject_text(data: bytes) -> str:
    """The subject of a request that has been let in, as RFC 4514 text; raises one of :data:`UNREADABLE`."""
    return _readable(load_request(data), _subject_octets(data), latin1=True).rfc4514_string()


def _public_key(
    request: x509.CertificateSigningRequest, data: bytes, reasons: list[Reason]
) -> CertificatePublicKeyTypes | None:
    try:
        public_key = request.public_key()
    except UNREADABLE as error:
        reasons.append(Reason(Refusal.BAD_KEY, f"the public key cannot be used: {_line(error)}"))
        return None
    try:
        info = _info(data)
        valid = _is_in_octets(data) and is_proved(request, public_key, data[info.start : info.end])
        restricted = isinstance(public_key, rsa.RSAPublicKey) and _key_algorithm(data, info) != _RSA_ENCRYPTION
    except UNREADABLE as error:
        reasons.append(Reason(Refusal.BAD_PROOF, f"the request's signature cannot be checked: {_line(error)}"))
    else:
        if not valid:
            reasons.append(Reason(Refusal.BAD_PROOF, "the request's signature is not by its own key"))
        if restricted:
            reasons.append(Reason(Refusal.BAD_ALGORITHM, _RESTRICTED))
    return public_key


def _is_in_octets(data: bytes) -> bool:
    """Whether the signature is said to have no unused bits: the library takes one with a last bit of zero for less."""
    signature = der.children(data, der.whole(data))[2]
    return data[signature.body] == 0


def _key_algorithm(data: bytes, info: der.Element) -> bytes:
    """The DER OBJECT IDENTIFIER that the key is for; raises :class:`der.NotDer`."""
    spki = der.children(data, info)[2]
    oid = der.children(data, der.children(data, spki)[0])[0]
    return data[oid.start : oid.end]


def _extensions(data: bytes, reasons: list[Reason]) -> tuple[RequestedExtension, ...]:
    try:
        found = [
            extension
            for value in _attribute_values(data, _EXTENSION_REQUEST, _MICROSOFT_EXTENSIONS)
            for extension in _raw_extensions(data[value.body : value.end])
        ]
    except ValueError as error:
        reasons.append(Reason(Refusal.MALFORMED, f"the request's attributes cannot be read: {_line(error)}"))
        return ()
    if len(found) > MAXIMUM_EXTENSIONS:
        reasons.append(Reason(Refusal.LIMIT, f"the request asks for more than {MAXIMUM_EXTENSIONS} extensions"))
    if len({extension.oid for extension in found}) != len(found):
        reasons.append(Reason(Refusal.BAD_EXTENSION, "the request asks for the same extension twice"))
    return tuple(found)


def _raw_extensions(content: bytes) -> Iterable[RequestedExtension]:
    """Extensions (RFC 5280 section 4.1) from the contents of their SEQUENCE, values undecoded."""
    inside = der.Element(der.SEQUENCE, 0, 0, len(content))
    for element in der.children(content, inside, at_most=len(content)):
        fields = der.children(content, element)
        kinds = (element.tag, fields[0].tag, fields[-1].tag) if 2 <= len(fields) <= 3 else ()
        if kinds != (der.SEQUENCE, der.OBJECT_IDENTIFIER, der.OCTET_STRING):
            raise der.NotDer("not an Extension")
        oid = der.read_object_identifier(content[fields[0].body : fields[0].end])
        critical = len(fields) == 3 and content[fields[1].body : fields[1].end] != b"\0"
        yield RequestedExtension(oid, critical, content[fields[-1].body : fields[-1].end])


def _sans(request: x509.CertificateSigningRequest, reasons: list[Reason]) -> tuple[x509.GeneralName, ...]:
    try:
        names = tuple(request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return ()
    except UNREADABLE as error:
        reasons.append(Reason(Refusal.BAD_EXTENSION, f"the requested extensions cannot be read: {_line(error)}"))
        return ()
    if len(names) > MAXIMUM_SANS:
        reasons.append(Reason(Refusal.LIMIT, f"the request names more than {MAXIMUM_SANS} alternative names"))
    return names


def _challenge_password(data: bytes, reasons: list[Reason]) -> Secret | None:
    """As UTF-8, or as it came: it is a DirectoryString (RFC 2985 section 5.4.1), of which two kinds are wider."""
    try:
        found = _attribute_values(data, AttributeOID.CHALLENGE_PASSWORD.dotted_string)
        if len(found) > 1:
            reasons.append(Reason(Refusal.MALFORMED, "the request has more than one challengePassword"))
        if len(found) != 1:
            return None
        content = data[found[0].body : found[0].end]
        wide = _WIDE.get(found[0].tag)
        return Secret(content if wide is None else content.decode(wide).encode())
    except ValueError:
        if not reasons:
            reasons.append(Reason(Refusal.MALFORMED, "the request's attributes cannot be read"))
        return None


def _attribute_values(data: bytes, *oids: str) -> list[der.Element]:
    """The one value of each attribute of these types, in the request's order.

    Others may have as many as they like (RFC 2986 section 4.1).

    Raises:
        ValueError: one of these types has none, or several.
    """
    wanted = [der.object_identifier(oid) for oid in oids]
    found = []
    for attribute in der.children(data, der.children(data, _info(data))[3]):
        name, values = der.children(data, attribute, at_most=2)
        if data[name.start : name.end] in wanted:
            (value,) = der.children(data, values)
            found.append(value)
    return found


def unsigned_request(spki: bytes, wishes: Wishes) -> bytes:
    """Key and wishes as a DER PKCS#10 request with an empty signature, for :func:`read_unsigned`."""
    extensions = (
        x509.Extension(
            x509.ObjectIdentifier(one.oid),
            one.critical,
            x509.UnrecognizedExtension(x509.ObjectIdentifier(one.oid), one.value),
        )
        for one in wishes.extensions
    )
    subject = wishes.subject or x509.Name([])
    info = request_info(subject.public_bytes(), spki, extensions)
    return der.sequence(info, der.sequence(der.object_identifier("1.3.101.112")), der.bit_string(b""))


def read_unsigned(data: bytes) -> tuple[bytes, Wishes]:
    """The DER SubjectPublicKeyInfo and the wishes in what :func:`unsigned_request` made.

    Raises:
        Rejected: a name or an extension in it is none that a request may have.
    """
    request = x509.load_der_x509_csr(data)
    reasons: list[Reason] = []
    extensions, sans = _extensions(data, reasons), _sans(request, reasons)
    if reasons:
        raise Rejected(reasons)
    wishes = Wishes(request.subject if list(request.subject) else None, sans, extensions)
    return spki_der(request.public_key()), wishes


def request_info(subject_der: bytes, spki: bytes, extensions: Iterable[Extension]) -> bytes:
    """The DER CertificationRequestInfo (RFC 2986 section 4.1) that a key of ours signs to ask for a certificate."""
    wanted = b"".join(encode_extension(extension) for extension in extensions)
    attributes = b""
    if wanted:
        attributes = der.sequence(der.object_identifier(_EXTENSION_REQUEST), der.tlv(der.SET, der.sequence(wanted)))
    return der.sequence(der.integer(0), subject_der, spki, der.explicit(0, attributes))
