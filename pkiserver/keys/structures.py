"""What each door looks at before it signs: are these octets the door's own structure, and do they name the scheme?

Each check is a walk over the outer DER elements. The structures are told apart by it without doubt: no octets pass two
of these checks. A failure is :class:`WrongDoor`, our own defect, never the client's.
"""

from __future__ import annotations

from pkiserver.audit.chain import CHECKPOINT_PREFIX
from pkiserver.foundation import der
from pkiserver.keys.algorithms import SignatureScheme
from pkiserver.keys.faults import WrongDoor

CONTENT_TYPE, MESSAGE_DIGEST = (
    der.object_identifier("1.2.840.113549.1.9.3"),
    der.object_identifier("1.2.840.113549.1.9.4"),
)
TST_INFO_OID = "1.2.840.113549.1.9.16.1.4"

_TIMES = (der.UTC_TIME, der.GENERALIZED_TIME)
_VERSION_3 = b"\xa0\x03\x02\x01\x02"
_LARGEST_PKI_BODY = 26


def tbs_certificate(octets: bytes, scheme: SignatureScheme) -> None:
    """RFC 5280, 4.1: a version 3 TBSCertificate whose ``signature`` field is the scheme's AlgorithmIdentifier."""
    fields = _fields(octets, "a TBSCertificate")
    tags = [field.tag for field in fields]
    expected = [der.context(0), der.INTEGER, *[der.SEQUENCE] * 5]
    optional = tags[7:]
    allowed = (0x81, 0x82, der.context(3))
    if tags[:7] != expected or any(tag not in allowed for tag in optional) or optional != sorted(set(optional)):
        raise WrongDoor("not a TBSCertificate (RFC 5280, 4.1)")
    if octets[fields[0].start : fields[0].end] != _VERSION_3:
        raise WrongDoor("not a version 3 TBSCertificate")
    validity = _children(octets, fields[4], "a Validity")
    if [time.tag in _TIMES for time in validity] != [True, True] or not _is_names(octets, fields[3]):
        raise WrongDoor("not a TBSCertificate: no validity or no issuer name")
    _same_scheme(octets, fields[2], scheme)


def tbs_cert_list(octets: bytes, scheme: SignatureScheme) -> None:
    """RFC 5280, 5.1: a version 2 TBSCertList whose ``signature`` field is the scheme's AlgorithmIdentifier."""
    fields = _fields(octets, "a TBSCertList")
    tags = [field.tag for field in fields]
    fits = tags[:3] == [der.INTEGER, der.SEQUENCE, der.SEQUENCE] and len(tags) >= 4 and tags[3] in _TIMES
    rest = tags[4:]
    if fits and rest and rest[0] in _TIMES:
        rest = rest[1:]
    if not fits or rest not in ([], [der.SEQUENCE], [der.context(0)], [der.SEQUENCE, der.context(0)]):
        raise WrongDoor("not a TBSCertList (RFC 5280, 5.1)")
    if octets[fields[0].body : fields[0].end] != b"\x01" or not _is_names(octets, fields[2]):
        raise WrongDoor("not a version 2 TBSCertList with an issuer name")
    _same_scheme(octets, fields[1], scheme)


_RESPONSE_DATA = frozenset(
    (*version, responder, der.GENERALIZED_TIME, der.SEQUENCE, *extensions)
    for version in ((), (der.context(0),))
    for responder in (der.context(1), der.context(2))
    for extensions in ((), (der.context(1),))
)


def response_data(octets: bytes, _scheme: SignatureScheme | None = None) -> None:
    """RFC 6960, 4.2.1: ResponseData, which names no algorithm."""
    try:
        tags = der.tags(octets, at_most=5)
    except der.NotDer as error:
        raise WrongDoor(f"not a ResponseData: {error}") from error
    if tags not in _RESPONSE_DATA:
        raise WrongDoor("not a ResponseData (RFC 6960, 4.2.1)")


def certification_request_info(octets: bytes, own_spki: bytes) -> None:
    """RFC 2986, 4.1: CertificationRequestInfo about the key's own public half."""
    fields = _fields(octets, "a CertificationRequestInfo")
    if [field.tag for field in fields] != [der.INTEGER, der.SEQUENCE, der.SEQUENCE, der.context(0)]:
        raise WrongDoor("not a CertificationRequestInfo (RFC 2986, 4.1)")
    if not _is_names(octets, fields[1]):
        raise WrongDoor("not a CertificationRequestInfo: no subject name")
    if octets[fields[2].start : fields[2].end] != own_spki:
        raise WrongDoor("the certification request is about another public key")


def signed_attributes(octets: bytes, content_type: str) -> der.Element:
    """RFC 5652, 5.3 and 11: SignedAttributes (the DER SET OF) with the bound content type and one digest.

    Returns:
        The OCTET STRING of the digest.
    """
    try:
        outer = der.whole(octets, der.SET)
        attributes = der.children(octets, outer)
        pairs = [der.children(octets, attribute, at_most=2) for attribute in attributes]
    except der.NotDer as error:
        raise WrongDoor(f"not CMS SignedAttributes: {error}") from error
    shapes = [(attribute.tag, *(part.tag for part in pair)) for attribute, pair in zip(attributes, pairs, strict=True)]
    if any(shape != (der.SEQUENCE, der.OBJECT_IDENTIFIER, der.SET) for shape in shapes):
        raise WrongDoor("not CMS SignedAttributes (RFC 5652, 5.3)")
    encoded = [octets[attribute.start : attribute.end] for attribute in attributes]
    if encoded != sorted(encoded):
        raise WrongDoor("the signed attributes are not in DER order")
    values = [(octets[kind.start : kind.end], octets[value.body : value.end]) for kind, value in pairs]
    if [value for kind, value in values if kind == CONTENT_TYPE] != [der.object_identifier(content_type)]:
        raise WrongDoor(f"the signed content type is not {content_type}")
    digests = [value for kind, value in pairs if octets[kind.start : kind.end] == MESSAGE_DIGEST]
    found = _children(octets, digests[0], "a digest") if len(digests) == 1 else []
    if [one.tag for one in found] != [der.OCTET_STRING]:
        raise WrongDoor("the signed attributes have no message digest, or several")
    return found[0]


class SignedAttributesCheck:
    """:func:`signed_attributes` for one content type, for a key that signs thousands of times a second.

    What stood around the last digest is remembered. The same octets around another digest of the same length are the
    same structure, in the same order, and are not walked again.
    """

    def __init__(self, content_type: str) -> None:
        self._content_type = content_type
        self._length = -1
        self._before = self._after = b""

    def __call__(self, octets: bytes, _scheme: SignatureScheme | None = None) -> None:
        """Raises :class:`WrongDoor`."""
        if len(octets) == self._length and octets.startswith(self._before) and octets.endswith(self._after):
            return
        digest = signed_attributes(octets, self._content_type)
        self._before, self._after, self._length = octets[: digest.body], octets[digest.end :], len(octets)


def protected_part(octets: bytes, scheme: SignatureScheme) -> tuple[bytes, bytes]:
    """RFC 9810, 5.1.3: ProtectedPart (header and body), the header's protectionAlg being the scheme's.

    Returns:
        Header and body DER.
    """
    fields = _fields(octets, "a ProtectedPart")
    if len(fields) != 2 or fields[0].tag != der.SEQUENCE or fields[1].tag - 0xA0 not in range(_LARGEST_PKI_BODY + 1):
        raise WrongDoor("not PKIHeader and PKIBody (RFC 9810, 5.1)")
    header = _children(octets, fields[0], "a PKIHeader")
    tags = [field.tag for field in header]
    if tags[:1] != [der.INTEGER] or any(tag & 0xC0 != 0x80 for tag in tags[1:]) or len(tags) < 3:
        raise WrongDoor("not a PKIHeader (RFC 9810, 5.1.1)")
    algorithms = [field for field in header[3:] if field.tag == der.context(1)]
    if len(algorithms) != 1 or octets[algorithms[0].body : algorithms[0].end] != scheme.identifier:
        raise WrongDoor("the header's protectionAlg is not the scheme that is to sign")
    return octets[fields[0].start : fields[0].end], octets[fields[1].start : fields[1].end]


def checkpoint(octets: bytes, _scheme: SignatureScheme | None = None) -> None:
    """An audit checkpoint of ours: text that begins with :data:`CHECKPOINT_PREFIX` (no DER structure of X.509 does)."""
    if not octets.startswith(CHECKPOINT_PREFIX):
        raise WrongDoor("not an audit checkpoint")
    try:
        octets.decode()
    except UnicodeDecodeError as error:
        raise WrongDoor("an audit checkpoint is UTF-8 text") from error


def _fields(octets: bytes, what: str) -> list[der.Element]:
    try:
        return der.children(octets, der.whole(octets, der.SEQUENCE), at_most=12)
    except der.NotDer as error:
        raise WrongDoor(f"not {what}: {error}") from error


def _children(octets: bytes, parent: der.Element, what: str) -> list[der.Element]:
    try:
        return der.children(octets, parent)
    except der.NotDer as error:
        raise WrongDoor(f"not {what}: {error}") from error


def _is_names(octets: bytes, field: der.Element) -> bool:
    # An AlgorithmIdentifier is a SEQUENCE too, but of an OID; a Name is a SEQUENCE OF SET, and may be empty.
    return field.tag == der.SEQUENCE and (field.body == field.end or octets[field.body] == der.SET)


def _same_scheme(octets: bytes, field: der.Element, scheme: SignatureScheme) -> None:
    if octets[field.start : field.end] != scheme.identifier:
        raise WrongDoor(f"the inner AlgorithmIdentifier is not that of {scheme.name}")
