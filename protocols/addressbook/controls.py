"""Paged results (RFC 2696), sorting (RFC 2891) and virtual list views (draft-ietf-ldapext-ldapv3-vlv-09).

All of them work on what one search found, which the policy keeps small.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict

import attrs

from protocols.addressbook import ber
from protocols.addressbook.ber import OCTET_STRING, SEQUENCE, Reader, tlv
from protocols.addressbook.entries import Entry
from protocols.addressbook.errors import Disconnect, LdapError, ResultCode
from protocols.addressbook.filters import description
from protocols.addressbook.matching import text_key
from protocols.addressbook.messages import Control
from protocols.addressbook.schema import AttributeType, Matching, descriptions_of, find_attribute

PAGED = "1.2.840.113556.1.4.319"
SORT, SORT_RESPONSE = "1.2.840.113556.1.4.473", "1.2.840.113556.1.4.474"
VLV, VLV_RESPONSE = "2.16.840.1.113730.3.4.9", "2.16.840.1.113730.3.4.10"
SUPPORTED_CONTROLS = (PAGED, SORT, VLV)
_IGNORING_CASE = frozenset({"", "2.5.13.3", "caseignoreorderingmatch", "2.5.13.2", "caseignorematch"})
_ORDERS = {
    Matching.FOLDED: _IGNORING_CASE,
    Matching.MAIL: _IGNORING_CASE,
    Matching.PHONE: _IGNORING_CASE,
    Matching.OID: frozenset({""}),
    Matching.TIME: frozenset({"", "2.5.13.28", "generalizedtimeorderingmatch"}),
}
"""What can be sorted by, and the ordering rules that may be named; some clients name the rule of equality."""
_MOST_KEYS = 4
_MOST_PAGED = 4
"""Paged searches of one connection that may be under way."""


@attrs.frozen
class Page:
    """A page of at most ``size`` entries, after ``cookie``."""

    size: int
    cookie: bytes


@attrs.frozen
class SortKey:
    """One key; ``kind`` is None for an attribute that is not known, ``rule`` empty where the client names none."""

    kind: AttributeType | None
    rule: str
    reverse: bool


@attrs.frozen
class View:
    """A window: ``before`` and ``after`` around a target, by position or by the first value not below ``value``."""

    before: int
    after: int
    offset: int
    count: int
    value: bytes | None


@attrs.frozen
class SearchControls:
    """The controls of a search that this server knows."""

    page: Page | None = None
    sort: tuple[SortKey, ...] = ()
    sort_critical: bool = False
    """The client wants nothing rather than what is not sorted."""
    view: View | None = None

    def refusal(self) -> Control | None:
        """The one answer to a search that must be sorted and cannot be (RFC 2891 section 2)."""
        code = sort_result(self.sort)
        return _sort_answer(code) if self.sort_critical and code is not ResultCode.SUCCESS else None


NO_CONTROLS = SearchControls()


def unknown_critical(controls: tuple[Control, ...], known: tuple[str, ...]) -> None:
    """Refuse what must be understood and is not (RFC 4511 section 4.1.11).

    Raises:
        LdapError: UNAVAILABLE_CRITICAL_EXTENSION.
    """
    if any(one.critical and one.oid not in known for one in controls):
        raise LdapError(ResultCode.UNAVAILABLE_CRITICAL_EXTENSION, "a critical control is not supported")


def read_controls(controls: tuple[Control, ...]) -> SearchControls:
    """The controls of a search.

    Raises:
        LdapError: one of them is not well formed, or critical and not known, or they do not go together.
    """
    if not controls:
        return NO_CONTROLS
    unknown_critical(controls, SUPPORTED_CONTROLS)
    by_oid = {one.oid: one.value or b"" for one in controls if one.oid in SUPPORTED_CONTROLS}
    try:
        found = SearchControls(
            page=_page(by_oid[PAGED]) if PAGED in by_oid else None,
            sort=_sort(by_oid[SORT]) if SORT in by_oid else (),
            sort_critical=any(one.critical for one in controls if one.oid == SORT),
            view=_view(by_oid[VLV]) if VLV in by_oid else None,
        )
    except Disconnect:
        raise LdapError(ResultCode.PROTOCOL_ERROR, "a control is not well formed") from None
    if found.view is not None and found.page is not None:
        raise LdapError(ResultCode.UNWILLING_TO_PERFORM, "pages and views do not go together")
    if found.view is not None and not found.sort:
        raise LdapError(ResultCode.SORT_CONTROL_MISSING, "a view needs an order")
    return found


def _page(value: bytes) -> Page:
    outer = Reader(value, 0, len(value)).inner(SEQUENCE)
    return Page(outer.integer(), outer.octets())


def _sort(value: bytes) -> tuple[SortKey, ...]:
    outer = Reader(value, 0, len(value)).inner(SEQUENCE)
    keys = []
    while not outer.done:
        one = outer.inner(SEQUENCE)
        kind = find_attribute(description(one.octets()))
        rule = description(one.octets(0x80)) if one.peek() == 0x80 else ""
        keys.append(SortKey(kind, rule, one.boolean(0x81) if one.peek() == 0x81 else False))
        if len(keys) > _MOST_KEYS:
            raise LdapError(ResultCode.ADMIN_LIMIT_EXCEEDED, "too many sort keys")
    return tuple(keys)


def _view(value: bytes) -> View:
    outer = Reader(value, 0, len(value)).inner(SEQUENCE)
    before, after = outer.integer(), outer.integer()
    if outer.peek() == 0xA0:
        offset = outer.inner(0xA0)
        return View(before, after, offset.integer(), offset.integer(), None)
    return View(before, after, 0, 0, outer.octets(0x81))


def _sort_value(entry: Entry, key: SortKey) -> str | None:
    assert key.kind is not None
    found = [text for name in descriptions_of(key.kind.names[0].lower()) for one in entry.values(name)
             if (text := text_key(key.kind, one)) is not None]  # fmt: skip
    return min(found, default=None)


def sort_result(keys: tuple[SortKey, ...]) -> ResultCode:
    """Whether entries can be sorted by these keys, and why not (RFC 2891 section 1.2)."""
    kinds = [key.kind for key in keys]
    if any(kind is None for kind in kinds):
        return ResultCode.NO_SUCH_ATTRIBUTE
    if any(key.rule not in _ORDERS.get(kind.matching, ()) for key in keys if (kind := key.kind)):
        return ResultCode.INAPPROPRIATE_MATCHING
    return ResultCode.SUCCESS if len(set(kinds)) == len(kinds) else ResultCode.UNWILLING_TO_PERFORM


def _sort_answer(code: ResultCode) -> Control:
    return Control(SORT_RESPONSE, False, tlv(SEQUENCE, ber.integer(code, ber.ENUMERATED)))


def sort_entries(entries: list[Entry], keys: tuple[SortKey, ...]) -> tuple[list[Entry], Control | None]:
    """The entries in order, those without a value last (RFC 2891 section 2.2), and the control that says so."""
    if not keys:
        return entries, None
    code = sort_result(keys)
    if code is ResultCode.SUCCESS:
        for key in reversed(keys):
            with_value = [(value, one) for one in entries if (value := _sort_value(one, key)) is not None]
            without = [one for one in entries if _sort_value(one, key) is None]
            with_value.sort(key=lambda pair: pair[0], reverse=key.reverse)
            ordered = [one for _, one in with_value]
            entries = without + ordered if key.reverse else ordered + without
    return entries, _sort_answer(code)


def view_entries(entries: list[Entry], view: View, keys: tuple[SortKey, ...]) -> tuple[list[Entry], Control]:
    """The window of sorted entries that a client wants to see, and the control that says where it is."""
    total = len(entries)
    if view.value is not None:
        target = _target_of_value(entries, view.value, keys)
    elif view.offset <= 1 or view.count == 0:
        target = min(max(view.offset, 1), max(total, 1))
    elif view.offset >= view.count:
        target = max(total, 1)
    else:  # section 4.1: where the client's idea of the list's length is not ours, the position is scaled
        target = max(1, min(total, round(view.offset * total / view.count)))
    window = entries[max(0, target - 1 - view.before) : target + view.after] if total else []
    code = ber.integer(ResultCode.SUCCESS, ber.ENUMERATED)
    content = ber.integer(min(target, total + 1)) + ber.integer(total) + code
    return window, Control(VLV_RESPONSE, False, tlv(SEQUENCE, content))


def _target_of_value(entries: list[Entry], value: bytes, keys: tuple[SortKey, ...]) -> int:
    key = keys[0]
    wanted = None if key.kind is None else text_key(key.kind, value)
    if key.kind is None or wanted is None:
        return len(entries) + 1
    for position, one in enumerate(entries, 1):
        found = _sort_value(one, key)
        if found is not None and (found <= wanted if key.reverse else found >= wanted):
            return position
    return len(entries) + 1


@attrs.frozen
class _Rest:
    entries: list[Entry]
    code: ResultCode


class Pages:
    """The rests of paged searches of one connection; a cookie is good for one page."""

    def __init__(self) -> None:
        self._rests: OrderedDict[bytes, _Rest] = OrderedDict()

    def first(self, entries: list[Entry], code: ResultCode, page: Page) -> tuple[list[Entry], ResultCode, Control]:
        """The first page of what a search found; its result code comes with the last page."""
        if page.size == 0:
            return [], code, self._control(len(entries), b"")
        return self._cut(_Rest(entries, code), page.size, len(entries))

    def go_on(self, page: Page) -> tuple[list[Entry], ResultCode, Control]:
        """The next page; of size 0, the client gives up.

        Raises:
            LdapError: the cookie is none, or has been used.
        """
        rest = self._rests.pop(page.cookie, None)
        if rest is None:
            raise LdapError(ResultCode.UNWILLING_TO_PERFORM, "this cookie is not valid any more")
        if page.size == 0:
            return [], ResultCode.SUCCESS, self._control(0, b"")
        return self._cut(rest, page.size, 0)

    def _cut(self, found: _Rest, size: int, estimate: int) -> tuple[list[Entry], ResultCode, Control]:
        rest = found.entries[size:]
        if not rest:
            return found.entries, found.code, self._control(estimate, b"")
        if len(self._rests) >= _MOST_PAGED:
            self._rests.popitem(last=False)
        cookie = secrets.token_bytes(12)
        self._rests[cookie] = _Rest(rest, found.code)
        return found.entries[:size], ResultCode.SUCCESS, self._control(estimate, cookie)

    @staticmethod
    def _control(estimate: int, cookie: bytes) -> Control:
        return Control(PAGED, False, tlv(SEQUENCE, ber.integer(estimate) + tlv(OCTET_STRING, cookie)))
