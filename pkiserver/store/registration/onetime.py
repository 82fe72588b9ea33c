"""One-time passwords by mail: kept as keyed hashes, few for each account, spent by one conditional UPDATE."""

from __future__ import annotations

from datetime import datetime

import attrs
from sqlalchemy import Connection, delete, func, insert, select, update

from pkiserver.store.schema.onetime import one_time_password
from pkiserver.store.times import from_micros, to_micros

_c = one_time_password.c


@attrs.frozen
class OneTimePassword:
    """A password that can still be used."""

    id: int
    keyed_hash: bytes = attrs.field(repr=False)
    expires: datetime


def insert_bounded(
    connection: Connection,
    *,
    connector: str,
    account: str,
    keyed_hash: bytes,
    created: datetime,
    expires: datetime,
    most: int,
    since: datetime,
) -> bool:
    """Record one, unless the account was given ``most`` since a time already; whether it was recorded."""
    given = select(func.count()).where(_c.account == account, _c.connector == connector, _c.created > to_micros(since))
    if int(connection.execute(given).scalar_one()) >= most:
        return False
    row = {
        "connector": connector,
        "account": account,
        "keyed_hash": keyed_hash,
        "created": to_micros(created),
        "expires": to_micros(expires),
        "tries": 0,
    }
    connection.execute(insert(one_time_password).values(row))
    return True


def usable(
    connection: Connection, connector: str, account: str, *, now: datetime, tries: int
) -> tuple[OneTimePassword, ...]:
    """Those of an account that are neither spent nor past their time, and were not guessed at ``tries`` times."""
    query = select(_c.id, _c.keyed_hash, _c.expires).where(
        _c.account == account,
        _c.connector == connector,
        _c.spent_at.is_(None),
        _c.expires > to_micros(now),
        _c.tries < tries,
    )
    rows = connection.execute(query)
    return tuple(OneTimePassword(row.id, row.keyed_hash, from_micros(row.expires)) for row in rows)


def guessed(connection: Connection, numbers: tuple[int, ...]) -> None:
    """Count a wrong guess at each of these."""
    connection.execute(update(one_time_password).where(_c.id.in_(numbers)).values(tries=_c.tries + 1))


def spend(connection: Connection, number: int, certificate_id: int, *, now: datetime) -> bool:
    """Spend one on a certificate. True for exactly one caller ever, and for nobody once it has expired."""
    change = update(one_time_password).where(_c.id == number, _c.spent_at.is_(None), _c.expires > to_micros(now))
    return connection.execute(change.values(spent_at=to_micros(now), certificate_id=certificate_id)).rowcount == 1


def give_back(connection: Connection, number: int, certificate_id: int) -> None:
    """Make one usable again that was spent on a certificate which never came to be."""
    change = update(one_time_password).where(_c.id == number, _c.certificate_id == certificate_id)
    connection.execute(change.values(spent_at=None, certificate_id=None))


def release(connection: Connection, certificate_id: int) -> None:
    """The same for whichever was spent on it."""
    change = update(one_time_password).where(_c.certificate_id == certificate_id)
    connection.execute(change.values(spent_at=None, certificate_id=None))


def forget_expired(connection: Connection, *, expired_before: datetime, most: int = 1000) -> int:
    """Remove up to ``most`` that expired before a time; how many."""
    some = select(_c.id).where(_c.expires < to_micros(expired_before)).order_by(_c.expires).limit(most)
    return connection.execute(delete(one_time_password).where(_c.id.in_(some))).rowcount
