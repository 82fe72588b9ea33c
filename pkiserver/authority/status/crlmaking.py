"""What stands on a list and on its delta, read in one snapshot of the database and encoded for signing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import attrs
from sqlalchemy import Connection

from pkiserver.authority.model import CaCertificate
from pkiserver.authority.status.crlder import CrlEntry, CrlHead, EncodedCrl, encode_tbs
from pkiserver.authority.status.crlext import (
    delta_indicator,
    expired_certs_on_crl,
    freshest_crl,
    issuing_distribution_point,
)
from pkiserver.authority.status.policy import CrlPolicy
from pkiserver.foundation.interpreter import sharing
from pkiserver.store.authority import crl_content, crl_history, status
from pkiserver.store.authority.crl_content import Entry, Range
from pkiserver.store.authority.crls import CrlScope

_FOREVER_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@attrs.frozen
class WantedCrl:
    """A list to be made, its number taken.

    Attributes:
        ca: The certificate of the key that will sign.
        algorithm: The AlgorithmIdentifier of the signature, DER.
        scope: What it covers.
        number: Its number, that of its delta too.
        this_update: Its issue time, in whole seconds.
        policy: How long it is valid, and so on.
        delta_urls: Where its deltas are.
        complete: Whether the complete list is wanted; where there is no list for a delta to build on, it is.
        delta: Whether the delta is.
    """

    ca: CaCertificate
    algorithm: bytes = attrs.field(repr=False)
    scope: CrlScope
    number: int
    this_update: datetime
    policy: CrlPolicy
    delta_urls: tuple[str, ...]
    complete: bool
    delta: bool

    def complete_head(self) -> CrlHead:
        """The head of the complete list."""
        extensions = (*issuing_distribution_point(self.scope.cover), *freshest_crl(self.delta_urls))
        if self.policy.keep_expired:
            extensions += (expired_certs_on_crl(self.ca.certificate.not_valid_before_utc),)
        return self._head(self.policy.validity, extensions)

    def delta_head(self, base_number: int) -> CrlHead:
        """The head of a delta to the list of that number, whose issuing distribution point it shares."""
        assert self.policy.delta is not None
        extensions = (delta_indicator(base_number), *issuing_distribution_point(self.scope.cover))
        return self._head(self.policy.delta.validity, extensions)

    def _head(self, validity: timedelta, extensions: tuple[bytes, ...]) -> CrlHead:
        return CrlHead(
            issuer=self.ca.subject_der,
            algorithm=self.algorithm,
            this_update=self.this_update,
            next_update=self.this_update + validity,
            number=self.number,
            key_identifier=self.ca.key_identifier,
            extensions=extensions,
        )


@attrs.frozen
class MadeCrl:
    """A list and its delta, to be signed; ``seq`` is the last change of status that they show."""

    complete: EncodedCrl | None
    delta: EncodedCrl | None
    base_number: int | None
    seq: int


def scope_range(connection: Connection, scope: CrlScope) -> Range:
    """Which certificates a scope has: of its own key, or of every key of the issuer's name."""
    own = scope.cover.bounded
    generations = (scope.generation_id,) if own else crl_content.issuer_generations(connection, scope.issuer_id)
    return Range(generations, scope.cover)


@sharing()
def make(connection: Connection, wanted: WantedCrl) -> MadeCrl:
    """Encode what is wanted from one snapshot.

    A delta builds on the oldest complete list that is still in force, so that whoever has any list in force can bring
    it up to date by the newest delta. The first delta of a scope builds on the list that it comes with, and is empty.
    """
    seq = status.latest(connection)
    scope = scope_range(connection, wanted.scope)
    shown = _shown_until(connection, wanted, wanted.this_update)
    base = None
    if wanted.delta:
        base = crl_history.oldest_in_force(connection, wanted.scope.id, wanted.this_update, wanted.scope.since)
    complete = None
    if wanted.complete or base is None:
        complete = encode_tbs(wanted.complete_head(), _entries(crl_content.revoked(connection, scope, shown)))
    if not wanted.delta:
        return MadeCrl(complete, None, None, seq)
    if base is None:
        return MadeCrl(complete, encode_tbs(wanted.delta_head(wanted.number), ()), wanted.number, seq)
    changes = _changes(connection, wanted, scope, (base.status_seq, base.this_update), shown)
    return MadeCrl(complete, encode_tbs(wanted.delta_head(base.number), changes), base.number, seq)


def _changes(
    connection: Connection, wanted: WantedCrl, scope: Range, base: tuple[int, datetime], shown: datetime
) -> Iterator[CrlEntry]:
    """What changed since a list, and which of its entries a complete list would have no more because they expired."""
    seq, this_update = base
    yield from _entries(crl_content.changed(connection, wanted.scope.issuer_id, scope, seq, shown))
    yield from _entries(crl_content.dropped(connection, scope, _shown_until(connection, wanted, this_update), shown))


def _shown_until(connection: Connection, wanted: WantedCrl, this_update: datetime) -> datetime:
    """Certificates that expired before that are not on a list of ``this_update``.

    An entry stays until it has been on one regularly scheduled list after its certificate expired (RFC 5280 section
    3.3). Lists may come between by demand or revocation, so what counts is the list in force one interval ago: since
    then a scheduled one has been.
    """
    if wanted.policy.keep_expired:
        return _FOREVER_AGO
    moment = this_update - wanted.policy.interval
    return crl_history.newest_until(connection, wanted.scope.id, moment) or _FOREVER_AGO


def _entries(found: Iterator[Entry]) -> Iterator[CrlEntry]:
    return map(CrlEntry._make, found)
