"""Writing the audit log: one chain for this process, in the transaction of what it tells about."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import attrs
from sqlalchemy import Connection
from twisted.logger import Logger

from pkiserver.audit import chain
from pkiserver.audit.events import AuditEvent, AuditKind
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Defect
from pkiserver.store import audit as rows
from pkiserver.store.database import Database
from pkiserver.store.times import from_micros, to_micros
from pkiserver.store.writer import require_writing


@attrs.frozen
class CheckpointSignature:
    """What a checkpoint key answers: its name, the scheme's name, the signature."""

    key_name: str
    scheme: str
    signature: bytes


_log = Logger(namespace="pkiserver.audit")
_ALTERED = "the audit chain's head was altered by somebody else; nothing can be logged"
_LOOKED = "pkiserver.audit.looked"

CheckpointSign = Callable[[bytes], Awaitable[CheckpointSignature]]


@attrs.frozen
class _Chain:
    """This process's chain as far as it goes: the number of its row, and its last event (or its genesis)."""

    writer_id: int
    seq: int
    hash: bytes


class AuditLog:
    """This process's chain, begun with its first event; follows the database's transactions as a participant.

    Most commands only look: they leave no chain behind, and need no right to write.

    Args:
        database: Whose writes the chain follows.
        node: This machine's name.
        worker: Which of the machine's processes this is, or the command that runs.
        clock: Dates the events.
    """

    def __init__(self, database: Database, *, node: str, worker: str, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._node = node
        self._worker = worker
        self._started = from_micros(to_micros(clock.now()))
        self._chain: _Chain | None = None
        self._next: _Chain | None = None
        self._in_doubt: _Chain | None = None
        self._loss: AuditEvent | None = None
        self._tampered = False
        self._gathered: list[tuple[int, AuditEvent]] = []
        database.join(self)

    def append(self, connection: Connection, event: AuditEvent) -> None:
        """Log an event in the transaction under way: both become durable, or neither.

        Raises:
            Defect: not inside :meth:`Database.write`.
        """
        require_writing(connection)
        self._gathered.append((to_micros(self._clock.now()), event))

    async def record(self, event: AuditEvent) -> None:
        """Log an event that goes with no other write; returns once it is durable.

        Raises:
            Unavailable: the database cannot be written.
        """
        await self._database.write(lambda connection: self.append(connection, event))

    async def checkpoint(self, sign: CheckpointSign) -> int | None:
        """Let a key sign the heads of all chains that moved since the last checkpoint; returns its number.

        Run it under a lease: of two at the same moment one is refused. None where nothing was logged since the last
        checkpoint but that checkpoint itself.

        Raises:
            Rejected: another process made one at the same moment.
            Unavailable: the key or the database is away.
        """
        at = to_micros(self._clock.now())
        heads, last = await self._database.read(lambda c: (rows.writers_to_checkpoint(c), rows.last_checkpoint(c)))
        if not heads or (last is not None and self._only_told_of_itself(heads)):
            return None
        number = 1 if last is None else last.id + 1
        previous = chain.NO_CHECKPOINT if last is None else last.hash
        text = chain.checkpoint_text(number, at, previous, heads)
        signed = await sign(chain.checkpoint_octets(text))
        digest = chain.checkpoint_hash(text)
        row = rows.CheckpointRow(number, at, text, previous, digest, signed.key_name, signed.scheme, signed.signature)
        event = AuditEvent(
            AuditKind.CHECKPOINT,
            actor="server",
            object=f"checkpoint {number}",
            details=(("hash", digest.hex()), ("chains", str(len(heads))), ("key", signed.key_name)),
        )

        def keep(connection: Connection) -> None:
            rows.add_checkpoint(connection, row, [(head.id, head.head_seq) for head in heads])
            self.append(connection, event)

        await self._database.write(keep)
        return number

    def _only_told_of_itself(self, heads: tuple[rows.WriterRow, ...]) -> bool:
        """Whether the only thing logged since the last checkpoint is that checkpoint, by this process."""
        (first, *others) = heads
        own = self._chain is not None and first.id == self._chain.writer_id
        return own and not others and first.checkpoint_seq == first.head_seq - 1

    def begun(self, connection: Connection) -> None:
        """A transaction began: after a doubtful end of the one before, and on a new connection, look at the chain."""
        self._gathered.clear()
        self._next = None
        is_new = not connection.info.get(_LOOKED)
        if is_new or self._in_doubt is not None:
            self._resolve(connection, is_new=is_new)
            connection.info[_LOOKED] = True
        if self._loss is not None:
            self._gathered.append((to_micros(self._clock.now()), self._loss))

    def flush(self, connection: Connection) -> None:
        """Chain the gathered events and write them with the new head.

        Raises:
            Defect: the chain is not as this process left it.
        """
        if not self._gathered:
            return
        old = last = self._chain or self._begin(connection)
        links: list[rows.EventRow] = []
        for at, event in self._gathered:
            link = self._link(last, at, event)
            links.append(link)
            last = _Chain(last.writer_id, link.seq, link.hash)
        self._next = last
        if not rows.append(connection, links, old_seq=old.seq, old_hash=old.hash):
            raise Defect(_ALTERED)

    def _begin(self, connection: Connection) -> _Chain:
        writer_id = rows.add_writer(connection, node=self._node, worker=self._worker, started=self._started)
        genesis = chain.genesis(writer_id, self._node, self._worker, to_micros(self._started))
        rows.set_genesis(connection, writer_id, genesis)
        return _Chain(writer_id, 0, genesis)

    def committed(self) -> None:
        """The new head is the head."""
        if self._next is not None:
            self._chain = self._next
            self._loss = None
        self._next = None

    def undone(self) -> None:
        """Perhaps the new head is the head, if the connection was lost during commit."""
        if self._next is not None:
            self._in_doubt = self._next
        self._next = None

    def _resolve(self, connection: Connection, *, is_new: bool) -> None:
        """Find out where this process's chain stands, and goes on.

        Where a new connection shows it elsewhere than this process left it, a database has taken over that lacks the
        last transactions. What is left of the chain stays; what happens from now on goes into another one, as after a
        restart, which begins with saying so. The same behind a connection's back is tampering.
        """
        own, doubtful = self._chain, self._in_doubt
        last = doubtful or own
        found = None if last is None else rows.head(connection, last.writer_id)
        if doubtful is not None and found == (doubtful.seq, doubtful.hash):
            self._chain, self._loss = doubtful, None
        # before the first event there is nothing that could have been altered; the number may be another process's now
        elif own is not None and found != (own.seq, own.hash):
            self._tampered = self._tampered or not is_new
            if self._tampered:
                raise Defect(_ALTERED)
            self._chain, self._loss = None, _loss_of(own, found)
            _log.error("the database is not as this process left it: {what}", what=self._loss.details[0][1])
        self._in_doubt = None

    def _link(self, last: _Chain, at: int, event: AuditEvent) -> rows.EventRow:
        row = rows.EventRow(
            writer_id=last.writer_id,
            seq=last.seq + 1,
            at=at,
            kind=event.kind.value,
            actor=event.actor,
            object=event.object,
            outcome=event.outcome,
            request_id=event.request_id,
            details=json.dumps(event.details, ensure_ascii=False, separators=(",", ":")) if event.details else "[]",
            prev_hash=last.hash,
            hash=b"",
        )
        return attrs.evolve(row, hash=chain.event_hash(row))


def _loss_of(own: _Chain, found: tuple[int, bytes] | None) -> AuditEvent:
    """What is told of a chain that the database has otherwise than this process wrote it."""
    wrote = f"this process wrote chain {own.writer_id} up to event {own.seq} (hash {own.hash.hex()})"
    there = "does not have it" if found is None else f"has it up to event {found[0]} (hash {found[1].hex()})"
    return AuditEvent(
        AuditKind.RECOVERY,
        actor="server",
        object=f"audit chain {own.writer_id}",
        outcome="failed",
        details=(("detail", f"{wrote}; the database {there}"),),
    )
