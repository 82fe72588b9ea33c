"""Statements that go straight to the driver: the same on both engines, with errors as SQLAlchemy tells them."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import Connection, bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from twisted.internet.defer import ensureDeferred

from pkiserver.foundation.errors import Defect, PkiError
from pkiserver.store.ready import Ready
from pkiserver.store.schema.certificates import blocked_key
from pkiserver.store.schema.registration import account
from tests.support.stored import opened

_k = blocked_key.c
ADD = Ready(insert(blocked_key))
ALL = Ready(select(_k.spki_sha256, _k.why, _k.added).order_by(_k.spki_sha256))
FIRM = Ready(select(_k.why).where(_k.why == "firm", _k.added >= bindparam("since")))
EXCUSE = Ready(update(blocked_key).where(_k.spki_sha256 == bindparam("digest")).values(why="excused"))
TAKE = Ready(delete(blocked_key).where(_k.added < bindparam("before")).returning(_k.why))
ACCOUNT = Ready(
    insert(account).returning(account.c.name),
    columns=["name", "password_hash", "groups", "attributes", "disabled", "created"],
)


def row(number: int, why: str = "firm") -> dict[str, object]:
    return {"spki_sha256": bytes([number]) * 32, "why": why, "added": number}


async def test_rows_counts_and_many(url: str) -> None:
    async with opened(url) as database:

        def work(connection: Connection) -> None:
            ADD.many(connection, [row(2, "soft"), row(1), row(3)])
            assert ALL.rows(connection, {}) == [
                (b"\1" * 32, "firm", 1),
                (b"\2" * 32, "soft", 2),
                (b"\3" * 32, "firm", 3),
            ]
            assert FIRM.rows(connection, {"since": 2}) == [("firm",)]
            assert [(one.added, one.why) for one in ALL.named(connection, {})] == [
                (1, "firm"),
                (2, "soft"),
                (3, "firm"),
            ]
            assert FIRM.one(connection, {"since": 2}).why == "firm"
            assert FIRM.one(connection, {"since": 4}) is None
            assert EXCUSE.count(connection, {"digest": b"\1" * 32}) == 1
            assert EXCUSE.count(connection, {"digest": b"\7" * 32}) == 0
            assert sorted(TAKE.rows(connection, {"before": 3})) == [("excused",), ("soft",)]
            values = {"name": "a", "password_hash": None, "groups": "[]", "attributes": "{}", "disabled": True}
            assert ACCOUNT.rows(connection, {**values, "created": 2**53}) == [("a",)]
            found = connection.execute(select(account)).one()
            assert (found.disabled, found.password_hash, found.created) == (True, None, 2**53)

        await database.write(work)
        assert await database.read(lambda c: ALL.rows(c, {})) == [(b"\3" * 32, "firm", 3)]


async def test_a_broken_constraint_is_sqlalchemys_and_shows_no_parameter(url: str) -> None:
    async with opened(url) as database:
        await database.write(lambda c: ADD.many(c, [row(1)]))
        with pytest.raises(Defect) as told:
            await database.write(lambda c: ADD.many(c, [row(5), row(1, "a secret")]))
        assert isinstance(told.value.__cause__, IntegrityError)
        assert "a secret" not in str(told.value)
        assert len(await database.read(lambda c: ALL.rows(c, {}))) == 1


async def test_a_missing_parameter_is_an_error_of_the_caller(url: str) -> None:
    async with opened(url) as database:
        with pytest.raises((KeyError, PkiError)):
            await database.write(lambda c: FIRM.rows(c, {}))
        assert await database.write(lambda c: FIRM.rows(c, {"since": 0})) == []


async def test_a_read_sees_one_moment_and_writes_nothing(url: str) -> None:
    async with opened(url) as database:
        looked, written = threading.Event(), threading.Event()

        def twice(connection: Connection) -> tuple[int, int]:
            first = len(ALL.rows(connection, {}))
            looked.set()
            assert written.wait(20)
            return first, len(ALL.rows(connection, {}))

        reading = ensureDeferred(database.read(twice))
        while not looked.is_set():
            await database.read(lambda _c: None)
        await database.write(lambda c: ADD.many(c, [row(1)]))
        written.set()
        assert await reading == (0, 0)
        with pytest.raises(PkiError):
            await database.read(lambda c: ADD.many(c, [row(2)]))
        assert len(await database.read(lambda c: ALL.rows(c, {}))) == 1
