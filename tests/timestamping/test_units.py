"""Units over their lives: the time, serial numbers, order over processes, the log, the audit rows."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import attrs
import pytest
from sqlalchemy import Connection, select, text, update

from pkiserver.foundation.errors import Unavailable
from pkiserver.store import timestamps
from pkiserver.store.schema.audit import audit_event
from pkiserver.store.schema.timestamps import timestamp_entry
from pkiserver.timestamping import archive
from pkiserver.timestamping.archive import Issued, check_chain
from pkiserver.timestamping.clockwatch import TimeNotAvailable
from pkiserver.timestamping.ordering import LASTING, NotOurTurn, OrderTurns
from pkiserver.timestamping.serials import SerialBlocks
from pkiserver.timestamping.unit import Archive, ImprintHash, Precision
from protocols.timestamp.messages import encode_request
from protocols.timestamp.verification import read_token
from tests.protocols.timestamp.world import TimestampWorld, another, over

QUERY = encode_request(ImprintHash.SHA256, bytes(32))
DAY = timedelta(days=1)


# -- time -------------------------------------------------------------------------------------------------------------


async def test_the_accuracy_covers_what_the_time_is_cut_by(world: TimestampWorld) -> None:
    """A second that was cut off makes genTime late by up to that much, however right the clock is."""
    made = {Precision.SECONDS: timedelta(seconds=1.5), Precision.MILLISECONDS: timedelta(seconds=0.5)}
    for precision, accuracy in made.items():
        await world.unit(str(precision), precision=precision, accuracy=accuracy)
    watch = world.services.watch
    await watch.poll()
    for error, refusing in ((0.4, 0), (0.4995, 1), (0.501, 2)):
        watch._verdict = attrs.evolve(watch.verdict, error=error)
        refused = 0
        for active in world.directory.list():
            try:
                world.service.moment(active)
            except TimeNotAvailable:
                refused += 1
        assert refused == refusing, error


async def test_an_audit_row_marks_begin_and_end_of_every_outage(world: TimestampWorld) -> None:
    await world.unit("u")
    await world.services.watch_time()
    world.clock.step(timedelta(seconds=7))
    assert world.services.watch.trouble(1.0) is not None
    # The job sees it, asks the source again, and goes on.
    await world.services.reporter.run_due(world.services.library.enabled())
    await world.services.watch_time()

    def read(connection: Connection) -> list[tuple[str, str]]:
        rows = connection.execute(select(audit_event).where(audit_event.c.kind == "time").order_by(audit_event.c.seq))
        return [(row.outcome, row.details) for row in rows]

    rows = await world.at.world.database.read(read)
    told = [(outcome, "begin" if "begin" in details else "end") for outcome, details in rows]
    assert told == [("failed", "begin"), ("ok", "end")]
    assert "clock-stepped" in rows[0][1]


# -- serial numbers ---------------------------------------------------------------------------------------------------


async def test_serial_numbers_differ_over_processes_and_restarts(world: TimestampWorld) -> None:
    database = world.at.world.database
    seen: set[bytes] = set()
    for _ in range(5):
        serials = SerialBlocks(database)
        with pytest.raises(Unavailable):
            serials.take(20)
        await serials.run_due()
        for octets in (8, 14, 20):
            some = {serials.take(octets) for _ in range(300)}
            assert len(some) == 300
            assert {len(one) for one in some} == {octets}
            assert all(0x40 <= one[0] < 0x80 for one in some), "positive, minimal, at most 160 bits"
            heads = {one[:8] for one in some}
            assert len(heads) == 300, "unique without the random octets"
            assert not heads & seen
            seen |= heads


async def test_a_restored_backup_or_a_clone_repeats_no_serial_number(world: TimestampWorld) -> None:
    database = world.at.world.database
    first = SerialBlocks(database)
    await first.run_due()
    before = [first.take(20) for _ in range(100)]
    await database.write(lambda connection: connection.execute(text("UPDATE timestamp_block SET last = last - 1")))
    again = SerialBlocks(database)
    await again.run_due()
    after = [again.take(20) for _ in range(100)]
    assert before[0][:8] == after[0][:8], "the block is given out twice"
    assert not set(before) & set(after)


async def test_a_used_up_block_is_followed_by_the_next(world: TimestampWorld) -> None:
    serials = SerialBlocks(world.at.world.database)
    await serials.run_due()
    first = serials.take(20)
    serials._counter = (1 << 24) - 2
    await serials.run_due()
    taken = [serials.take(20) for _ in range(4)]
    assert taken[1][:5] == first[:5]
    assert taken[2][:5] != first[:5]
    assert len({one[:8] for one in taken}) == 4
    serials._counter = 1 << 24
    with pytest.raises(Unavailable):
        serials.take(20)


# -- order ------------------------------------------------------------------------------------------------------------


async def test_ordered_tokens_rise_even_while_the_clock_stands_still(world: TimestampWorld) -> None:
    await world.unit("o", ordering=True, precision=Precision.MICROSECONDS)
    active = world.directory.get("o")
    assert active is not None
    times = [read_token(await world.service.answer(active, QUERY)) for _ in range(20)]
    assert all(one.ordering for one in times)
    assert [one.at for one in times] == sorted({one.at for one in times})


async def test_one_process_at_a_time_and_the_next_after_the_lease(world: TimestampWorld) -> None:
    await world.unit("o", ordering=True, precision=Precision.MICROSECONDS)
    other = await another(world.at, "two")
    await other.library.refresh()
    second = over(world.at, other, world.folder, world.run)
    await second.directory.refresh()
    await other.take_turns()
    mine, theirs = world.directory.get("o"), second.directory.get("o")
    assert mine is not None
    assert theirs is not None
    with pytest.raises(Exception, match="another-process"):
        await second.service.answer(theirs, QUERY)
    last = read_token(await world.service.answer(mine, QUERY)).at
    # The first process is stopped in the middle of everything: its lease ends by itself.
    world.clock.advance(LASTING + timedelta(milliseconds=1))
    await other.take_turns()
    await other.watch.poll()
    await world.services.watch.poll()
    with pytest.raises(Exception, match="another-process"):
        await world.service.answer(mine, QUERY)
    token = read_token(await second.service.answer(theirs, QUERY))
    assert token.at > last


async def test_a_successor_with_a_late_clock_is_later_all_the_same(world: TimestampWorld) -> None:
    database, clock = world.at.world.database, world.clock
    one, two = OrderTurns(database, clock, "one"), OrderTurns(database, clock, "two")
    await one.run_due(["u"])
    ahead = clock.now() + timedelta(seconds=3)
    last = one.next("u", ahead)
    await one.stop()  # released at the latest token, not at a clock that is behind it
    with pytest.raises(NotOurTurn):
        one.next("u", ahead)
    await two.run_due(["u"])
    with pytest.raises(NotOurTurn):
        two.next("u", clock.now())
    clock.advance(timedelta(seconds=3))
    await two.run_due(["u"])
    with pytest.raises(TimeNotAvailable, match="behind the last"):
        two.next("u", clock.now() - timedelta(seconds=1))
    assert two.next("u", clock.now() - timedelta(microseconds=500)) > last
    with pytest.raises(TimeNotAvailable):
        two.next("u", clock.now() + timedelta(seconds=60))


async def test_a_lease_is_renewed_while_the_process_lives(world: TimestampWorld) -> None:
    turns = OrderTurns(world.at.world.database, world.clock, "one")
    for _ in range(30):
        await turns.run_due(["u"])
        turns.next("u", world.clock.now())
        world.clock.advance(timedelta(seconds=2))
    await turns.run_due([])
    with pytest.raises(NotOurTurn):
        turns.next("u", world.clock.now())


# -- the log ----------------------------------------------------------------------------------------------------------


async def sound(world: TimestampWorld) -> list[tuple[int, str | None]]:
    def read(connection: Connection) -> list[tuple[int, str | None]]:
        found = timestamps.chains(connection)
        return [check_chain(timestamps.read_chain(connection, chain)) for chain, _ in found]

    return await world.at.world.database.read(read)


async def test_every_token_is_in_the_chained_log(world: TimestampWorld) -> None:
    await world.unit("t", archive=Archive.TOKENS)
    active = world.directory.get("t")
    assert active is not None
    answers = [await world.service.answer(active, QUERY) for _ in range(25)]
    assert world.services.log.waiting == 25
    await world.services.log.flush()
    assert world.services.log.waiting == 0
    assert await sound(world) == [(25, None)]
    token = read_token(answers[7])
    serial = token.serial.to_bytes(20, "big")
    [entry] = await world.at.world.database.read(lambda connection: timestamps.by_serial(connection, serial))
    assert entry.token is not None
    assert entry.token in answers[7]
    assert (entry.unit, entry.at, entry.imprint) == ("t", token.at, bytes(32))
    assert entry.token_sha256 == hashlib.sha256(entry.token).digest()


@pytest.mark.parametrize("change", ["imprint", "token", "hash", "drop"])
async def test_a_changed_log_is_noticed(world: TimestampWorld, change: str) -> None:
    await world.unit("t", archive=Archive.TOKENS)
    active = world.directory.get("t")
    assert active is not None
    for _ in range(5):
        await world.service.answer(active, QUERY)
    await world.services.log.flush()

    def tamper(connection: Connection) -> None:
        if change == "drop":
            connection.execute(timestamp_entry.delete().where(timestamp_entry.c.number == 3))
            return
        wanted = timestamp_entry.c.number == 3
        connection.execute(update(timestamp_entry).where(wanted).values({change: b"forged"}))

    await world.at.world.database.write(tamper)
    [(count, problem)] = await sound(world)
    assert count == 2
    assert problem is not None


async def test_strict_units_give_out_nothing_that_is_not_durable(world: TimestampWorld) -> None:
    await world.unit("s", archive=Archive.LOG, archive_strict=True)
    active = world.directory.get("s")
    assert active is not None
    await world.service.answer(active, QUERY)
    assert await sound(world) == [(1, None)]
    await world.at.world.database.write(
        lambda connection: connection.execute(text("ALTER TABLE timestamp_entry RENAME TO hidden"))
    )
    with pytest.raises(Exception, match=r"cannot be handled|internal error"):
        await world.service.answer(active, QUERY)
    await world.at.world.database.write(
        lambda connection: connection.execute(text("ALTER TABLE hidden RENAME TO timestamp_entry"))
    )
    await world.service.answer(active, QUERY)
    [(_, problem)] = await sound(world)
    assert problem is None


async def test_a_log_that_cannot_be_written_stops_the_units_that_want_it(
    world: TimestampWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MOST_WAITING", 3)
    await world.unit("t", archive=Archive.LOG)
    active = world.directory.get("t")
    assert active is not None
    for _ in range(3):
        await world.service.answer(active, QUERY)
    with pytest.raises(Exception, match="cannot be handled"):
        await world.service.answer(active, QUERY)
    await world.services.log.flush()
    await world.service.answer(active, QUERY)


async def test_the_head_goes_to_the_audit_log_when_a_process_stops(world: TimestampWorld) -> None:
    log = world.services.log
    for number in range(3):
        log.add(Issued("u", world.clock.now(), bytes((number,)), "sha256", bytes(32), b"token"), keep_token=False)
    await log.stop()

    def read(connection: Connection) -> list[str]:
        rows = connection.execute(select(audit_event).where(audit_event.c.object.startswith("timestamp-log")))
        return [row.details for row in rows]

    [details] = await world.at.world.database.read(read)
    [entry] = [one for one in await world.at.world.database.read(_all) if one.number == 3]
    assert entry.hash.hex() in details


def _all(connection: Connection) -> list[timestamps.Entry]:
    return [one for chain, _ in timestamps.chains(connection) for one in timestamps.read_chain(connection, chain)]
