"""LDAP messages made by hand, as octets."""

from __future__ import annotations

import socket

from protocols.addressbook import ber
from protocols.addressbook.ber import tlv
from tests.protocols.addressbook.support import BASE


def octets(text: str | bytes, tag: int = 4) -> bytes:
    return tlv(tag, text.encode() if isinstance(text, str) else text)


def equality(attribute: str, value: str) -> bytes:
    return tlv(0xA3, octets(attribute) + octets(value))


def search(
    filter_: bytes, *attributes: str, base: str = BASE, scope: int = 2, number: int = 1, limit: int = 0
) -> bytes:
    head = octets(base) + ber.integer(scope, 10) + ber.integer(0, 10) + ber.integer(limit) + ber.integer(0)
    body = head + b"\x01\x01\x00" + filter_ + tlv(0x30, b"".join(map(octets, attributes)))
    return message(tlv(0x63, body), number)


def message(operation: bytes, number: int = 1, controls: bytes = b"") -> bytes:
    return tlv(0x30, ber.integer(number) + operation + controls)


def bind(name: str = "", password: str = "", number: int = 1, version: int = 3) -> bytes:
    return message(tlv(0x60, ber.integer(version) + octets(name) + octets(password, 0x80)), number)


def extended(oid: str, value: bytes | None = None, number: int = 1) -> bytes:
    return message(tlv(0x77, octets(oid, 0x80) + (b"" if value is None else tlv(0x81, value))), number)


def abandon(target: int, number: int = 2) -> bytes:
    return message(ber.integer(target, 0x50), number)


UNBIND = message(b"\x42\x00", 9)


def receive(one: socket.socket, count: int | None = None) -> list[tuple[int, int, int]]:
    """Number, operation tag and result code (-1: none) of the messages that come, up to ``count`` or the end."""
    data = b""
    found: list[tuple[int, int, int]] = []
    while count is None or len(found) < count:
        size = ber.message_length(data, 0, len(data), 1 << 26) if data else None
        if size is None or len(data) < size:
            piece = one.recv(65536)
            if not piece:
                break
            data += piece
            continue
        found.append(_read(data[:size]))
        data = data[size:]
    return found


def _read(data: bytes) -> tuple[int, int, int]:
    _, start, stop = ber.header(data, 0, len(data))
    reader = ber.Reader(data, start, stop)
    number = reader.integer()
    tag, begin, end = ber.header(data, reader.position, stop)
    code = ber.Reader(data, begin, end).integer(10) if tag in {0x61, 0x65, 0x67, 0x69, 0x6B, 0x6D, 0x6F, 0x78} else -1
    return number, tag, code
