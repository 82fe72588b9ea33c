"""CRLs, complete and delta: collected in one snapshot, signed by the key generation's own key, kept and audited."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from datetime import datetime

import attrs
from sqlalchemy import Connection
from twisted.internet.threads import deferToThread

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.authority.authorities import Authorities
from pkiserver.authority.distribution import Distribution, scope_path
from pkiserver.authority.model import Authority, Duty, Generation, GenerationState
from pkiserver.authority.status.crlder import EncodedCrl
from pkiserver.authority.status.crlmaking import WantedCrl, make, scope_range
from pkiserver.authority.status.offline import read_complete, read_crl
from pkiserver.authority.status.policy import CLOCK_STEP
from pkiserver.authority.status.turns import Guard
from pkiserver.authority.validation.lists import read_head
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Defect, Refusal, Rejected
from pkiserver.keys.algorithms import SignatureScheme
from pkiserver.keys.keyring import KeyRing
from pkiserver.store.authority import crl_content, crl_history, crls, status
from pkiserver.store.authority.crl_history import CrlRecord
from pkiserver.store.authority.crls import FULL_SCOPE, Crl, CrlKind, CrlScope
from pkiserver.store.database import Database

_VERIFY_INLINE = 1 << 20
"""A list up to this length is read back where it was made; of a longer one a thread reads all but the entries."""
_HIGHEST_FLOOR = 1 << 62


class Cause(enum.StrEnum):
    """Why a list is issued."""

    SCHEDULE = "schedule"
    REVOCATION = "revocation"
    DEMAND = "demand"
    IMPORT = "import"


class Parts(enum.StrEnum):
    """What is issued together, under one number: where deltas are on, a complete list never comes without one."""

    COMPLETE = "complete"
    DELTA = "delta"


@attrs.frozen
class CrlStanding:
    """A scope's newest lists and what has happened since the newest complete one; None before the first."""

    newest: CrlRecord | None
    changed: datetime | None
    delta: CrlRecord | None = None


def issues_crls(authority: Authority, generation: Generation) -> bool:
    """Whether this server issues lists for a generation: its key is here and its certificate permits it."""
    return (
        authority.settings.crl.enabled
        and generation.state in {GenerationState.ACTIVE, GenerationState.PREVIOUS}
        and generation.key_name is not None
        and Duty.CRLS in generation.duties
    )


@attrs.frozen
class _Taken:
    """A number, the scope that it is for, and the time of that scope's last list."""

    scope: CrlScope
    number: int
    last_update: datetime | None


@attrs.frozen
class _Event:
    """What is written into the audit log about a list."""

    authority: Authority
    generation: Generation
    scope: str
    actor: str
    cause: Cause


def _signing_key(authority: Authority, generation: Generation) -> str:
    if generation.key_name is None:
        text = f"the key of authority {authority.name} is not on this server (offline): import its CRL"
        raise Rejected.because(Refusal.CONFIGURATION, text)
    if Duty.CRLS not in generation.duties:
        text = f"the certificate of authority {authority.name} does not permit signing CRLs (cRLSign)"
        raise Rejected.because(Refusal.CONFIGURATION, text)
    return generation.key_name


class CrlIssuer:
    """Issues and keeps lists.

    What a list covers is its scope: by default everything revoked under the issuer's name for the first key of that
    name, without an issuingDistributionPoint, and for every later key what that key signed, bounded by one (RFC 5280
    sections 5 and 5.2.5). Each generation's lists are signed by that generation's key.
    """

    def __init__(
        self, database: Database, audit: AuditLog, keys: KeyRing, authorities: Authorities, clock: Clock
    ) -> None:
        self._database = database
        self._audit = audit
        self._keys = keys
        self._authorities = authorities
        self._clock = clock

    async def scopes(self, generation: Generation) -> tuple[CrlScope, ...]:
        """The scopes of a generation that have lists, or that certificates name."""
        return await self._database.read(lambda connection: crls.scopes_of(connection, generation.id))

    async def standing(self, authority: Authority, generation: Generation, scope: str = FULL_SCOPE) -> CrlStanding:
        """The newest lists and the first change of status that is not on the complete one."""

        def work(connection: Connection) -> CrlStanding:
            found = crls.find(connection, generation.id, scope)
            newest = None if found is None else crl_history.newest(connection, found.id)
            if found is None or newest is None:
                return CrlStanding(None, None)
            delta = crl_history.newest(connection, found.id, CrlKind.DELTA)
            seen = newest.status_seq
            if delta is not None and delta.number > newest.number:
                seen = delta.status_seq
            within = scope_range(connection, found)
            changed = crl_content.first_change(connection, authority.issuer_id, within, seen)
            return CrlStanding(newest, None if changed is None else changed[1], delta)

        return await self._database.read(work)

    async def history(
        self, generation: Generation, *, limit: int, scope: str = FULL_SCOPE, kind: CrlKind = CrlKind.COMPLETE
    ) -> tuple[CrlRecord, ...]:
        """The lists of a generation that are kept, newest first, without their octets."""

        def work(connection: Connection) -> tuple[CrlRecord, ...]:
            scope_id = crl_history.find_scope(connection, generation.id, scope)
            return () if scope_id is None else crl_history.records(connection, scope_id, kind, limit=limit)

        return await self._database.read(work)

    async def kept(
        self,
        generation: Generation,
        number: int | None = None,
        *,
        scope: str = FULL_SCOPE,
        kind: CrlKind = CrlKind.COMPLETE,
    ) -> Crl | None:
        """The newest list of a generation, or the one of that number while it is kept."""

        def work(connection: Connection) -> Crl | None:
            scope_id = crl_history.find_scope(connection, generation.id, scope)
            if scope_id is None:
                return None
            if number is None:
                return crls.latest(connection, scope_id, kind)
            return crls.get(connection, scope_id, number, kind)

        return await self._database.read(work)

    async def issue(
        self,
        authority: Authority,
        generation: Generation,
        *,
        actor: str,
        cause: Cause,
        guard: Guard | None = None,
        scope: str = FULL_SCOPE,
        parts: Parts = Parts.COMPLETE,
    ) -> Crl:
        """Issue the next list of a scope, now; the complete one where both kinds come of it.

        A crash on the way leaves a gap in the numbers and nothing else.

        Raises:
            Rejected: This server cannot issue lists for the generation, or it has no such scope; with the reason.
            Unavailable: Key or database are away, or ``guard`` found that another process issues.
        """
        key_name = _signing_key(authority, generation)
        self._keys.require_ready(key_name)  # a long list is not made in vain, nor a number taken
        distribution = self._authorities.distribution(authority, generation)
        taken = await self._database.write(lambda connection: _take_number(connection, distribution, scope, guard))
        scheme = authority.scheme(generation)
        policy = authority.settings.crl
        wanted = WantedCrl(
            ca=generation.certificate,
            algorithm=scheme.algorithm_identifier(),
            scope=taken.scope,
            number=taken.number,
            this_update=issue_time(self._clock.now(), taken.last_update),
            policy=policy,
            delta_urls=distribution.of_scope(taken.scope).delta_urls,
            complete=parts is Parts.COMPLETE,
            delta=policy.delta is not None,
        )
        made = await self._database.read(lambda connection: make(connection, wanted))
        issued = [
            await self._sign(wanted, kind, encoded, key_name, base_number=base, seq=made.seq)
            for kind, encoded, base in (
                (CrlKind.COMPLETE, made.complete, None),
                (CrlKind.DELTA, made.delta, made.base_number),
            )
            if encoded is not None
        ]
        await self._keep(_Event(authority, generation, scope, actor, cause), issued, guard)
        return issued[0]

    async def _sign(
        self, wanted: WantedCrl, kind: CrlKind, encoded: EncodedCrl, key_name: str, *, base_number: int | None, seq: int
    ) -> Crl:
        signer = self._keys.crl_signer(key_name)
        head = wanted.complete_head() if kind is CrlKind.COMPLETE else wanted.delta_head(base_number or 0)
        octets = await signer.sign(encoded.der, SignatureScheme.of_identifier(wanted.algorithm))
        await _read_back(octets, wanted)
        return Crl(
            scope_id=wanted.scope.id,
            kind=kind,
            number=wanted.number,
            base_number=base_number,
            this_update=head.this_update,
            next_update=head.next_update,
            der=octets,
            entries=encoded.entries,
            status_seq=seq,
        )

    async def install(self, authority: Authority, generation: Generation, data: bytes, *, actor: str) -> Crl:
        """Keep and serve a list that was signed elsewhere, as for an offline root.

        Raises:
            Rejected: It is not this generation's, not complete, from the future, lacks number or nextUpdate, does not
                rise, or is older than the list before.
        """
        view, number, next_update = read_complete(data, generation.certificate, self._clock.now())

        def work(connection: Connection) -> Crl:
            scope = crls.scope_for(connection, authority.issuer_id, generation.id)
            if not crl_history.use_issuer_number(connection, authority.issuer_id, scope.id, FULL_SCOPE, number):
                raise Rejected.because(Refusal.CONFLICT, f"CRL number {number} does not rise")
            last = crl_history.newest_time(connection, scope.id)
            if last is not None and view.this_update < last:
                text = f"the list is older than the one that is served ({last:%Y-%m-%d %H:%M:%SZ})"
                raise Rejected.because(Refusal.CONFLICT, text)
            return Crl(
                scope_id=scope.id,
                kind=CrlKind.COMPLETE,
                number=number,
                base_number=None,
                this_update=view.this_update,
                next_update=next_update,
                der=data,
                entries=len(view.crl),
                status_seq=status.latest(connection),
            )

        issued = await self._database.write(work)
        await self._keep(_Event(authority, generation, FULL_SCOPE, actor, Cause.IMPORT), [issued], None)
        return issued

    async def highest_number(self, authority: Authority) -> int:
        """The highest number that a list under the authority's name may have."""
        issuer_id = authority.issuer_id
        return await self._database.read(lambda connection: crl_history.highest_number(connection, issuer_id))

    async def last_numbers(self, authority: Authority) -> tuple[Mapping[str, int], int]:
        """The last number taken in each scope under the authority's name, and the floor that all new ones are above."""
        issuer_id = authority.issuer_id
        return await self._database.read(
            lambda c: (crl_history.last_numbers(c, issuer_id), crl_history.floor(c, issuer_id))
        )

    async def advance(self, authority: Authority, number: int, *, actor: str) -> int:
        """Let every new list under the authority's name have a number above this one; above which they are now.

        For a database that is older than the lists that were published from it.

        Raises:
            Rejected: The number leaves too few above it.
            Unavailable: The database is away.
        """
        if number > _HIGHEST_FLOOR:
            raise Rejected.because(Refusal.CONFIGURATION, f"CRL numbers can be moved to {_HIGHEST_FLOOR} at most")
        issuer_id = authority.issuer_id

        def work(connection: Connection) -> int:
            before = crl_history.floor(connection, issuer_id)
            crl_history.advance(connection, issuer_id, number)
            after = crl_history.floor(connection, issuer_id)
            if after != before:
                details = (("operation", "numbers moved forward"), ("number", str(after)))
                about = f"authority {authority.name}"
                event = AuditEvent(AuditKind.CRL, actor, about, outcome="ok", request_id=None, details=details)
                self._audit.append(connection, event)
            return crl_history.highest_number(connection, issuer_id)

        return await self._database.write(work)

    async def _keep(self, what: _Event, issued: Iterable[Crl], guard: Guard | None) -> None:
        events = [(one, _event(what, one)) for one in issued]
        keep = what.authority.settings.crl.keep

        def work(connection: Connection) -> None:
            if guard is not None:
                guard(connection)
            for one, event in events:
                newest = _newest_number(connection, one.scope_id)
                if newest is not None and newest > one.number:
                    raise Rejected.because(Refusal.CONFLICT, f"CRL number {newest} has been issued meanwhile")
                crls.store(connection, one)
                crls.forget_before(connection, one.scope_id, one.this_update - keep)
                self._audit.append(connection, event)

        await self._database.write(work)


async def _read_back(octets: bytes, wanted: WantedCrl) -> None:
    """Look at what the token gave as a client would, before anybody sees it; raises :class:`Defect`."""
    try:
        if len(octets) <= _VERIFY_INLINE:
            number = read_crl(octets, wanted.ca).number
        else:
            number = (await deferToThread(read_head, octets, wanted.ca)).number
    except Rejected as error:
        raise Defect(f"a CRL that was just signed is none: {error}") from error
    if number != wanted.number:
        raise Defect("a CRL does not say what it was made from")


def _newest_number(connection: Connection, scope_id: int) -> int | None:
    """Of both kinds, which share their numbers."""
    numbers = [crls.latest_number(connection, scope_id, kind) for kind in CrlKind]
    return max((number for number in numbers if number is not None), default=None)


def _event(what: _Event, issued: Crl) -> AuditEvent:
    path = scope_path(what.generation.crl_path, what.scope)
    details = [
        ("scope", path),
        ("number", str(issued.number)),
        ("entries", str(issued.entries)),
        ("cause", what.cause.value),
        ("next_update", f"{issued.next_update:%Y-%m-%dT%H:%M:%SZ}"),
    ]
    if issued.base_number is not None:
        details.append(("base_number", str(issued.base_number)))
    return AuditEvent(
        kind=AuditKind.CRL,
        actor=what.actor,
        object=f"authority {what.authority.name}, key {what.generation.number}",
        outcome="ok",
        request_id=None,
        details=tuple(details),
    )


def _take_number(connection: Connection, distribution: Distribution, name: str, guard: Guard | None) -> _Taken:
    if guard is not None:
        guard(connection)
    scope = define(connection, distribution, name)
    number = crl_history.next_issuer_number(connection, scope.issuer_id, scope.id, scope.scope)
    return _Taken(scope, number, crl_history.newest_time(connection, scope.id))


def issue_time(now: datetime, last: datetime | None) -> datetime:
    """thisUpdate, in whole seconds: not before that of the list before, unless the clock was far ahead then."""
    now = now.replace(microsecond=0)
    return now if last is None or last > now + CLOCK_STEP else max(now, last)


def define(connection: Connection, distribution: Distribution, name: str) -> CrlScope:
    """The scope of that name of a generation: as the settings have it now, or as certificates made it.

    Raises:
        Rejected: neither knows it.
    """
    points = {point.scope: point for point in distribution.standing()}
    point = points.get(name)
    if point is None:
        known = crls.find(connection, distribution.generation.id, name)
        if known is not None:
            return known
        if name != FULL_SCOPE:
            text = f"authority {distribution.authority.name} has no distribution point {name!r}"
            raise Rejected.because(Refusal.CONFIGURATION, text)
        point = distribution.main()
    return crls.define_scope(
        connection, point.issuer_id, point.generation_id, point.scope, point.cover, announced=False
    )
