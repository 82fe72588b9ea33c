"""Votes on requests and operations: one of each person, never changed.

They are removed with what they are on; and one of a removed administrator, which counts no more, where another of that
name votes.
"""

from __future__ import annotations

from datetime import datetime

import attrs
from sqlalchemy import Connection, delete, insert, select

from pkiserver.store.constraints import conflicts_as
from pkiserver.store.names import printable
from pkiserver.store.schema.management import approval_vote
from pkiserver.store.times import from_micros, to_micros


@attrs.frozen
class VoteRow:
    """One vote. ``kind`` and ``number`` say on what; ``mac`` is the registration room's, over all of it.

    ``actor`` is the voter as the audit log has them; None for votes of earlier versions, which did not keep it.
    """

    kind: str
    number: int
    voter: str
    approved: bool
    reason: str
    at: datetime
    mac: bytes = attrs.field(repr=False)
    actor: str | None = None


def cast(connection: Connection, vote: VoteRow) -> None:
    """Record a vote.

    Raises:
        Rejected: CONFLICT; this voter has voted on it already.
    """
    with conflicts_as(f"{vote.voter} has decided on this already"):
        connection.execute(
            insert(approval_vote).values(
                kind=vote.kind,
                number=vote.number,
                voter=vote.voter,
                approved=vote.approved,
                reason=printable(vote.reason),
                at=to_micros(vote.at),
                mac=vote.mac,
                actor=vote.actor,
            )
        )


def forget(connection: Connection, kind: str, numbers: tuple[int, ...]) -> None:
    """Remove the votes on things that are removed."""
    c = approval_vote.c
    connection.execute(delete(approval_vote).where(c.kind == kind, c.number.in_(numbers)))


def remove(connection: Connection, vote: VoteRow) -> None:
    """Remove one vote."""
    c = approval_vote.c
    this = (c.kind == vote.kind, c.number == vote.number, c.voter == vote.voter)
    connection.execute(delete(approval_vote).where(*this))


def votes_on(connection: Connection, kind: str, number: int) -> tuple[VoteRow, ...]:
    """All votes on one thing, the earliest first."""
    c = approval_vote.c
    query = select(approval_vote).where(c.kind == kind, c.number == number).order_by(c.at, c.voter)
    return tuple(
        VoteRow(row.kind, row.number, row.voter, row.approved, row.reason, from_micros(row.at), row.mac, row.actor)
        for row in connection.execute(query)
    )
