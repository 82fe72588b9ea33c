"""Just enough DER (X.690) to see what a structure is before a key signs it, and to put a signature beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

INTEGER, BIT_STRING, OCTET_STRING, OBJECT_IDENTIFIER, ENUMERATED = 0x02, 0x03, 0x04, 0x06, 0x0A
UTC_TIME, GENERALIZED_TIME, SEQUENCE, SET = 0x17, 0x18, 0x30, 0x31
NULL_DER = b"\x05\x00"


def context(number: int) -> int:
    """The identifier octet of a constructed context-specific tag ``[number]``."""
    return 0xA0 | number


class Element(NamedTuple):
    """One element inside ``data``: identifier octet, offset of the element, of its content, and of its end."""

    tag: int
    start: int
    body: int
    end: int


class NotDer(ValueError):
    """The octets are not strict DER (definite, shortest lengths; low tag numbers only)."""


def element(data: bytes, start: int, limit: int) -> Element:
    """The element at ``start``, which must end at or before ``limit``; raises :class:`NotDer`."""
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


def whole(data: bytes, tag: int) -> Element:
    """The single element that ``data`` is; raises :class:`NotDer` when it is another, or something follows."""
    found = element(data, 0, len(data))
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
    at, tag, last = _step(data, 0, end)
    if tag != SEQUENCE or last != end:
        raise NotDer("not one SEQUENCE")
    found = []
    while at < end:
        _, tag, at = _step(data, at, end)
        found.append(tag)
        if len(found) > at_most:
            raise NotDer("too many elements")
    return tuple(found)


def _step(data: bytes, start: int, limit: int) -> tuple[int, int, int]:
    """Where the content of the element at ``start`` begins, its tag, and where it ends."""
    if start + 2 > limit or data[start] & 0x1F == 0x1F or data[start + 1] & 0x80:
        found = element(data, start, limit)
        return found.body, found.tag, found.end
    end = start + 2 + data[start + 1]
    if end > limit:
        raise NotDer("truncated")
    return start + 2, data[start], end


def encode(tag: int, *parts: bytes) -> bytes:
    """One element with the given identifier octet around the joined parts."""
    size = sum(map(len, parts))
    if size < 0x80:
        head = bytes((tag, size))
    else:
        octets = (size.bit_length() + 7) // 8
        head = bytes((tag, 0x80 | octets)) + size.to_bytes(octets, "big")
    return b"".join((head, *parts))


def sequence(*parts: bytes) -> bytes:
    """A SEQUENCE of already encoded elements."""
    return encode(SEQUENCE, *parts)


def bit_string(octets: bytes) -> bytes:
    """A BIT STRING of whole octets."""
    return encode(BIT_STRING, b"\x00", octets)


def integer(value: int) -> bytes:
    """An INTEGER, not negative."""
    return encode(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER from its dotted form."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    return encode(OBJECT_IDENTIFIER, b"".join(map(_base128, (first * 40 + second, *rest))))


def _base128(arc: int) -> bytes:
    octets = [arc & 0x7F]
    while arc := arc >> 7:
        octets.append(0x80 | (arc & 0x7F))
    return bytes(reversed(octets))


def certificates_field(certificates: Iterable[bytes], number: int) -> bytes:
    """``[number] EXPLICIT SEQUENCE OF Certificate``; empty octets when there is none."""
    joined = b"".join(certificates)
    return encode(context(number), sequence(joined)) if joined else b""
