"""Writing the audit log: one chain for this process, in the transaction of what it tells about."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import attrs
from sqlalchemy import Connection

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


CheckpointSign = Callable[[bytes], Awaitable[CheckpointSignature]]


@attrs.frozen
class _Head:
    seq: int
    hash: bytes


class AuditLog:
    """This process's chain. Made by :meth:`open`; follows the database's transactions as a participant."""

    def __init__(self, database: Database, clock: Clock, writer_id: int, head: _Head) -> None:
        self._database = database
        self._clock = clock
        self._writer_id = writer_id
        self._head = head
        self._next: _Head | None = None
        self._in_doubt: _Head | None = None
        self._doubted = False
        self._gathered: list[tuple[int, AuditEvent]] = []

    @classmethod
    async def open(cls, database: Database, *, node: str, worker: str, clock: Clock) -> AuditLog:
        """Begin a chain for this process and start.

        Args:
            database: Whose writes the chain follows.
            node: This machine's name.
            worker: Which of the machine's processes this is, or the command that runs.
            clock: Dates the events.

        Raises:
            Unavailable: the database cannot be written.
        """
        started = from_micros(to_micros(clock.now()))

        def begin(connection: Connection) -> tuple[int, bytes]:
            writer_id = rows.add_writer(connection, node=node, worker=worker, started=started)
            genesis = chain.genesis(writer_id, node, worker, to_micros(started))
            rows.set_genesis(connection, writer_id, genesis)
            return writer_id, genesis

        writer_id, genesis = await database.write(begin)
        log = cls(database, clock, writer_id, _Head(0, genesis))
        database.join(log)
        return log

    @property
    def writer_id(self) -> int:
        """The number of this process's chain."""
        return self._writer_id

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
        return not others and first.id == self._writer_id and first.checkpoint_seq == first.head_seq - 1

    def begun(self, connection: Connection) -> None:
        """A transaction began: after a doubtful end of the one before, look where the chain stands."""
        self._gathered.clear()
        self._next = None
        if self._doubted:
            self._resolve(connection)

    def flush(self, connection: Connection) -> None:
        """Chain the gathered events and write them with the new head."""
        if not self._gathered:
            return
        head = self._head
        links: list[rows.EventRow] = []
        for at, event in self._gathered:
            link = self._link(head, at, event)
            links.append(link)
            head = _Head(link.seq, link.hash)
        self._next = head
        if not rows.append(connection, links, old_seq=self._head.seq, old_hash=self._head.hash):
            raise Defect("the audit chain's head was altered by somebody else; nothing can be logged")

    def committed(self) -> None:
        """The new head is the head."""
        if self._next is not None:
            self._head = self._next
        self._next = None

    def undone(self) -> None:
        """Perhaps the new head is the head, if the connection was lost during commit."""
        if self._next is not None:
            self._in_doubt = self._next
            self._doubted = True
        self._next = None

    def _resolve(self, connection: Connection) -> None:
        found = rows.head(connection, self._writer_id)
        stands = None if found is None else _Head(*found)
        if stands is not None and stands == self._in_doubt:
            self._head = stands
        elif stands != self._head:
            raise Defect("the audit chain's head was altered by somebody else; nothing can be logged")
        self._in_doubt = None
        self._doubted = False

    def _link(self, head: _Head, at: int, event: AuditEvent) -> rows.EventRow:
        row = rows.EventRow(
            writer_id=self._writer_id,
            seq=head.seq + 1,
            at=at,
            kind=event.kind.value,
            actor=event.actor,
            object=event.object,
            outcome=event.outcome,
            request_id=event.request_id,
            details=json.dumps(event.details, ensure_ascii=False, separators=(",", ":")) if event.details else "[]",
            prev_hash=head.hash,
            hash=b"",
        )
        return attrs.evolve(row, hash=chain.event_hash(row))
