"""Lists of other authorities into the database: all of a list or nothing, and no older one unasked."""

from __future__ import annotations

import hashlib
import secrets
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

import attrs
from sqlalchemy import Connection
from twisted.internet.threads import deferToThread

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.authority.validation.lists import ReadList, read_issued
from pkiserver.authority.validation.reading import IN_PLACE, read_apart
from pkiserver.authority.validation.settings import ForeignCa
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.store.authority import foreign
from pkiserver.store.authority.foreign import ListHead, SourceState
from pkiserver.store.database import Database

ISSUED = "issued"
"""The source of a list of issued serial numbers, which an operator gives."""
_AHEAD = timedelta(minutes=10)
"""How far the clock of another authority may be before ours."""


@attrs.frozen
class Imported:
    """What an import did; ``changed`` is False where the very list was there already."""

    head: ListHead
    changed: bool


@attrs.frozen(eq=False)
class _Arrival:
    """A list that was read, what its source gave before, and the number that its parts are written under."""

    source: str
    read: ReadList
    before: SourceState | None
    # A number of our own: another process that imports at the same time writes other parts.
    revision: int = attrs.field(factory=lambda: secrets.randbelow((1 << 62) - 1) + 1)

    @property
    def present(self) -> int:
        """The number of the parts that count until now."""
        return 0 if self.before is None else self.before.revision


class Importer:
    """Puts lists into the database."""

    def __init__(self, database: Database, audit: AuditLog, clock: Clock) -> None:
        self._database = database
        self._audit = audit
        self._clock = clock

    async def take(self, ca: ForeignCa, source: str, data: bytes, *, actor: str) -> Imported:
        """Read a DER CRL, verify it, and let it count from now on in the place of the source's earlier one.

        Raises:
            Rejected: it is not this authority's, not understood, older than what is there, of another kind or scope, or
                from the future.
            Unavailable: the database is away.
        """
        before = await self._before(ca.name, source)
        present = None if before is None else before.head
        if present is not None and present.digest == await _digest(data):
            return Imported(present, changed=False)
        with _naming(source):
            read = await self._read(ca, data)
            if present is not None:
                _refuse_older(ca.name, source, present, read.head)
        await self._put(ca.name, (_Arrival(source, read, before),), actor)
        return Imported(read.head, changed=True)

    async def take_anew(self, ca: ForeignCa, given: Sequence[tuple[str, bytes]], *, actor: str) -> int:
        """Let these DER CRLs count from now on whatever their sources gave before; how many are other lists than those.

        All or none: each is verified before the first one counts. That an earlier list is given up is audited.

        Raises:
            Rejected: one of them is not this authority's, not understood, or from the future.
            Unavailable: the database is away.
        """
        arrivals = []
        for source, data in given:
            before = await self._before(ca.name, source)
            if before is None or before.head is None or before.head.digest != await _digest(data):
                with _naming(source):
                    read = await self._read(ca, data)
                arrivals.append(_Arrival(source, read, before))
        if arrivals:
            await self._put(ca.name, arrivals, actor, anew=True)
        return len(arrivals)

    async def take_issued(self, ca: ForeignCa, data: bytes, *, actor: str) -> Imported:
        """Replace the list of issued serial numbers; raises as :meth:`take`."""
        before = await self._before(ca.name, ISSUED)
        read = read_issued(data, self._clock.now())
        await self._put(ca.name, (_Arrival(ISSUED, read, before),), actor)
        return Imported(read.head, changed=True)

    async def _before(self, name: str, source: str) -> SourceState | None:
        return await self._database.read(lambda connection: foreign.state(connection, name, source))

    async def _read(self, ca: ForeignCa, data: bytes) -> ReadList:
        read = await read_apart(data, ca.ca())
        if read.head.this_update > self._clock.now() + _AHEAD:
            raise Rejected.because(
                Refusal.BAD_VALIDITY, "the list was issued in the future: one of the clocks is wrong"
            )
        return read

    async def _put(self, name: str, arrivals: Sequence[_Arrival], actor: str, *, anew: bool = False) -> None:
        for one in arrivals:
            for number, octets in enumerate(one.read.parts):
                # One write each: nobody else who writes waits for all of a long list.
                await self._database.write(
                    partial(
                        foreign.write_part,
                        authority=name,
                        source=one.source,
                        revision=one.revision,
                        part=number,
                        octets=octets,
                    )
                )

        def work(connection: Connection) -> None:
            now = self._clock.now()
            for one in arrivals:
                head = one.read.head
                foreign.switch(connection, name, one.source, head, before=one.present, revision=one.revision, now=now)
                self._audit.append(connection, _event(name, one, actor, anew=anew))

        await self._database.write(work)
        for one in arrivals:
            # Not the one before: a process may be reading it this moment.
            keep = (one.revision, one.present)
            await self._database.write(partial(foreign.clear_parts, authority=name, source=one.source, keep=keep))


@contextmanager
def _naming(source: str) -> Iterator[None]:
    try:
        yield
    except Rejected as error:
        raise Rejected(Reason(one.code, f"{source}: {one.text}") for one in error.reasons) from error


async def _digest(data: bytes) -> bytes:
    """SHA-256; of a long list, which comes whole at each look where there are no ETags, in a thread."""
    if len(data) <= IN_PLACE:
        return hashlib.sha256(data).digest()
    digest: bytes = await deferToThread(lambda: hashlib.sha256(data).digest())
    return digest


def _event(name: str, one: _Arrival, actor: str, *, anew: bool) -> AuditEvent:
    head, before = one.read.head, None if one.before is None else one.before.head
    details = [
        ("source", one.source),
        ("kind", head.kind.value),
        ("number", str(head.number)),
        ("entries", str(head.entries)),
    ]
    if anew:
        details += [("cause", "reset"), ("before", "none" if before is None else f"{before.kind} {before.number}")]
    return AuditEvent(
        kind=AuditKind.CRL,
        actor=actor,
        object=f"foreign CA {name}",
        outcome="ok",
        request_id=None,
        details=tuple(details),
    )


def _refuse_older(name: str, source: str, present: ListHead, new: ListHead) -> None:
    command = f"pkiserver responder reset {name} --feed {shlex.quote(source)}"
    if new.kind is not present.kind or new.scope != present.scope:
        text = f"this source gave a {present.kind} list until now; the new one is {new.kind} or covers something else"
        raise Rejected.because(Refusal.CONFLICT, f"{text}; if that is meant: {command}")
    if new.number < present.number or new.this_update < present.this_update:
        text = (
            f"list {new.number} of {new.this_update:%Y-%m-%d %H:%M:%SZ} is older than what is there"
            f" ({present.number} of {present.this_update:%Y-%m-%d %H:%M:%SZ})"
        )
        raise Rejected.because(Refusal.CONFLICT, f"{text}; if the numbers began anew: {command}")
