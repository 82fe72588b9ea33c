"""Lists of authorities that are not ours, and the certificates that those gave our responders."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Any

import attrs
from sqlalchemy import Connection, Row, delete, insert, select, text, update

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.store.outbox import touch_configuration
from pkiserver.store.schema.foreign import foreign_list, foreign_part, foreign_responder
from pkiserver.store.times import from_micros, to_micros

_l, _p, _r = foreign_list.c, foreign_part.c, foreign_responder.c


class ListKind(enum.StrEnum):
    """What a list says: revoked certificates, changes to such a list, or all that were issued."""

    COMPLETE = "complete"
    DELTA = "delta"
    ISSUED = "issued"


@attrs.frozen
class ListHead:
    """A list without its entries.

    Attributes:
        number: The CRL number; 0 where it has none.
        base_number: Of a delta, what it builds on.
        scope: The DER issuingDistributionPoint; empty where there is none.
        digest: SHA-256 of the list as it came.
    """

    kind: ListKind
    number: int
    base_number: int | None
    scope: bytes = attrs.field(repr=False)
    this_update: datetime
    next_update: datetime | None
    entries: int
    digest: bytes = attrs.field(repr=False)


@attrs.frozen
class SourceState:
    """One source of an authority: the list that counts, if there was ever one, and how the last look went."""

    authority: str
    source: str
    revision: int
    head: ListHead | None
    etag: str
    checked: datetime
    problem: str


@attrs.frozen
class InstalledResponder:
    """A responder key with the certificate (DER) that the other authority issued to it."""

    authority: str
    key_name: str
    certificate: bytes = attrs.field(repr=False)
    installed: datetime


_MAKE = text(
    "INSERT INTO foreign_list (authority, source, revision, checked, problem)"
    " VALUES (:authority, :source, 0, :checked, '') ON CONFLICT (authority, source) DO NOTHING"
)


def states(connection: Connection) -> tuple[SourceState, ...]:
    """Every source that was ever looked at, by authority and source."""
    rows = connection.execute(select(foreign_list).order_by(_l.authority, _l.source))
    return tuple(_state(row) for row in rows)


def state(connection: Connection, authority: str, source: str) -> SourceState | None:
    """One source."""
    row = connection.execute(select(foreign_list).where(_l.authority == authority, _l.source == source)).one_or_none()
    return None if row is None else _state(row)


def note(connection: Connection, authority: str, source: str, *, checked: datetime, problem: str, etag: str) -> None:
    """Say how a look at a source went; what counts stays."""
    connection.execute(_MAKE, {"authority": authority, "source": source, "checked": to_micros(checked)})
    connection.execute(
        update(foreign_list)
        .where(_l.authority == authority, _l.source == source)
        .values(checked=to_micros(checked), problem=problem, etag=etag)
    )


def write_part(connection: Connection, authority: str, source: str, *, revision: int, part: int, octets: bytes) -> None:
    """Put down a part of a list that does not count yet; again is no error."""
    key = (_p.authority == authority, _p.source == source, _p.revision == revision, _p.part == part)
    connection.execute(delete(foreign_part).where(*key))
    connection.execute(
        insert(foreign_part),
        {"authority": authority, "source": source, "revision": revision, "part": part, "octets": octets},
    )


def switch(
    connection: Connection, authority: str, source: str, head: ListHead, *, before: int, revision: int, now: datetime
) -> None:
    """From now on the list of ``revision`` counts, if until now that of ``before`` did.

    Raises:
        Rejected: another process was faster.
    """
    connection.execute(_MAKE, {"authority": authority, "source": source, "checked": to_micros(now)})
    change = (
        update(foreign_list)
        .where(_l.authority == authority, _l.source == source, _l.revision == before)
        .values(
            revision=revision,
            kind=head.kind.value,
            number=str(head.number),
            base_number=None if head.base_number is None else str(head.base_number),
            scope=head.scope,
            this_update=to_micros(head.this_update),
            next_update=None if head.next_update is None else to_micros(head.next_update),
            entries=head.entries,
            digest=head.digest,
        )
    )
    if connection.execute(change).rowcount != 1:
        raise Rejected.because(Refusal.CONFLICT, f"the list from {source} was changed meanwhile")


def clear_parts(connection: Connection, authority: str, source: str, *, keep: tuple[int, ...]) -> None:
    """Remove the parts of all revisions of a source but those."""
    connection.execute(
        delete(foreign_part).where(_p.authority == authority, _p.source == source, _p.revision.not_in(keep))
    )


def parts(connection: Connection, authority: str, source: str, revision: int) -> tuple[bytes, ...]:
    """The parts of a list, in order."""
    rows = connection.execute(
        select(_p.octets)
        .where(_p.authority == authority, _p.source == source, _p.revision == revision)
        .order_by(_p.part)
    )
    return tuple(row[0] for row in rows)


def remove(connection: Connection, authority: str, source: str) -> None:
    """Forget a source and its list."""
    connection.execute(delete(foreign_part).where(_p.authority == authority, _p.source == source))
    connection.execute(delete(foreign_list).where(_l.authority == authority, _l.source == source))


def forget(connection: Connection, authority: str) -> None:
    """Forget all sources of an authority and their lists."""
    connection.execute(delete(foreign_part).where(_p.authority == authority))
    connection.execute(delete(foreign_list).where(_l.authority == authority))


def install_responder(connection: Connection, responder: InstalledResponder) -> None:
    """Keep a responder's certificate, in the place of an earlier one for the same key; every process learns of it."""
    connection.execute(delete(foreign_responder).where(_r.key_name == responder.key_name))
    values = attrs.asdict(responder) | {"installed": to_micros(responder.installed)}
    connection.execute(insert(foreign_responder), values)
    touch_configuration(connection)


def responders(connection: Connection) -> tuple[InstalledResponder, ...]:
    """Every responder, by authority, the newest first."""
    rows = connection.execute(select(foreign_responder).order_by(_r.authority, _r.installed.desc(), _r.key_name))
    return tuple(
        InstalledResponder(row.authority, row.key_name, row.certificate, from_micros(row.installed)) for row in rows
    )


def _state(row: Row[Any]) -> SourceState:
    head = None
    if row.kind is not None:
        head = ListHead(
            kind=ListKind(row.kind),
            number=int(row.number),
            base_number=None if row.base_number is None else int(row.base_number),
            scope=row.scope,
            this_update=from_micros(row.this_update),
            next_update=None if row.next_update is None else from_micros(row.next_update),
            entries=row.entries,
            digest=row.digest,
        )
    checked = from_micros(row.checked)
    return SourceState(row.authority, row.source, row.revision, head, row.etag or "", checked, row.problem)
