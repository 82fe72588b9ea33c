"""Complete CRLs: collected in one snapshot, signed by the key generation's own key, kept and audited."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import attrs
from sqlalchemy import Connection

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.authority.authorities import Authorities
from pkiserver.authority.model import Authority, Duty, Generation, GenerationState
from pkiserver.authority.status.crlder import CrlEntry, CrlHead, EncodedCrl, encode_tbs
from pkiserver.authority.status.offline import read_crl
from pkiserver.authority.status.turns import Guard
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Defect, Refusal, Rejected
from pkiserver.keys.keyring import KeyRing
from pkiserver.store import crl_history, crls, status
from pkiserver.store.crl_history import CrlRecord
from pkiserver.store.crls import FULL_SCOPE, Crl, CrlKind
from pkiserver.store.database import Database

_VERIFY_INLINE = 1 << 20
"""A list up to this length is read back and verified at once; a longer one would hold up the reactor."""
_LARGEST_NUMBER = (1 << 63) - 2
_FOREVER_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class Cause(enum.StrEnum):
    """Why a list is issued."""

    SCHEDULE = "schedule"
    REVOCATION = "revocation"
    DEMAND = "demand"
    IMPORT = "import"


@attrs.frozen
class CrlStanding:
    """A key generation's newest list and what has happened since; both None before the first list."""

    newest: CrlRecord | None
    changed: datetime | None


def issues_crls(authority: Authority, generation: Generation) -> bool:
    """Whether this server issues lists for a generation: its key is here and its certificate permits it."""
    return (
        authority.settings.crl.enabled
        and generation.state in {GenerationState.ACTIVE, GenerationState.PREVIOUS}
        and generation.key_name is not None
        and Duty.CRLS in generation.duties
    )


@attrs.frozen
class _Event:
    """What is written into the audit log about a list."""

    authority: Authority
    generation: Generation
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
    """Issues and keeps complete lists.

    A list names everything revoked under the issuer's name, whichever of its keys signed the certificate: without an
    issuingDistributionPoint its scope is all of the issuer's certificates (RFC 5280 section 5). Each generation's
    list is signed by that generation's key, for the certificates whose distribution point names it.
    """

    def __init__(
        self, database: Database, audit: AuditLog, keys: KeyRing, authorities: Authorities, clock: Clock
    ) -> None:
        self._database = database
        self._audit = audit
        self._keys = keys
        self._authorities = authorities
        self._clock = clock

    async def standing(self, authority: Authority, generation: Generation) -> CrlStanding:
        """The newest list and the first change of status that is not on it."""

        def work(connection: Connection) -> CrlStanding:
            scope_id = crl_history.find_scope(connection, generation.id, FULL_SCOPE)
            newest = None if scope_id is None else crl_history.newest(connection, scope_id)
            if newest is None:
                return CrlStanding(None, None)
            changed = crl_history.first_change_after(connection, authority.issuer_id, newest.status_seq)
            return CrlStanding(newest, changed)

        return await self._database.read(work)

    async def history(self, generation: Generation, *, limit: int) -> tuple[CrlRecord, ...]:
        """The lists of a generation that are kept, newest first, without their octets."""

        def work(connection: Connection) -> tuple[CrlRecord, ...]:
            scope_id = crl_history.find_scope(connection, generation.id, FULL_SCOPE)
            return () if scope_id is None else crl_history.records(connection, scope_id, limit=limit)

        return await self._database.read(work)

    async def kept(self, generation: Generation, number: int | None = None) -> Crl | None:
        """The newest list of a generation, or the one of that number while it is kept."""

        def work(connection: Connection) -> Crl | None:
            scope_id = crl_history.find_scope(connection, generation.id, FULL_SCOPE)
            if scope_id is None:
                return None
            return crls.latest(connection, scope_id) if number is None else crls.get(connection, scope_id, number)

        return await self._database.read(work)

    async def issue(
        self,
        authority: Authority,
        generation: Generation,
        *,
        actor: str,
        cause: Cause,
        guard: Guard | None = None,
    ) -> Crl:
        """Issue the next complete list of a generation, now.

        A crash on the way leaves a gap in the numbers and nothing else.

        Raises:
            Rejected: This server cannot issue lists for the generation, with the reason.
            Unavailable: Key or database are away, or ``guard`` found that another process issues.
        """
        key_name = _signing_key(authority, generation)
        scope_id, number = await self._database.write(
            lambda connection: _take_number(connection, generation, authority, guard)
        )
        issued = await self._make(authority, generation, key_name, scope_id, number)
        await self._keep(_Event(authority, generation, actor, cause), issued, guard)
        return issued

    async def _make(
        self, authority: Authority, generation: Generation, key_name: str, scope_id: int, number: int
    ) -> Crl:
        signer = self._keys.crl_signer(key_name)
        scheme = authority.scheme(generation)
        policy = authority.settings.crl
        ca = generation.certificate
        now = self._clock.now().replace(microsecond=0)
        head = CrlHead(
            issuer=ca.subject_der,
            algorithm=scheme.algorithm_identifier(),
            this_update=now,
            next_update=now + policy.validity,
            number=number,
            key_identifier=ca.key_identifier,
        )
        others = tuple(one.id for one in authority.generations)
        encoded, seq = await self._database.read(
            lambda connection: _collect(connection, head, scope_id, others, policy.interval)
        )
        octets = await signer.sign(encoded.der, scheme)
        if len(octets) <= _VERIFY_INLINE and read_crl(octets, ca).number != number:
            raise Defect("a CRL does not say what it was made from")
        return Crl(
            scope_id=scope_id,
            kind=CrlKind.COMPLETE,
            number=number,
            base_number=None,
            this_update=head.this_update,
            next_update=head.next_update,
            der=octets,
            entries=encoded.entries,
            status_seq=seq,
        )

    async def install(self, authority: Authority, generation: Generation, data: bytes, *, actor: str) -> Crl:
        """Keep and serve a list that was signed elsewhere, as for an offline root.

        Raises:
            Rejected: It is not this generation's, not complete, lacks number or nextUpdate, or does not rise.
        """
        view = read_crl(data, generation.certificate)
        if not view.is_complete:
            raise Rejected.because(Refusal.UNSUPPORTED, "the list is not a complete one")
        if view.number is None or view.next_update is None:
            raise Rejected.because(Refusal.UNSUPPORTED, "the list lacks a CRL number or nextUpdate")
        if view.number > _LARGEST_NUMBER:
            raise Rejected.because(Refusal.UNSUPPORTED, "CRL numbers above 63 bits are not kept here")
        number, next_update = view.number, view.next_update

        def work(connection: Connection) -> Crl:
            scope = crls.scope_for(connection, authority.issuer_id, generation.id)
            if not crl_history.use_issuer_number(connection, authority.issuer_id, scope.id, FULL_SCOPE, number):
                raise Rejected.because(Refusal.CONFLICT, f"CRL number {number} does not rise")
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
        await self._keep(_Event(authority, generation, actor, Cause.IMPORT), issued, None)
        return issued

    async def _keep(self, what: _Event, issued: Crl, guard: Guard | None) -> None:
        event = AuditEvent(
            kind=AuditKind.CRL,
            actor=what.actor,
            object=f"authority {what.authority.name}, key {what.generation.number}",
            outcome="ok",
            request_id=None,
            details=(
                ("number", str(issued.number)),
                ("entries", str(issued.entries)),
                ("cause", what.cause.value),
                ("next_update", f"{issued.next_update:%Y-%m-%dT%H:%M:%SZ}"),
            ),
        )
        forgotten = issued.this_update - what.authority.settings.crl.keep

        def work(connection: Connection) -> None:
            if guard is not None:
                guard(connection)
            newest = crls.latest_number(connection, issued.scope_id)
            if newest is not None and newest >= issued.number:
                raise Rejected.because(Refusal.CONFLICT, f"CRL number {newest} has been issued meanwhile")
            crls.store(connection, issued)
            crls.forget_before(connection, issued.scope_id, forgotten)
            self._audit.append(connection, event)

        await self._database.write(work)


def _take_number(
    connection: Connection, generation: Generation, authority: Authority, guard: Guard | None
) -> tuple[int, int]:
    if guard is not None:
        guard(connection)
    scope = crls.scope_for(connection, authority.issuer_id, generation.id)
    return scope.id, crl_history.next_issuer_number(connection, authority.issuer_id, scope.id, FULL_SCOPE)


def _collect(
    connection: Connection, head: CrlHead, scope_id: int, generations: tuple[int, ...], interval: timedelta
) -> tuple[EncodedCrl, int]:
    """Encode the list from one snapshot; with it the number of the last change that the snapshot shows.

    An entry stays until it has been on one regularly scheduled list after its certificate expired (RFC 5280 section
    3.3). Lists may come between by demand or revocation, so what counts is the list in force one interval ago: since
    then a scheduled one has been.
    """
    seq = status.latest(connection)
    shown = crl_history.newest_until(connection, scope_id, head.this_update - interval) or _FOREVER_AGO
    return encode_tbs(head, _entries(connection, generations, shown)), seq


def _entries(connection: Connection, generations: tuple[int, ...], not_expired_at: datetime) -> Iterator[CrlEntry]:
    for generation_id in generations:
        for one in crl_history.revoked_entries(connection, generation_id, not_expired_at):
            yield CrlEntry._make(one)
