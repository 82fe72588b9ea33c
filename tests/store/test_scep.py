"""SCEP transactions: one certificate for each, whoever comes first; and what is forgotten."""

from __future__ import annotations

from datetime import datetime, timedelta

import attrs
import pytest
from sqlalchemy import Connection
from twisted.internet.defer import Deferred, gatherResults

from pkiserver.registration import transactions
from pkiserver.registration.transactions import Transactions
from pkiserver.store.database import Database
from pkiserver.store.registration import requests, scep
from pkiserver.store.registration.requests import NewRequest
from pkiserver.store.registration.scep import NewTransaction, Predecessor, TransactionKey
from tests.support.clock import FakeClock
from tests.support.stored import NOW, issue, new_intent, opened

KEY = TransactionKey("device", "transaction")
NEW = NewTransaction(KEY, b"s" * 32, b"g" * 32, b"a" * 32, b"payload", NOW)


async def test_one_of_many_takes_a_transaction(url: str) -> None:
    async with opened(url) as one, opened(url) as two:

        def take(number: int) -> Deferred[bool]:
            database = (one, two)[number % 2]
            return Deferred.fromCoroutine(database.write(lambda c: scep.take(c, NEW, number)))

        done = await gatherResults([take(number) for number in range(1, 41)])
        assert done.count(True) == 1
        found = await one.read(lambda c: scep.get(c, KEY))
        assert found is not None
        assert found.certificate_id == done.index(True) + 1
        assert (found.spki_sha256, found.signer_sha256, found.asks) == (NEW.spki_sha256, NEW.signer_sha256, NEW.asks)


async def test_what_came_to_nothing_is_given_back(url: str) -> None:
    async with opened(url) as database:
        assert await database.write(lambda c: scep.take(c, NEW, 1))
        await database.write(lambda c: scep.give_back(c, 1))
        assert await database.read(lambda c: scep.get(c, KEY)) is None
        assert await database.write(lambda c: scep.put_pending(c, NEW, 7))
        assert await database.write(lambda c: scep.take(c, NEW, 2, request_number=7))
        await database.write(lambda c: scep.give_back(c, 2))
        found = await database.read(lambda c: scep.get(c, KEY))
        assert found is not None
        assert (found.request_number, found.certificate_id, found.payload) == (7, None, b"payload")


async def test_another_key_waits_until_a_transaction_is_over(url: str) -> None:
    other = attrs.evolve(NEW, spki_sha256=b"o" * 32)
    async with opened(url) as database:
        assert await database.write(lambda c: scep.put_pending(c, NEW, 7))
        assert not await database.write(lambda c: scep.put_pending(c, other, 8))
        assert not await database.write(lambda c: scep.take(c, other, 1))
        assert await database.write(lambda c: scep.take(c, NEW, 1, request_number=7))
        assert not await database.write(lambda c: scep.take(c, NEW, 2))
        assert await database.write(lambda c: scep.take(c, other, 2, over=Predecessor(certificate_id=1)))
        assert not await database.write(lambda c: scep.take(c, NEW, 3, over=Predecessor(certificate_id=1)))


async def test_another_key_takes_the_place_of_a_request_that_nobody_decided(url: str) -> None:
    other = attrs.evolve(NEW, spki_sha256=b"o" * 32)
    over = Predecessor(request_number=7)
    async with opened(url) as database:
        assert await database.write(lambda c: scep.put_pending(c, NEW, 7))
        assert await database.write(lambda c: scep.put_pending(c, other, 8, over=over))
        assert not await database.write(lambda c: scep.put_pending(c, NEW, 9, over=over))
        assert not await database.write(lambda c: scep.take(c, NEW, 1, over=over))
        assert await database.write(lambda c: scep.take(c, other, 1, request_number=8))


async def test_a_poll_means_the_newest_of_all_kinds(url: str) -> None:
    renewal = attrs.evolve(NEW, key=attrs.evolve(KEY, kind="renewal:1"), created=NOW + timedelta(days=80))
    async with opened(url) as database:
        assert await database.write(lambda c: scep.take(c, NEW, 1))
        assert await database.write(lambda c: scep.take(c, renewal, 2))
        found = await database.read(lambda c: scep.newest(c, "device", "transaction"))
        assert found is not None
        assert found.key.kind == "renewal:1"
        assert await database.read(lambda c: scep.newest(c, "other", "transaction")) is None


async def test_old_transactions_are_forgotten(url: str) -> None:
    def fill(connection: Connection) -> None:
        for name, days in (("long", 400), ("short", 10)):
            number = issue(connection, new_intent(not_after=NOW + timedelta(days=days)))
            assert scep.take(connection, named(name), number)
        assert scep.put_pending(connection, named("nobody knows"), 7)

    async with opened(url) as database:
        await database.write(fill)
        assert await forgotten(database, NOW - timedelta(days=1)) == 0
        assert await forgotten(database, NOW + timedelta(days=50)) == 2
        assert await left(database, "long", "short", "nobody knows") == ["long"]


async def test_what_officers_were_asked_is_not_forgotten_before_the_end_of_its_time(url: str) -> None:
    """A rule may let requests wait for up to a year."""

    def fill(connection: Connection) -> None:
        for name in ("patient", "denied"):
            asked = NewRequest("device", None, b"", b"{}", "", name.encode(), NOW, NOW + timedelta(days=90))
            number = requests.open_request(connection, asked).id
            assert scep.put_pending(connection, named(name), number)
            assert name == "patient" or requests.decide(connection, number, approved=False, by="officer", at=NOW)

    async with opened(url) as database:
        await database.write(fill)
        assert await forgotten(database, NOW + timedelta(days=40)) == 0
        assert await left(database, "patient", "denied") == ["patient", "denied"]
        assert await forgotten(database, NOW + timedelta(days=100)) == 2


async def test_all_that_is_old_is_forgotten_however_much(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "FORGOTTEN_AT_ONCE", 3)

    def fill(connection: Connection) -> None:
        for number in range(7):
            assert scep.put_pending(connection, named(f"old-{number}"), number)

    async with opened(url) as database:
        await database.write(fill)
        clock = FakeClock()
        clock.advance(NOW + timedelta(days=31) - clock.now())
        assert await Transactions(database, clock).forget_old() == 7


def named(name: str) -> NewTransaction:
    return attrs.evolve(NEW, key=TransactionKey("device", name))


async def forgotten(database: Database, before: datetime) -> int:
    return await database.write(lambda connection: scep.forget(connection, ended_before=before, limit=100))


async def left(database: Database, *names: str) -> list[str]:
    """Which of these there are."""

    def look(connection: Connection) -> list[str]:
        return [name for name in names if scep.get(connection, TransactionKey("device", name)) is not None]

    return await database.read(look)
