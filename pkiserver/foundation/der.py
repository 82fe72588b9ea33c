"""DER by octets (X.690 sections 8 and 10): strict reading by position, and writing fast enough for every answer.

For what a declared type is too slow for, or must not re-encode: names compared as octets, structures looked at before a
key signs them, lists written in a stream. Only low tag numbers and definite lengths, as all of PKIX has them; nothing
here calls itself. BER from clients is for ``protocols/cms``, LDAP's own BER for ``protocols/addressbook``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

INTEGER, BIT_STRING, OCTET_STRING, OBJECT_IDENTIFIER, ENUMERATED = 0x02, 0x03, 0x04, 0x06, 0x0A
UTF8_STRING, PRINTABLE_STRING, IA5_STRING, UNIVERSAL_STRING, BMP_STRING = 0x0C, 0x13, 0x16, 0x1C, 0x1E
UTC_TIME, GENERALIZED_TIME, SEQUENCE, SET = 0x17, 0x18, 0x30, 0x31
NULL_DER = b"\x05\x00"
TRUE = b"\x01\x01\xff"

_MOST_OID_OCTETS = 64
_MOST_ARC_BITS = 128
_UTC_TIME_ENDS = 2050
"""RFC 5280 section 4.1.2.5: UTCTime through the year 2049, GeneralizedTime from 2050."""


class NotDer(ValueError):
    """The octets are not strict DER (definite, shortest lengths; low tag numbers only), or another structure."""


class Element(NamedTuple):
    """One element inside ``data``: identifier octet, offset of the element, of its content, and of its end."""

    tag: int
    start: int
    body: int
    end: int


def context(number: int) -> int:
    """The identifier octet of a constructed context-specific tag ``[number]``; ``number`` below 31."""
    return 0xA0 | number


def element(data: bytes, start: int = 0, limit: int | None = None) -> Element:
    """The element at ``start``, which must end at or before ``limit`` (None: the data's end).

    Raises:
        NotDer: there is no such element.
    """
    if limit is None:
        limit = len(data)
    if start + 2 > limit:
        raise NotDer("truncated")
    tag, length, body = data[start], data[start + 1], start + 2
    if tag & 0x1F == 0x1F:
        raise NotDer("high tag number")
    if length & 0x80:
        octets = length & 0x7F
        body += octets
        if not 1 <= octets <= 4 or body > limit:
            raise NotDer("bad length")
        length = int.from_bytes(data[start + 2 : body], "big")
        if length < 0x80 or length >> (8 * (octets - 1)) == 0:
            raise NotDer("length is not the shortest")
    end = body + length
    if end > limit:
        raise NotDer("truncated")
    return Element(tag, start, body, end)


def whole(data: bytes, tag: int = SEQUENCE) -> Element:
    """The single element that ``data`` is; raises :class:`NotDer` when it is another, or something follows."""
    found = element(data)
    if found.tag != tag or found.end != len(data):
        raise NotDer(f"not one element of tag 0x{tag:02x}")
    return found


def children(data: bytes, parent: Element, *, at_most: int = 64) -> list[Element]:
    """The elements inside ``parent``, in order; raises :class:`NotDer`, also for more than ``at_most``."""
    found: list[Element] = []
    position = parent.body
    while position < parent.end:
        found.append(element(data, position, parent.end))
        position = found[-1].end
        if len(found) > at_most:
            raise NotDer("too many elements")
    return found


def tags(data: bytes, *, at_most: int) -> tuple[int, ...]:
    """The tags of what is in the one SEQUENCE that ``data`` is; raises as :func:`whole` and :func:`children`.

    For what is looked at thousands of times a second: nothing but tags and lengths is kept.
    """
    end = len(data)
    at = whole(data).body
    found: list[int] = []
    while at < end:
        tag = data[at]
        if at + 2 > end or tag & 0x1F == 0x1F or data[at + 1] & 0x80:
            at = element(data, at, end).end
        else:
            at += 2 + data[at + 1]
            if at > end:
                raise NotDer("truncated")
        found.append(tag)
        if len(found) > at_most:
            raise NotDer("too many elements")
    return tuple(found)


def starts(data: bytes, at: int, end: int, *, at_most: int) -> list[int]:
    """Where the elements between ``at`` and ``end`` start, and then ``end``; raises as :func:`children`.

    For what is looked at for every certificate: nothing but places is kept.
    """
    found = [at]
    while at < end:
        if at + 2 > end or data[at] & 0x1F == 0x1F or data[at + 1] & 0x80:
            at = element(data, at, end).end
        else:
            at += 2 + data[at + 1]
            if at > end:
                raise NotDer("truncated")
        if len(found) > at_most:
            raise NotDer("too many elements")
        found.append(at)
    return found


def read_object_identifier(content: bytes) -> str:
    """The dotted form of an OBJECT IDENTIFIER's contents; raises :class:`NotDer` (X.690 section 8.19)."""
    if not content or content[-1] & 0x80 or len(content) > _MOST_OID_OCTETS:
        raise NotDer("bad object identifier")
    arcs, value = [], 0
    for octet in content:
        if value == 0 and octet == 0x80:
            raise NotDer("bad object identifier")
        value = value << 7 | octet & 0x7F
        if value.bit_length() > _MOST_ARC_BITS:
            raise NotDer("bad object identifier")
        if octet < 0x80:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(str(arc) for arc in (first, arcs[0] - 40 * first, *arcs[1:]))


def read_utf8_string(data: bytes) -> str:
    """The text of the one UTF8String that ``data`` is, as otherNames hold it.

    Raises:
        NotDer: it is something else, or its octets are no UTF-8.
    """
    try:
        return data[whole(data, UTF8_STRING).body :].decode()
    except UnicodeDecodeError as error:
        raise NotDer("not UTF-8") from error


def header(tag: int, length: int) -> bytes:
    """Identifier and length octets of a value of ``length`` octets."""
    if length < 0x80:
        return b"%c%c" % (tag, length)
    if length < 0x100:
        return b"%c\x81%c" % (tag, length)
    if length < 0x10000:
        return b"%c\x82%c%c" % (tag, length >> 8, length & 0xFF)
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets


def length_octets(length: int) -> bytes:
    """A definite length in the fewest octets."""
    return header(0, length)[1:]


def tlv(tag: int, *contents: bytes) -> bytes:
    """A value with its header; several ``contents`` are joined."""
    body = b"".join(contents)
    return header(tag, len(body)) + body


def sequence(*contents: bytes) -> bytes:
    """A SEQUENCE of encoded elements."""
    body = b"".join(contents)
    return header(SEQUENCE, len(body)) + body


def explicit(number: int, content: bytes) -> bytes:
    """``[number] EXPLICIT`` around an encoded value; ``number`` below 31."""
    return tlv(0xA0 | number, content)


def integer(value: int) -> bytes:
    """An INTEGER in the fewest octets, two's complement."""
    length = ((value if value >= 0 else ~value).bit_length() + 8) // 8
    return tlv(INTEGER, value.to_bytes(length, "big", signed=True))


def enumerated(value: int) -> bytes:
    """An ENUMERATED from 0 to 127."""
    return bytes((ENUMERATED, 1, value))


def octet_string(value: bytes) -> bytes:
    """An OCTET STRING."""
    return tlv(OCTET_STRING, value)


def bit_string(value: bytes) -> bytes:
    """A BIT STRING of whole octets."""
    return tlv(BIT_STRING, b"\0", value)


def utf8_string(text: str) -> bytes:
    """A UTF8String."""
    return tlv(UTF8_STRING, text.encode())


@lru_cache(maxsize=256)
def object_identifier(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER from its dotted form."""
    first, second, *rest = (int(part) for part in dotted.split("."))
    body = bytearray()
    for arc in (first * 40 + second, *rest):
        septets = bytearray((arc & 0x7F,))
        while arc := arc >> 7:
            septets.append(0x80 | (arc & 0x7F))
        body += septets[::-1]
    return tlv(OBJECT_IDENTIFIER, bytes(body))


@lru_cache(maxsize=256)
def generalized_time(moment: datetime) -> bytes:
    """A GeneralizedTime in UTC to the second (RFC 5280 section 4.1.2.5.2)."""
    return tlv(GENERALIZED_TIME, moment.astimezone(UTC).strftime("%Y%m%d%H%M%SZ").rjust(15, "0").encode())


def time(moment: datetime) -> bytes:
    """A Time as certificates and CRLs have it: UTCTime through 2049, GeneralizedTime afterwards."""
    utc = moment.astimezone(UTC)
    if utc.year >= _UTC_TIME_ENDS or utc.year < _UTC_TIME_ENDS - 100:
        return generalized_time(utc)
    return tlv(UTC_TIME, utc.strftime("%y%m%d%H%M%SZ").encode())


def extension(dotted: str, value: bytes, *, critical: bool = False) -> bytes:
    """An Extension (RFC 5280 section 4.1) around the encoded ``value``."""
    return sequence(object_identifier(dotted), TRUE if critical else b"", octet_string(value))
