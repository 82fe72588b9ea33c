"""What the lists of an authority say together: complete lists and their deltas, whole or in parts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import attrs

from pkiserver.authority.status.source import CrlReference, Standing
from pkiserver.authority.validation.index import Index, Listed
from pkiserver.authority.validation.settings import ForeignCa, Unlisted
from pkiserver.store.authority.foreign import ListHead, ListKind
from pkiserver.store.certificates.values import CertificateState, CertificateStatus, Revocation, RevocationReason

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
_FOREVER = datetime(9999, 12, 31, tzinfo=UTC)
_REMOVED = int(RevocationReason.REMOVE_FROM_CRL)


@attrs.frozen(eq=False)
class LoadedList:
    """A list in memory."""

    source: str
    head: ListHead
    index: Index


@attrs.frozen(eq=False)
class _Scope:
    """A complete list and the newest delta that goes on it: a delta tells all that changed since its base."""

    complete: LoadedList
    delta: LoadedList | None

    def find(self, serial: int) -> Listed | None:
        if self.delta is not None and (found := self.delta.index.find(serial)) is not None:
            return None if found.reason == _REMOVED else found
        return self.complete.index.find(serial)

    @property
    def digests(self) -> tuple[bytes, ...]:
        lists = (self.complete,) if self.delta is None else (self.complete, self.delta)
        return tuple(one.head.digest for one in lists)

    @property
    def this_update(self) -> datetime:
        return (self.delta or self.complete).head.this_update

    @property
    def ends(self) -> datetime:
        heads = [self.complete.head] if self.delta is None else [self.complete.head, self.delta.head]
        return max(head.next_update or _NEVER for head in heads)


class ForeignRecords:
    """The lists of one authority as records; ``problems`` says what is missing."""

    def __init__(self, ca: ForeignCa, lists: Sequence[LoadedList]) -> None:
        self._unlisted = ca.unlisted
        self._issued = next((one.index for one in lists if one.head.kind is ListKind.ISSUED), None)
        given = {one.source: one for one in lists if one.source in ca.feeds}
        self._scopes, self.problems = _combine(ca, given)
        self.standing = self._standing(ca)
        self.reference = self._reference()

    def status(self, serial: int, number: int) -> CertificateStatus | None:
        """What is known of a serial number; ``number`` stands for the authority in the answer."""
        for scope in self._scopes:
            listed = scope.find(serial)
            if listed is not None:
                return _revoked(listed, number)
        if self._unlisted is Unlisted.UNKNOWN:
            return None
        if self._unlisted is Unlisted.ALLOW_LIST and (self._issued is None or self._issued.find(serial) is None):
            return None
        return CertificateStatus(0, number, CertificateState.ISSUED, None, _FOREVER)

    def _standing(self, ca: ForeignCa) -> Standing:
        if self.problems or not self._scopes:
            return Standing(_NEVER, _NEVER)
        ends = min(scope.ends for scope in self._scopes)
        lists = frozenset(digest for scope in self._scopes for digest in scope.digests)
        return Standing(min(scope.this_update for scope in self._scopes), ends + ca.tolerance, lists)

    def _reference(self) -> CrlReference | None:
        if len(self._scopes) != 1 or self._scopes[0].delta is not None:
            return None
        complete = self._scopes[0].complete
        url = complete.source if complete.source.startswith("http") else ""
        return CrlReference(url, complete.head.number, complete.head.this_update)


def _combine(ca: ForeignCa, given: dict[str, LoadedList]) -> tuple[tuple[_Scope, ...], tuple[str, ...]]:
    """Deltas to their complete lists (RFC 5280 section 5.2.4), and what stands in the way of any answer."""
    problems = [f"{source} has not given a list yet" for source in ca.feeds if source not in given]
    complete: dict[bytes, LoadedList] = {}
    for one in given.values():
        if one.head.kind is ListKind.COMPLETE:
            known = complete.get(one.head.scope)
            if known is None or known.head.number < one.head.number:
                complete[one.head.scope] = one
    deltas: dict[bytes, LoadedList] = {}
    for one in given.values():
        if one.head.kind is not ListKind.DELTA:
            continue
        base, other = complete.get(one.head.scope), deltas.get(one.head.scope)
        if base is None:
            problems.append(f"the delta from {one.source} belongs to no complete list that is fed")
        elif (one.head.base_number or 0) <= base.head.number < one.head.number and (
            other is None or other.head.number < one.head.number
        ):
            deltas[one.head.scope] = one
        # A delta for a later complete list waits for it; one that is no newer than its list says nothing more.
    return tuple(_Scope(one, deltas.get(scope)) for scope, one in complete.items()), tuple(problems)


def _revoked(listed: Listed, number: int) -> CertificateStatus:
    reason = RevocationReason(listed.reason)
    state = CertificateState.HELD if reason is RevocationReason.CERTIFICATE_HOLD else CertificateState.REVOKED
    date = None if listed.invalidity_date is None else _moment(listed.invalidity_date)
    revocation = Revocation(reason=reason, at=_moment(listed.revoked_at), invalidity_date=date)
    return CertificateStatus(0, number, state, revocation, _FOREVER)


def _moment(seconds: int) -> datetime:
    return _NEVER + timedelta(seconds=seconds)
