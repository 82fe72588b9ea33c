"""A small DER writer for what must be written fast or in a stream (X.690).

Reading is never done here: what comes from outside is decoded by declared types.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
ENUMERATED = 0x0A
UTC_TIME = 0x17
GENERALIZED_TIME = 0x18
SEQUENCE = 0x30

TRUE = b"\x01\x01\xff"
_UTC_TIME_ENDS = 2050
"""RFC 5280 section 4.1.2.5: UTCTime through the year 2049, GeneralizedTime from 2050."""


def header(tag: int, length: int) -> bytes:
    """Identifier and length octets of a value of ``length`` octets."""
    if length < 0x80:
        return bytes((tag, length))
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets


def tlv(tag: int, *contents: bytes) -> bytes:
    """A value with its header; several ``contents`` are joined."""
    body = b"".join(contents)
    length = len(body)
    return (bytes((tag, length)) if length < 0x80 else header(tag, length)) + body


def sequence(*contents: bytes) -> bytes:
    """A SEQUENCE of encoded elements."""
    body = b"".join(contents)
    length = len(body)
    return (b"\x30%c" % length if length < 0x80 else header(SEQUENCE, length)) + body


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


@lru_cache(maxsize=64)
def object_identifier(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER from its dotted form."""
    first, second, *rest = (int(part) for part in dotted.split("."))
    body = bytearray()
    for arc in (first * 40 + second, *rest):
        septets = bytearray((arc & 0x7F,))
        while arc := arc >> 7:
            septets.append(0x80 | (arc & 0x7F))
        body += septets[::-1]
    return tlv(0x06, bytes(body))


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
