"""LDAP messages (RFC 4511 section 4): requests decoded into frozen values, answers encoded."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable

import attrs

from protocols.addressbook import ber
from protocols.addressbook.ber import ENUMERATED, OCTET_STRING, SEQUENCE, Reader, malformed, tlv
from protocols.addressbook.errors import LdapError, ResultCode
from protocols.addressbook.filters import Filter, FilterLimits, read_filter

BIND, UNBIND, SEARCH, MODIFY, ADD, DELETE, MODIFY_DN, COMPARE, ABANDON, EXTENDED = (
    0x60, 0x42, 0x63, 0x66, 0x68, 0x4A, 0x6C, 0x6E, 0x50, 0x77,
)  # fmt: skip
BIND_RESPONSE, SEARCH_ENTRY, SEARCH_DONE, EXTENDED_RESPONSE = 0x61, 0x64, 0x65, 0x78
RESPONSES = {
    BIND: BIND_RESPONSE,
    SEARCH: SEARCH_DONE,
    MODIFY: 0x67,
    ADD: 0x69,
    DELETE: 0x6B,
    MODIFY_DN: 0x6D,
    COMPARE: 0x6F,
    EXTENDED: EXTENDED_RESPONSE,
}
"""Request tag to the tag of the answer."""
NOTICE_OF_DISCONNECTION = b"1.3.6.1.4.1.1466.20036"
_CONTROLS = 0xA0
_MOST_CONTROLS = 16
_MOST_ATTRIBUTES = 256
_SIMPLE, _SASL = 0x80, 0xA3


class Scope(enum.IntEnum):
    """How far a search reaches (RFC 4511 section 4.5.1.2)."""

    BASE = 0
    ONE = 1
    SUBTREE = 2


@attrs.frozen
class Control:
    """A control as sent (RFC 4511 section 4.1.11); ``value`` is None where there is none."""

    oid: str
    critical: bool
    value: bytes | None


@attrs.frozen
class BindRequest:
    """``mechanism`` is None for simple authentication, whose password is ``credentials``."""

    version: int
    name: bytes
    mechanism: str | None
    credentials: bytes | None = attrs.field(repr=False)


@attrs.frozen
class SearchRequest:
    """A search; ``size_limit`` and ``time_limit`` (seconds) are 0 where the client sets none."""

    base: bytes
    scope: Scope
    size_limit: int
    time_limit: int
    types_only: bool
    filter: Filter
    attributes: tuple[bytes, ...]


@attrs.frozen
class CompareRequest:
    """A compare."""

    entry: bytes
    attribute: bytes
    value: bytes


class ChangeKind(enum.IntEnum):
    """What a modification does (RFC 4511 section 4.6)."""

    ADD = 0
    DELETE = 1
    REPLACE = 2


@attrs.frozen
class Change:
    """One modification."""

    kind: ChangeKind
    attribute: bytes
    values: tuple[bytes, ...]


@attrs.frozen
class ModifyRequest:
    """Modifications of one entry, in order."""

    entry: bytes
    changes: tuple[Change, ...]


@attrs.frozen
class AddRequest:
    """A new entry."""

    entry: bytes
    attributes: tuple[tuple[bytes, tuple[bytes, ...]], ...]


@attrs.frozen
class DeleteRequest:
    """An entry to remove."""

    entry: bytes


@attrs.frozen
class ModifyDnRequest:
    """A rename, which nobody may do here."""


@attrs.frozen
class ExtendedRequest:
    """An extended operation; ``value`` is None where there is none."""

    oid: str
    value: bytes | None


@attrs.frozen
class AbandonRequest:
    """An operation whose answer the client no longer wants."""

    message_id: int


@attrs.frozen
class UnbindRequest:
    """The client leaves."""


Request = (
    BindRequest
    | SearchRequest
    | CompareRequest
    | ModifyRequest
    | AddRequest
    | DeleteRequest
    | ModifyDnRequest
    | ExtendedRequest
    | AbandonRequest
    | UnbindRequest
)


@attrs.frozen
class Envelope:
    """A message whose operation is not decoded yet, so that a bad operation can be answered by its number."""

    message_id: int
    tag: int
    data: bytes = attrs.field(repr=False)
    start: int
    stop: int
    controls: tuple[Control, ...]


def open_message(data: bytes) -> Envelope:
    """The envelope of one whole message.

    Raises:
        Disconnect: it is none (RFC 4511 section 4.1.1: the connection ends).
    """
    tag, start, stop = ber.header(data, 0, len(data))
    if tag != SEQUENCE or stop != len(data):
        raise malformed("not an LDAP message")
    reader = Reader(data, start, stop)
    message_id = reader.integer()
    operation, begin, end = ber.header(data, reader.position, stop)
    reader.position = end
    controls = () if end == stop else _controls(reader)
    return Envelope(message_id, operation, data, begin, end, controls)


def _controls(reader: Reader) -> tuple[Control, ...]:
    inner = reader.inner(_CONTROLS)
    reader.finish()
    found = []
    while not inner.done:
        one = inner.inner(SEQUENCE)
        oid = one.octets().decode("ascii", "replace")
        critical = one.boolean() if one.peek() == ber.BOOLEAN else False
        value = one.octets() if one.peek() == OCTET_STRING else None
        one.finish()
        found.append(Control(oid, critical, value))
        if len(found) > _MOST_CONTROLS:
            raise malformed("too many controls")
    return tuple(found)


def read_operation(envelope: Envelope, limits: FilterLimits) -> Request:
    """The operation in an envelope.

    Raises:
        Disconnect: it is not well formed, or none of RFC 4511.
        LdapError: it is over a limit.
    """
    reader = Reader(envelope.data, envelope.start, envelope.stop)
    tag = envelope.tag
    if tag == SEARCH:
        return _search(reader, limits)
    if tag == UNBIND:
        return UnbindRequest()
    if tag == ABANDON:
        return AbandonRequest(int.from_bytes(envelope.data[envelope.start : envelope.stop][:8], "big"))
    if tag == DELETE:
        return DeleteRequest(envelope.data[envelope.start : envelope.stop])
    if tag == MODIFY_DN:
        return ModifyDnRequest()
    read = _READERS.get(tag)
    if read is None:
        raise malformed("an unknown operation")
    made = read(reader)
    reader.finish()
    return made


def _search(reader: Reader, limits: FilterLimits) -> SearchRequest:
    base = reader.octets()
    scope = reader.integer(ENUMERATED)
    if scope > Scope.SUBTREE:
        raise LdapError(ResultCode.PROTOCOL_ERROR, "an unknown scope")
    if reader.integer(ENUMERATED) > 3:
        raise LdapError(ResultCode.PROTOCOL_ERROR, "an unknown way to dereference aliases")
    size_limit, time_limit = reader.integer(), reader.integer()
    types_only = reader.boolean()
    wanted = read_filter(reader, limits)
    selection = reader.inner(SEQUENCE)
    reader.finish()
    attributes = []
    while not selection.done:
        attributes.append(selection.octets())
        if len(attributes) > _MOST_ATTRIBUTES:
            raise LdapError(ResultCode.ADMIN_LIMIT_EXCEEDED, "too many attributes")
    return SearchRequest(base, Scope(scope), size_limit, time_limit, types_only, wanted, tuple(attributes))


def _bind(reader: Reader) -> BindRequest:
    version = reader.integer()
    name = reader.octets()
    if reader.peek() == _SASL:
        sasl = reader.inner(_SASL)
        mechanism = sasl.octets().decode("ascii", "replace")
        credentials = None if sasl.done else sasl.octets()
        sasl.finish()
        return BindRequest(version, name, mechanism, credentials)
    if reader.peek() == _SIMPLE:
        return BindRequest(version, name, None, reader.octets(_SIMPLE))
    raise LdapError(ResultCode.AUTH_METHOD_NOT_SUPPORTED, "simple and SASL EXTERNAL only")


def _compare(reader: Reader) -> CompareRequest:
    entry = reader.octets()
    assertion = reader.inner(SEQUENCE)
    attribute, value = assertion.octets(), assertion.octets()
    assertion.finish()
    return CompareRequest(entry, attribute, value)


def _extended(reader: Reader) -> ExtendedRequest:
    oid = reader.octets(0x80).decode("ascii", "replace")
    return ExtendedRequest(oid, None if reader.done else reader.octets(0x81))


def _values(reader: Reader) -> tuple[bytes, tuple[bytes, ...]]:
    one = reader.inner(SEQUENCE)
    name = one.octets()
    values = one.inner(ber.SET)
    one.finish()
    found = []
    while not values.done:
        found.append(values.octets())
    return name, tuple(found)


def _modify(reader: Reader) -> ModifyRequest:
    entry = reader.octets()
    changes = reader.inner(SEQUENCE)
    found = []
    while not changes.done:
        one = changes.inner(SEQUENCE)
        kind = one.integer(ENUMERATED)
        if kind > ChangeKind.REPLACE:
            raise LdapError(ResultCode.PROTOCOL_ERROR, "an unknown kind of modification")
        found.append(Change(ChangeKind(kind), *_values(one)))
        one.finish()
    return ModifyRequest(entry, tuple(found))


def _add(reader: Reader) -> AddRequest:
    entry = reader.octets()
    attributes = reader.inner(SEQUENCE)
    found = []
    while not attributes.done:
        found.append(_values(attributes))
    return AddRequest(entry, tuple(found))


_READERS: dict[int, Callable[[Reader], Request]] = {
    BIND: _bind,
    COMPARE: _compare,
    EXTENDED: _extended,
    MODIFY: _modify,
    ADD: _add,
}


# Answers


def message(message_id: int, operation: bytes, controls: Iterable[Control] = ()) -> bytes:
    """An LDAPMessage around an encoded operation."""
    tail = b"".join(_encode_control(one) for one in controls)
    return tlv(SEQUENCE, ber.integer(message_id) + operation + (tlv(_CONTROLS, tail) if tail else b""))


def _encode_control(one: Control) -> bytes:
    parts = tlv(OCTET_STRING, one.oid.encode())
    if one.critical:
        parts += b"\x01\x01\xff"
    if one.value is not None:
        parts += tlv(OCTET_STRING, one.value)
    return tlv(SEQUENCE, parts)


def result(tag: int, code: ResultCode, text: str = "", *, matched: bytes = b"", more: bytes = b"") -> bytes:
    """An LDAPResult (RFC 4511 section 4.1.9) with its operation's tag; ``more`` follows it, encoded."""
    if not text and not matched and not more:
        return bytes((tag, 7, ENUMERATED, 1, code, OCTET_STRING, 0, OCTET_STRING, 0))
    content = bytes((ENUMERATED, 1, code)) + tlv(OCTET_STRING, matched) + tlv(OCTET_STRING, text.encode())
    return tlv(tag, content + more)


def search_entry(message_id: int, dn: bytes, attributes: bytes) -> bytes:
    """A SearchResultEntry; ``attributes`` are encoded PartialAttributes, one after the other."""
    content = tlv(OCTET_STRING, dn) + tlv(SEQUENCE, attributes)
    return tlv(SEQUENCE, ber.integer(message_id) + tlv(SEARCH_ENTRY, content))


def partial_attribute(name: bytes, values: Iterable[bytes]) -> bytes:
    """A PartialAttribute (RFC 4511 section 4.1.7)."""
    return tlv(SEQUENCE, tlv(OCTET_STRING, name) + tlv(ber.SET, b"".join(tlv(OCTET_STRING, one) for one in values)))


def extended_response(code: ResultCode, text: str = "", *, oid: bytes = b"", value: bytes | None = None) -> bytes:
    """An ExtendedResponse (RFC 4511 section 4.12)."""
    more = tlv(0x8A, oid) if oid else b""
    if value is not None:
        more += tlv(0x8B, value)
    return result(EXTENDED_RESPONSE, code, text, more=more)


def notice_of_disconnection(code: ResultCode, text: str) -> bytes:
    """The whole message that says why the connection ends (RFC 4511 section 4.4.1)."""
    return message(0, extended_response(code, text, oid=NOTICE_OF_DISCONNECTION))
