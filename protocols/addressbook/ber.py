"""BER as LDAP restricts it (RFC 4511 section 5.1), read by position, without recursion and without copies.

Only definite lengths; a length may have leading zero octets, since Windows always writes ``84 00 00 00 xx``. Tags are
one octet, as LDAP needs no others. No function here calls itself or takes more time than the octets it is given.
"""

from __future__ import annotations

from pkiserver.foundation import der
from protocols.addressbook.errors import Disconnect, LimitHit

BOOLEAN = 0x01
INTEGER = 0x02
OCTET_STRING = 0x04
ENUMERATED = 0x0A
SEQUENCE = 0x30
SET = 0x31
_MAX_LENGTH_OCTETS = 8
_MAX_INTEGER = 2**31 - 1


def malformed(text: str) -> Disconnect:
    """What is said about octets that are no LDAP message."""
    return Disconnect(text, LimitHit.MALFORMED)


def header(data: bytes | bytearray, position: int, end: int) -> tuple[int, int, int]:
    """Tag, and begin and end of the content, of the element at ``position``, all within ``end``.

    Raises:
        Disconnect: there is no such element.
    """
    if end - position < 2:
        raise malformed("truncated element")
    tag = data[position]
    length = data[position + 1]
    start = position + 2
    if length & 0x80:
        count = length & 0x7F
        if not count or count > _MAX_LENGTH_OCTETS:
            raise malformed("a length that LDAP does not allow")
        if end - start < count:
            raise malformed("truncated length")
        length = int.from_bytes(data[start : start + count], "big")
        start += count
    if length > end - start:
        raise malformed("truncated content")
    return tag, start, start + length


def message_length(data: bytes | bytearray, position: int, available: int, most: int) -> int | None:
    """Octets that the message at ``position`` takes, header included; None while its header is incomplete.

    Looks at the header only, so that a message that says it will be too long is refused before it is taken in.

    Raises:
        Disconnect: it is no LDAPMessage, or it is longer than ``most``.
    """
    if available < 2:
        if available and data[position] != SEQUENCE:
            raise malformed("not an LDAP message")
        return None
    if data[position] != SEQUENCE:
        raise malformed("not an LDAP message")
    length = data[position + 1]
    size = 2
    if length & 0x80:
        count = length & 0x7F
        if not count or count > _MAX_LENGTH_OCTETS:
            raise malformed("a length that LDAP does not allow")
        if available < 2 + count:
            return None
        length = int.from_bytes(data[position + 2 : position + 2 + count], "big")
        size += count
    if size + length > most:
        raise Disconnect(f"the message is longer than {most} octets", LimitHit.MESSAGE_SIZE)
    return size + length


class Reader:
    """Reads the elements of one constructed content in order."""

    __slots__ = ("data", "end", "position")

    def __init__(self, data: bytes, position: int, end: int) -> None:
        self.data = data
        self.position = position
        self.end = end

    @property
    def done(self) -> bool:
        """Whether nothing follows."""
        return self.position >= self.end

    def peek(self) -> int:
        """The next element's tag; -1 at the end."""
        return self.data[self.position] if self.position < self.end else -1

    def take(self, wanted: int) -> tuple[int, int]:
        """Begin and end of the next element's content; its tag must be ``wanted``."""
        tag, start, stop = header(self.data, self.position, self.end)
        if tag != wanted:
            raise malformed(f"expected tag {wanted:#04x}, found {tag:#04x}")
        self.position = stop
        return start, stop

    def octets(self, tag: int = OCTET_STRING) -> bytes:
        """The content of the next element, a string."""
        start, stop = self.take(tag)
        return self.data[start:stop]

    def integer(self, tag: int = INTEGER) -> int:
        """The next element, an INTEGER or ENUMERATED from 0 to 2^31-1 (maxInt of RFC 4511 section 4.1.1)."""
        start, stop = self.take(tag)
        if not 0 < stop - start <= 8:
            raise malformed("an integer of a size that LDAP does not use")
        value = int.from_bytes(self.data[start:stop], "big", signed=True)
        if not 0 <= value <= _MAX_INTEGER:
            raise malformed("an integer outside 0 to maxInt")
        return value

    def boolean(self, tag: int = BOOLEAN) -> bool:
        """The next element, a BOOLEAN."""
        start, stop = self.take(tag)
        if stop - start != 1:
            raise malformed("a boolean that is not one octet")
        return self.data[start] != 0

    def inner(self, tag: int) -> Reader:
        """A reader of the next element's content."""
        start, stop = self.take(tag)
        return Reader(self.data, start, stop)

    def finish(self) -> None:
        """Nothing may follow.

        Raises:
            Disconnect: something does.
        """
        if self.position != self.end:
            raise malformed("octets after the end")


def tlv(tag: int, content: bytes) -> bytes:
    """One element, with the shortest length; a search writes so many that joining parts first would show."""
    size = len(content)
    return (bytes((tag, size)) if size < 0x80 else der.header(tag, size)) + content


def integer(value: int, tag: int = INTEGER) -> bytes:
    """An INTEGER or ENUMERATED that is not negative."""
    if value < 0x80:
        return bytes((tag, 1, value))
    return tlv(tag, value.to_bytes(value.bit_length() // 8 + 1, "big"))
