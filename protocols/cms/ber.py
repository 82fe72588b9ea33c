"""A bounded reader of BER (X.690 section 8): what Java clients send, turned into DER that declared types can decode.

Nothing here recurses: depth, element count and size are capped, so no input costs more than one pass over it. An
element that is DER already comes out byte for byte; indefinite lengths become definite, lengths become minimal,
constructed strings become primitive ones and TRUE becomes ``FF``. Sets are not sorted, for signatures cover the order
that was sent.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from pkiserver.foundation.der import length_octets
from pkiserver.foundation.errors import Refusal, Rejected

_BOOLEAN, _BIT_STRING, _OCTET_STRING = 0x01, 0x03, 0x04
_STRING_TAGS = frozenset({_BIT_STRING, _OCTET_STRING, 0x0C, *range(0x12, 0x1F)})
"""Universal tags whose constructed form is a chain of segments: octet, bit and character strings, and times."""
_CONSTRUCTED = 0x20
_REWRITTEN_TAGS = frozenset({0, *(number | _CONSTRUCTED for number in _STRING_TAGS)})
"""The end of contents, and what becomes primitive."""
_FITS_NOTHING = 1 << 64
_BOOLEANS = frozenset({0x00, 0xFF})
_MAX_TAG_OCTETS = 5
_MAX_LENGTH_OCTETS = 5


@attrs.frozen
class BerLimits:
    """What a message may cost: ``octets`` in all, ``depth`` of nesting, ``elements`` over the whole message.

    The defaults keep one message under 5 ms of a processor.
    """

    octets: int = 256 * 1024
    depth: int = 32
    elements: int = 4_000


DEFAULT_LIMITS = BerLimits()


def malformed(text: str) -> Rejected:
    """The refusal for octets that are not what they should be."""
    return Rejected.because(Refusal.MALFORMED, text)


def header(tag: bytes, length: int) -> bytes:
    """DER identifier and length octets for ``length`` octets of content; ``tag`` may have several octets."""
    return tag + length_octets(length)


@attrs.frozen
class Element:
    """One definite-length element: its identifier octets, its content, and ``whole`` as it stood in the input."""

    tag: bytes
    content: bytes
    whole: bytes


def children(content: bytes) -> Iterator[Element]:
    """The definite-length elements that lie side by side in ``content``.

    Raises:
        Rejected: an element does not fit, or has an indefinite length.
    """
    position = 0
    while position < len(content):
        tag, length, start = _read_header(content, position, len(content))
        if length is None:
            raise malformed("an indefinite length where DER was expected")
        end = start + length
        yield Element(tag, content[start:end], content[position:end])
        position = end


def only_child(data: bytes) -> Element:
    """The single definite-length element that ``data`` consists of. Raises :class:`Rejected` for anything else."""
    found = list(children(data))
    if len(found) != 1:
        raise malformed("expected exactly one ASN.1 element")
    return found[0]


@attrs.define
class _Frame:
    """A constructed element that is being read; ``end`` is None while its length is indefinite."""

    tag: bytes
    end: int | None
    parts: list[bytes]
    segments_of: int | None
    unused_bits: int = 0

    def add(self, element: bytes, tag: bytes, content: bytes) -> None:
        """Take one finished element in; segments of a constructed string are taken without their headers."""
        if self.segments_of is None:
            self.parts.append(element)
            return
        if tag != bytes((self.segments_of,)):
            raise malformed("a constructed string with a segment of another type")
        if self.segments_of == _BIT_STRING:
            if self.unused_bits or not content or content[0] > 7:
                raise malformed("a constructed BIT STRING whose segments do not fit together")
            self.unused_bits = content[0]
            content = content[1:]
        self.parts.append(content)

    def close(self) -> tuple[bytes, bytes, bytes]:
        """The finished element as (encoding, identifier octets, content)."""
        content = b"".join(self.parts)
        tag = self.tag
        if self.segments_of is not None:
            tag = bytes((self.segments_of,))
            if self.segments_of == _BIT_STRING:
                content = bytes((self.unused_bits,)) + content
        return header(tag, len(content)) + content, tag, content


def to_der(data: bytes, limits: BerLimits = DEFAULT_LIMITS) -> bytes:
    """The one BER element in ``data``, re-encoded as DER (but for the order inside sets).

    Args:
        data: the octets as received; nothing may follow the element.
        limits: what the message may cost.

    Raises:
        Rejected: over a limit (``Refusal.LIMIT``), or not BER (``Refusal.MALFORMED``).
    """
    if len(data) > limits.octets:
        raise Rejected.because(Refusal.LIMIT, f"the message is larger than {limits.octets} octets")
    return data if is_der(data, limits) else rewritten(data, limits)


def is_der(data: bytes, limits: BerLimits = DEFAULT_LIMITS) -> bool:
    """Whether ``data`` is one element within the limits in which :func:`rewritten` would change nothing.

    As nearly all messages are, and to see it costs a fifth. What has long tags or elements of 64 KiB is not told.
    """
    ends, end, position, elements = [len(data)], len(data), 0, 0
    try:
        while True:
            tag, length, position = data[position], data[position + 1], position + 2
            if tag & 0x1F == 0x1F or tag in _REWRITTEN_TAGS:
                return False
            if length >= 0x80:
                octets = length - 0x80
                length, position = _long_length(data, position, octets), position + octets
            elements += 1
            if position + length > end or elements > limits.elements or len(ends) > limits.depth:
                return False
            if tag & _CONSTRUCTED:
                end = position + length
                ends.append(end)
            else:
                if tag == _BOOLEAN and length == 1 and data[position] not in _BOOLEANS:
                    return False
                position += length
            while position == end and len(ends) > 1:
                ends.pop()
                end = ends[-1]
            if len(ends) == 1:
                return position == end
    except IndexError:
        return False


def _long_length(data: bytes, position: int, octets: int) -> int:
    """A length of several octets; where DER has it otherwise, or it is long, one that fits into nothing."""
    length = int.from_bytes(data[position : position + octets], "big") if 0 < octets < 3 else 0
    return length if length >= (0x80 if octets == 1 else 0x100) else _FITS_NOTHING


def rewritten(data: bytes, limits: BerLimits = DEFAULT_LIMITS) -> bytes:
    """What :func:`to_der` makes of anything that is not DER already."""
    stack = [_Frame(b"", len(data), [], None)]
    position = elements = 0
    while True:
        position = _close_finished(stack, data, position)
        if len(stack) == 1 and position == len(data):
            break
        elements += 1
        if elements > limits.elements or len(stack) > limits.depth:
            raise Rejected.because(Refusal.LIMIT, "the message is nested too deeply or has too many elements")
        position = _read_element(stack, data, position)
    if len(stack[0].parts) != 1:
        raise malformed("expected exactly one ASN.1 element")
    return stack[0].parts[0]


def _close_finished(stack: list[_Frame], data: bytes, position: int) -> int:
    """Close every frame that ends at ``position``; returns the position after any end-of-contents octets."""
    while len(stack) > 1:
        frame = stack[-1]
        if frame.end is None:
            if data[position : position + 2] != b"\x00\x00":
                break
            position += 2
        elif position != frame.end:
            break
        stack.pop()
        stack[-1].add(*frame.close())
    return position


def _read_element(stack: list[_Frame], data: bytes, position: int) -> int:
    """Read one header, and the content if it is primitive; returns the position that follows."""
    limit = next(frame.end for frame in reversed(stack) if frame.end is not None)
    tag, length, start = _read_header(data, position, limit)
    if tag == b"\x00":
        raise malformed("end-of-contents octets where none belong")
    if tag[0] & _CONSTRUCTED:
        number = tag[0] & ~_CONSTRUCTED
        segments_of = number if number in _STRING_TAGS else None
        stack.append(_Frame(tag, None if length is None else start + length, [], segments_of))
        return start
    if length is None:
        raise malformed("a primitive element with an indefinite length")
    content = data[start : start + length]
    if tag[0] == _BOOLEAN and length == 1 and content != b"\x00":
        content = b"\xff"
    stack[-1].add(header(tag, length) + content, tag, content)
    return start + length


def _read_header(data: bytes, position: int, limit: int) -> tuple[bytes, int | None, int]:
    """Identifier octets, content length (None: indefinite) and the position of the content, within ``limit``."""
    start = position
    if position + 2 > limit:
        raise malformed("truncated ASN.1 element")
    position += 1
    if data[start] & 0x1F == 0x1F:
        while data[position] & 0x80:
            position += 1
            if position - start >= _MAX_TAG_OCTETS or position + 1 >= limit:
                raise malformed("an ASN.1 tag that is too long")
        position += 1
        if position >= limit:
            raise malformed("truncated ASN.1 element")
    tag = data[start:position]
    first = data[position]
    position += 1
    if first < 0x80:
        length = first
    elif first == 0x80:
        return tag, None, position
    else:
        count = first & 0x7F
        if count > _MAX_LENGTH_OCTETS or position + count > limit:
            raise malformed("an ASN.1 length that is too long")
        length = int.from_bytes(data[position : position + count], "big")
        position += count
    if position + length > limit:
        raise malformed("truncated ASN.1 element")
    return tag, length, position
