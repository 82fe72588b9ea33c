"""Settling what a dead process left behind, so that every serial has one known end.

An intent still *prepared* was never signed: its serial is burnt. An intent that was *asked* counts as issued, since a
signature may exist that nobody stored: the prepared certificate is kept as the record and its serial is revoked.
Neither was given out: what was to be spent on it is released in the same write.

Every process that issues keeps a lease under its own name; only intents whose holder's lease has run out are touched.
Even a wrong guess is safe: each step of the road is a conditional UPDATE, so a slow process that comes back finds its
intent gone and gives nothing out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime, timedelta

import attrs
from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import PkiError, Refusal, Rejected, Unavailable
from pkiserver.store import certificates, leases
from pkiserver.store.certificates import CertificateState, Intent
from pkiserver.store.database import Database
from pkiserver.store.failures import told_in_full

LEASE = timedelta(seconds=30)
"""How long an intent's holder is taken for alive after its last sign of life."""
BEAT = timedelta(seconds=10)
"""How often a process that issues gives a sign of life."""
_FORGET = timedelta(days=1)
"""When a holder's lease is forgotten, and what was left to be settled and never seen."""
_AT_ONCE = 1000


@attrs.frozen
class Settled:
    """How many open intents were given up (``burnt``) and how many were kept as issued and revoked (``kept``)."""

    burnt: int = 0
    kept: int = 0


Released = Callable[[Connection, int], None]
"""Makes usable again what was to be spent on a certificate, by its number; within the write that settles it."""


class Recovery:
    """Gives signs of life for this process, and settles what others left, or it could not end itself."""

    log = Logger()

    def __init__(
        self, *, database: Database, audit: AuditLog, clock: Clock, holder: str, released: Released | None = None
    ) -> None:
        self._released = released
        self._database = database
        self._audit = audit
        self._clock = clock
        self._holder = holder
        self._loop: LoopingCall | None = None
        self._is_known = False
        self._left: dict[int, float] = {}
        """By the monotonic clock, since when."""
        self.trouble = ""
        """Why the last sign of life could not be written; empty when it could."""

    async def start(self) -> None:
        """Give a sign of life and settle, now and then every :data:`BEAT` until :meth:`stop`.

        Where the database takes nothing now (its disk is full), :attr:`trouble` says so: who only reads can be served.
        """
        try:
            await self._begin()
        except Unavailable as error:
            self._tell(error)
        self._go_on()

    async def begin(self) -> None:
        """:meth:`start`, where that has not succeeded: whoever makes a certificate must be known to be alive.

        Raises:
            Unavailable: the database is away, or takes nothing.
        """
        if not self._is_known:
            await self._begin()
            self._go_on()

    async def _begin(self) -> None:
        await self.beat()
        await self.settle()

    def _go_on(self) -> None:
        if self._loop is None:
            self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self.give_sign()))
            self._loop.start(BEAT.total_seconds(), now=False)

    def _tell(self, error: PkiError) -> None:
        self.trouble = told_in_full(error)
        self.log.warn("no sign of life could be given: {why}", why=self.trouble)

    async def give_sign(self) -> None:
        """What is repeated; keeps in :attr:`trouble` why it did not succeed."""
        try:
            await self._begin()
        except PkiError as error:  # the database will be back; meanwhile nothing is issued either
            self._tell(error)
        else:
            self.trouble = ""

    async def beat(self) -> None:
        """A sign of life; before the first certificate, then every :data:`BEAT`."""
        now = self._clock.now()
        name = lease_name(self._holder)
        await self._database.write(
            lambda connection: leases.acquire(connection, name, self._holder, now=now, lasting=LEASE)
        )
        self._is_known = True

    async def stop(self) -> None:
        """The last sign of life, if there was a first: what this process left open may be settled by others at once.

        Where the database is away they settle it when the last sign of before is too old.
        """
        if self._loop is None:
            return
        self._loop.stop()
        self._loop = None
        now = self._clock.now()

        def work(connection: Connection) -> None:
            lease = leases.get(connection, lease_name(self._holder))
            if lease is not None:
                leases.release(connection, lease, now=now)

        try:
            await self._database.write(work)
        except PkiError as error:
            self.log.warn("no last sign of life could be given: {why}", why=told_in_full(error))

    def take_over(self, serial: int) -> None:
        """Settle an intent of this process with the next ones: what it was made for has ended, and could not say so.

        Where it cannot be seen yet (PostgreSQL goes on with a commit whose client has gone), as soon as it can.
        """
        self._left[serial] = self._clock.monotonic()

    async def settle(self) -> Settled:
        """Settle every open intent whose holder is dead; at start, and then with each :meth:`beat`.

        Those of this process that were left to it too.

        Raises:
            Unavailable: the database is away.
        """
        burnt = kept = 0
        before: int | None = None
        while True:
            found, before = await self._database.read(functools.partial(self._abandoned, before=before))
            for intent in found:  # newest first: a slot that learned for it had learned before
                if await self._database.write(functools.partial(self._settle, intent)):
                    burnt += intent.state is CertificateState.PREPARED
                    kept += intent.state is CertificateState.ASKED
                    self._left.pop(intent.serial, None)
            if before is None:
                break
        long_ago = self._clock.monotonic() - _FORGET.total_seconds()
        self._left = {serial: since for serial, since in self._left.items() if since > long_ago}
        now = self._clock.now()
        await self._database.write(
            lambda connection: leases.forget(connection, lease_name(""), expired_before=now - _FORGET)
        )
        if burnt or kept:
            self.log.warn("settled {burnt} abandoned and {kept} unfinished certificates", burnt=burnt, kept=kept)
        return Settled(burnt, kept)

    def _abandoned(self, connection: Connection, *, before: int | None) -> tuple[tuple[Intent, ...], int | None]:
        """Those to be settled of so many open ones below a number, newest first; and below which others may be."""
        now = self._clock.now()
        alive: dict[str, bool] = {self._holder: True}
        found = []
        page = certificates.open_intents(connection, before=before, limit=_AT_ONCE)
        for intent in page:
            if intent.holder not in alive:
                alive[intent.holder] = _is_alive(connection, intent.holder, now)
            if not alive[intent.holder] or intent.serial in self._left:
                found.append(intent)
        return tuple(found), page[-1].id if len(page) == _AT_ONCE else None

    def _settle(self, intent: Intent, connection: Connection) -> bool:
        now = self._clock.now()
        if intent.state is CertificateState.PREPARED:
            done = certificates.burn(connection, intent.id, at=now)
            outcome = "serial burnt: no signature was asked for"
        else:
            done = certificates.settle_asked(connection, intent.id, at=now)
            outcome = "kept as issued and revoked: a signature may exist"
        if done:
            if self._released is not None:
                self._released(connection, intent.id)
            event = AuditEvent(
                kind=AuditKind.RECOVERY,
                actor="recovery",
                object=f"certificate {intent.serial:x}",
                outcome="failed",
                request_id=intent.request_id or None,
                details=(("settled", outcome), ("subject", intent.subject), ("holder", intent.holder)),
            )
            self._audit.append(connection, event)
        return done


def _is_alive(connection: Connection, holder: str, now: datetime) -> bool:
    lease = leases.get(connection, lease_name(holder))
    return lease is not None and lease.expires > now


def require_nobody(connection: Connection, *, now: datetime) -> None:
    """Refuse what must not be done to a database while servers use it.

    Raises:
        Rejected: CONFLICT; some do, by name, or were killed less than :data:`LEASE` ago.
    """
    alive = [one.holder.split("/") for one in leases.living(connection, lease_name(""), now=now)]
    if alive:
        names = ", ".join(sorted(f"{node} (process {process})" for node, process, *_ in alive))
        text = (
            f"the database is in use by {names}: stop the server on every node first (one that was killed "
            f"counts for {LEASE.total_seconds():g} s)"
        )
        raise Rejected.because(Refusal.CONFLICT, text)


def lease_name(holder: str) -> str:
    """The lease that a process which issues keeps."""
    return f"issuer:{holder}"
