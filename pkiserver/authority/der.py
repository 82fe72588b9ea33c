"""Reading and splicing DER by octets, where an encoder's opinion is not wanted (X.690 section 8 and 10).

Names are compared and copied as octets (RFC 5280 section 7.1 lets implementations compare binary; a relying party
that does so must find the issuer's octets). cryptography re-encodes names from its own values, so this module finds
the octets in the encoding itself.
"""

from __future__ import annotations

import hashlib

import attrs

SEQUENCE = 0x30
VERSION = 0xA0
INTEGER = 0x02
BIT_STRING = 0x03


class DerError(ValueError):
    """The octets are not the DER that was expected."""


@attrs.frozen
class Element:
    """One tag-length-value: positions in the octets that were read."""

    tag: int
    start: int
    content: int
    end: int


def read(data: bytes, at: int = 0, limit: int | None = None) -> Element:
    """The element that starts at ``at``; it must end before ``limit``. Only low tag numbers, definite lengths."""
    end = len(data) if limit is None else limit
    if at + 2 > end:
        raise DerError("truncated element")
    tag, first = data[at], data[at + 1]
    if tag & 0x1F == 0x1F:
        raise DerError("high tag number")
    content = at + 2
    length = first
    if first >= 0x80:
        count = first & 0x7F
        if not 1 <= count <= 4 or content + count > end:
            raise DerError("bad length")
        length = int.from_bytes(data[content : content + count], "big")
        content += count
        if length < 0x80 or length >> (8 * (count - 1)) == 0:
            raise DerError("length is not minimal")
    if content + length > end:
        raise DerError("element runs past its container")
    return Element(tag, at, content, content + length)


def children(data: bytes, parent: Element) -> list[Element]:
    """The elements inside a constructed element, in order."""
    found = []
    at = parent.content
    while at < parent.end:
        element = read(data, at, parent.end)
        found.append(element)
        at = element.end
    return found


def wrap(tag: int, content: bytes) -> bytes:
    """An element with this tag around these octets."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


@attrs.frozen
class TbsParts:
    """Where the fields of a TBSCertificate lie (RFC 5280 section 4.1); ``tbs`` is the DER they lie in."""

    tbs: bytes
    serial: Element
    algorithm: Element
    issuer: Element
    subject: Element
    spki: Element

    def octets(self, element: Element) -> bytes:
        """The octets of one field, tag and length included."""
        return self.tbs[element.start : element.end]


def tbs_parts(tbs: bytes) -> TbsParts:
    """The fields of a DER TBSCertificate; raises :class:`DerError` when it is not one."""
    outer = read(tbs)
    if outer.tag != SEQUENCE or outer.end != len(tbs):
        raise DerError("not a TBSCertificate")
    fields = children(tbs, outer)
    if fields and fields[0].tag == VERSION:
        fields = fields[1:]
    if len(fields) < 6 or fields[0].tag != INTEGER:
        raise DerError("not a TBSCertificate")
    return TbsParts(tbs, fields[0], fields[1], fields[2], fields[4], fields[5])


def certificate_tbs(certificate: bytes) -> bytes:
    """The octets of the TBSCertificate inside a DER certificate."""
    outer = read(certificate)
    if outer.tag != SEQUENCE or outer.end != len(certificate):
        raise DerError("not a certificate")
    inner = read(certificate, outer.content, outer.end)
    return certificate[inner.start : inner.end]


def subject_octets(certificate: bytes) -> bytes:
    """The subject Name of a DER certificate, octet for octet."""
    parts = tbs_parts(certificate_tbs(certificate))
    return parts.octets(parts.subject)


def issuer_octets(certificate: bytes) -> bytes:
    """The issuer Name of a DER certificate, octet for octet."""
    parts = tbs_parts(certificate_tbs(certificate))
    return parts.octets(parts.issuer)


def replace_issuer(tbs: bytes, name: bytes) -> bytes:
    """The TBSCertificate with its issuer Name's octets replaced by ``name``."""
    outer = read(tbs)
    parts = tbs_parts(tbs)
    return wrap(SEQUENCE, tbs[outer.content : parts.issuer.start] + name + tbs[parts.issuer.end : outer.end])


def replace_subject(tbs: bytes, name: bytes) -> bytes:
    """The TBSCertificate with its subject Name's octets replaced by ``name`` (a CA keeps its DN when it is renewed)."""
    outer = read(tbs)
    parts = tbs_parts(tbs)
    return wrap(SEQUENCE, tbs[outer.content : parts.subject.start] + name + tbs[parts.subject.end : outer.end])


def subject_public_key(spki: bytes) -> bytes:
    """The octets of subjectPublicKey inside a DER SubjectPublicKeyInfo, without tag, length and unused bits."""
    outer = read(spki)
    fields = children(spki, outer)
    if len(fields) != 2 or fields[1].tag != BIT_STRING:
        raise DerError("not a SubjectPublicKeyInfo")
    return spki[fields[1].content + 1 : fields[1].end]


def key_identifier(spki: bytes) -> bytes:
    """The subject key identifier by RFC 7093 section 2 method 1: leftmost 160 bits of SHA-256 of subjectPublicKey."""
    return hashlib.sha256(subject_public_key(spki)).digest()[:20]


def object_identifier(content: bytes) -> str:
    """The dotted form of an OBJECT IDENTIFIER's contents; raises :class:`DerError` (X.690 section 8.19)."""
    if not content or content[-1] & 0x80 or len(content) > 64:
        raise DerError("bad object identifier")
    arcs, value, fresh = [], 0, True
    for octet in content:
        if fresh and octet == 0x80:
            raise DerError("bad object identifier")
        value = value << 7 | octet & 0x7F
        fresh = not octet & 0x80
        if fresh:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(str(arc) for arc in (first, arcs[0] - 40 * first, *arcs[1:]))


def encode_oid(dotted: str) -> bytes:
    """The DER OBJECT IDENTIFIER of a dotted form."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    octets = bytearray()
    for arc in (40 * first + second, *rest):
        group = [arc & 0x7F]
        while arc := arc >> 7:
            group.append(arc & 0x7F | 0x80)
        octets += bytes(reversed(group))
    return wrap(0x06, bytes(octets))
