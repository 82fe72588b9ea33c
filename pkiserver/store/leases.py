"""Leases: work that must happen once is done by whoever holds the row, and proves it by a fencing number.

A holder that was stopped and wakes after its lease went to another carries an old number; :func:`guard`, in the same
transaction as the guarded write, refuses it. Advisory locks are not used: not every engine has them.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import attrs
from sqlalchemy import Connection, bindparam, delete, inspect, select, text, update

from pkiserver.foundation.errors import Unavailable
from pkiserver.store.schema.shared import lease
from pkiserver.store.times import from_micros, to_micros


@attrs.frozen
class Lease:
    """A lease as taken. ``fence`` rises each time the lease changes hands, and each time it is taken anew."""

    name: str
    holder: str
    expires: datetime
    fence: int


_ACQUIRE = text(
    "INSERT INTO lease (name, holder, expires, fence) VALUES (:name, :holder, :expires, 1)"
    " ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires = excluded.expires, fence = lease.fence + 1"
    " WHERE lease.expires <= :now OR lease.expires > :beyond OR lease.holder = excluded.holder"
    " RETURNING fence"
)
_NEVER = (1 << 63) - 1
_mine = (
    lease.c.name == bindparam("lease_name"),
    lease.c.holder == bindparam("lease_holder"),
    lease.c.fence == bindparam("lease_fence"),
)
_RENEW = update(lease).where(*_mine).values(expires=bindparam("until"))
_GUARD = update(lease).where(*_mine, lease.c.expires > bindparam("now")).values(fence=lease.c.fence)


def acquire(
    connection: Connection,
    name: str,
    holder: str,
    *,
    now: datetime,
    lasting: timedelta,
    longest: timedelta | None = None,
) -> Lease | None:
    """Take a lease that is free, has expired, or is the holder's own; None where another holds it.

    Args:
        connection: Inside a write.
        name: What is to be done once.
        holder: Names this process and start among all nodes.
        now: This node's time; nodes' clocks must agree far better than ``lasting``.
        lasting: How long the lease holds unless it is renewed.
        longest: One that would hold for longer from now on was taken before the clock was set back, and is free.
    """
    expires = now + lasting
    values = {
        "name": name,
        "holder": holder,
        "expires": to_micros(expires),
        "now": to_micros(now),
        "beyond": _NEVER if longest is None else to_micros(now + longest),
    }
    fence = connection.execute(_ACQUIRE, values).scalar_one_or_none()
    return None if fence is None else Lease(name, holder, expires, fence)


def renew(connection: Connection, held: Lease, *, now: datetime, lasting: timedelta) -> Lease | None:
    """Hold a lease for longer, with the same fencing number; None where it has gone to another."""
    expires = now + lasting
    done = connection.execute(_RENEW, {**_values(held), "until": to_micros(expires)})
    return attrs.evolve(held, expires=expires) if done.rowcount == 1 else None


def release(connection: Connection, held: Lease, *, now: datetime) -> bool:
    """Let others take the lease at once; its fencing number is kept, so that it goes on rising."""
    return connection.execute(_RENEW, {**_values(held), "until": to_micros(now)}).rowcount == 1


def guard(connection: Connection, held: Lease, *, now: datetime) -> None:
    """Make the transaction depend on the lease: it holds the lease's row until commit.

    Raises:
        Unavailable: the lease has expired or gone to another; the transaction must not be.
    """
    if connection.execute(_GUARD, {**_values(held), "now": to_micros(now)}).rowcount != 1:
        raise Unavailable(f"the lease {held.name!r} is no longer held", retry_after=5)


def get(connection: Connection, name: str) -> Lease | None:
    """The lease as it stands, expired or not; for showing."""
    row = connection.execute(select(lease).where(lease.c.name == name)).one_or_none()
    return None if row is None else Lease(row.name, row.holder, from_micros(row.expires), row.fence)


def living(connection: Connection, prefix: str, *, now: datetime) -> tuple[Lease, ...]:
    """The leases that hold whose names begin with ``prefix``, by name; none in a schema older than leases."""
    if not inspect(connection).has_table(lease.name):
        return ()
    query = select(lease).where(lease.c.name.startswith(prefix, autoescape=True), lease.c.expires > to_micros(now))
    rows = connection.execute(query.order_by(lease.c.name))
    return tuple(Lease(row.name, row.holder, from_micros(row.expires), row.fence) for row in rows)


def forget(connection: Connection, prefix: str, *, expired_before: datetime) -> int:
    """Drop the rows of long expired leases whose names begin with ``prefix``: those that each start names anew."""
    old = delete(lease).where(
        lease.c.name.startswith(prefix, autoescape=True), lease.c.expires < to_micros(expired_before)
    )
    return connection.execute(old).rowcount


def _values(held: Lease) -> dict[str, object]:
    return {"lease_name": held.name, "lease_holder": held.holder, "lease_fence": held.fence}
