"""Which CRLs a target has been brought, and what came in the way; and what the server found reading itself back."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import attrs
from sqlalchemy import Connection, delete, select, text

from pkiserver.store.authority.crls import CrlKind
from pkiserver.store.schema.crls import crl_delivery, self_check
from pkiserver.store.times import from_micros, optional_micros, optional_time, to_micros


@attrs.frozen
class Delivery:
    """How one kind of list of a scope stands at a target.

    ``number`` is that of the last list that was delivered, 0 before the first. ``problem`` is why the last try failed,
    None where it did not; then ``attempts`` tries in a row have failed and the next one is due at ``next_try``.
    """

    target: str
    scope_id: int
    kind: CrlKind
    number: int
    delivered: datetime | None
    attempts: int
    next_try: datetime
    problem: str | None


@attrs.frozen
class Finding:
    """What a node found about one subject when it last looked; ``problem`` is None where all was well."""

    node: str
    subject: str
    at: datetime
    problem: str | None


_PUT = text(
    "INSERT INTO crl_delivery (target, scope_id, kind, number, delivered, attempts, next_try, problem)"
    " VALUES (:target, :scope_id, :kind, :number, :delivered, :attempts, :next_try, :problem)"
    " ON CONFLICT (target, scope_id, kind) DO UPDATE SET number = excluded.number, delivered = excluded.delivered,"
    " attempts = excluded.attempts, next_try = excluded.next_try, problem = excluded.problem"
)
_PUT_FINDING = text(
    "INSERT INTO self_check (node, subject, at, problem) VALUES (:node, :subject, :at, :problem)"
    " ON CONFLICT (node, subject) DO UPDATE SET at = excluded.at, problem = excluded.problem"
)


def of_target(connection: Connection, target: str) -> tuple[Delivery, ...]:
    """Everything about a target."""
    rows = connection.execute(select(crl_delivery).where(crl_delivery.c.target == target))
    return tuple(
        Delivery(
            target=row.target,
            scope_id=row.scope_id,
            kind=CrlKind(row.kind),
            number=row.number,
            delivered=optional_time(row.delivered),
            attempts=row.attempts,
            next_try=from_micros(row.next_try),
            problem=row.problem,
        )
        for row in rows
    )


def put(connection: Connection, delivery: Delivery) -> None:
    """Record how a list stands at a target from now on."""
    values = attrs.asdict(delivery) | {
        "kind": delivery.kind.value,
        "delivered": optional_micros(delivery.delivered),
        "next_try": to_micros(delivery.next_try),
    }
    connection.execute(_PUT, values)


def findings(connection: Connection, node: str) -> tuple[Finding, ...]:
    """What a node last found about everything it looks at."""
    rows = connection.execute(select(self_check).where(self_check.c.node == node).order_by(self_check.c.subject))
    return tuple(Finding(row.node, row.subject, from_micros(row.at), row.problem) for row in rows)


def replace_findings(connection: Connection, node: str, found: Iterable[Finding]) -> None:
    """Record what a node found; what it does not look at any more is forgotten."""
    kept = list(found)
    for one in kept:
        values = {"node": node, "subject": one.subject, "at": to_micros(one.at), "problem": one.problem}
        connection.execute(_PUT_FINDING, values)
    gone = delete(self_check).where(
        self_check.c.node == node, self_check.c.subject.not_in([one.subject for one in kept])
    )
    connection.execute(gone)
