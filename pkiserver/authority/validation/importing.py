"""Lists of other authorities into the database: all of a list or nothing, and never an older one."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta

import attrs
from sqlalchemy import Connection

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.authority.validation.lists import ReadList, read_issued
from pkiserver.authority.validation.reading import read_apart
from pkiserver.authority.validation.settings import ForeignCa
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.store import foreign
from pkiserver.store.database import Database
from pkiserver.store.foreign import ListHead, SourceState

ISSUED = "issued"
"""The source of a list of issued serial numbers, which an operator gives."""
_AHEAD = timedelta(minutes=10)
"""How far the clock of another authority may be before ours."""


@attrs.frozen
class Imported:
    """What an import did; ``changed`` is False where the very list was there already."""

    head: ListHead
    changed: bool


class Importer:
    """Puts lists into the database."""

    def __init__(self, database: Database, audit: AuditLog, clock: Clock) -> None:
        self._database = database
        self._audit = audit
        self._clock = clock

    async def take(self, ca: ForeignCa, source: str, data: bytes, *, actor: str) -> Imported:
        """Read a DER CRL, verify it, and let it count from now on in the place of the source's earlier one.

        Raises:
            Rejected: it is not this authority's, not understood, older than what is there, or from the future.
            Unavailable: the database is away.
        """
        before = await self._database.read(lambda connection: foreign.state(connection, ca.name, source))
        head = None if before is None else before.head
        if head is not None and head.digest == hashlib.sha256(data).digest():
            return Imported(head, changed=False)
        read = await read_apart(data, ca.ca())
        if read.head.this_update > self._clock.now() + _AHEAD:
            raise Rejected.because(
                Refusal.BAD_VALIDITY, "the list was issued in the future: one of the clocks is wrong"
            )
        if head is not None:
            _refuse_older(head, read.head)
        await self._put(ca.name, source, read, before, actor)
        return Imported(read.head, changed=True)

    async def take_issued(self, ca: ForeignCa, data: bytes, *, actor: str) -> Imported:
        """Replace the list of issued serial numbers; raises as :meth:`take`."""
        before = await self._database.read(lambda connection: foreign.state(connection, ca.name, ISSUED))
        read = read_issued(data, self._clock.now())
        await self._put(ca.name, ISSUED, read, before, actor)
        return Imported(read.head, changed=True)

    async def _put(self, name: str, source: str, read: ReadList, before: SourceState | None, actor: str) -> None:
        present = 0 if before is None else before.revision
        # A number of our own: another process that imports at the same time writes other parts.
        revision = secrets.randbelow((1 << 62) - 1) + 1
        for number, octets in enumerate(read.parts):
            # One write each: nobody else who writes waits for all of a long list.
            await self._database.write(
                lambda connection, number=number, octets=octets: foreign.write_part(  # type: ignore[misc]
                    connection, name, source, revision=revision, part=number, octets=octets
                )
            )
        event = AuditEvent(
            kind=AuditKind.CRL,
            actor=actor,
            object=f"foreign CA {name}",
            outcome="ok",
            request_id=None,
            details=(
                ("source", source),
                ("kind", read.head.kind.value),
                ("number", str(read.head.number)),
                ("entries", str(read.head.entries)),
            ),
        )

        def work(connection: Connection) -> None:
            now = self._clock.now()
            foreign.switch(connection, name, source, read.head, before=present, revision=revision, now=now)
            self._audit.append(connection, event)

        await self._database.write(work)
        # Not the one before: a process may be reading it this moment.
        keep = (revision, present)
        await self._database.write(lambda connection: foreign.clear_parts(connection, name, source, keep=keep))


def _refuse_older(present: ListHead, new: ListHead) -> None:
    if new.kind is not present.kind or new.scope != present.scope:
        text = f"this source gave a {present.kind} list until now; the new one is {new.kind} or covers something else"
        raise Rejected.because(Refusal.CONFLICT, text)
    if new.number < present.number or new.this_update < present.this_update:
        text = (
            f"list {new.number} of {new.this_update:%Y-%m-%d %H:%M:%SZ} is older than what is there ({present.number})"
        )
        raise Rejected.because(Refusal.CONFLICT, text)
