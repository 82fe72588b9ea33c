"""The audit log holds what happened, and shows what was done to it."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import Connection, text
from twisted.internet.defer import DeferredList, ensureDeferred

from pkiserver.audit import AuditEvent, AuditKind, AuditLog, chain
from pkiserver.audit.events import TEXT_LIMIT, allowed_details
from pkiserver.audit.export import export, text_line
from pkiserver.audit.log import CheckpointSignature
from pkiserver.audit.verify import AuditReport, verify
from pkiserver.foundation.errors import Defect, Refusal, Rejected
from pkiserver.store import audit as rows
from pkiserver.store.certificates import blocked_keys
from pkiserver.store.database import Database
from pkiserver.store.migrate import migrate
from tests.support.clock import FakeClock
from tests.support.stored import NOW, opened

KEY = b"checkpoint key"


@pytest.fixture
def url(empty_url: str) -> str:
    """The URL of a database with the schema."""
    migrate(empty_url)
    return empty_url


async def sign(octets: bytes) -> CheckpointSignature:
    assert octets.startswith(b"pkiserver audit checkpoint ")
    return CheckpointSignature("key", "hmac", hmac.digest(KEY, octets, "sha256"))


def signed_by_key(row: rows.CheckpointRow, octets: bytes) -> bool:
    return hmac.compare_digest(row.signature, hmac.digest(KEY, octets, "sha256"))


def event(n: int = 0, **more: object) -> AuditEvent:
    return AuditEvent(AuditKind.ISSUE, "alice", f"certificate {n}", details=(("template", "device"),), **more)


def opened_log(database: Database, worker: str = "0") -> AuditLog:
    return AuditLog(database, node="node", worker=worker, clock=FakeClock())


async def report(database: Database) -> AuditReport:
    return await database.read(lambda c: verify(c, verify_signature=signed_by_key))


async def test_a_log_of_several_writers_is_intact(url: str) -> None:
    async with opened(url) as one, opened(url) as two:
        logs = [opened_log(one, "0"), opened_log(two, "1")]
        await DeferredList([ensureDeferred(logs[n % 2].record(event(n))) for n in range(100)], fireOnOneErrback=True)
        found = await report(one)
        assert (found.events, found.chains, found.checkpoints, found.unsigned) == (100, 2, 0, 100)
        assert found.problems == ()
        assert await logs[0].checkpoint(sign) == 1
        assert await logs[0].checkpoint(sign) is None
        assert await logs[1].checkpoint(sign) == 2
        await logs[1].record(event())
        found = await report(two)
        assert (found.events, found.checkpoints, found.unsigned, found.problems) == (103, 2, 2, ())


async def test_what_is_undone_is_not_logged_and_what_cannot_be_logged_is_undone(url: str) -> None:
    async with opened(url) as database:
        log = opened_log(database)

        def refused(connection: Connection) -> None:
            log.append(connection, event(1))
            raise Rejected.because(Refusal.LIMIT, "no")

        def done(n: int) -> Callable[[Connection], None]:
            def work(connection: Connection) -> None:
                blocked_keys.add_many(connection, [bytes([n]) * 32], why="x", now=NOW)
                log.append(connection, event(n))

            return work

        waiting = [ensureDeferred(database.write(work)) for work in (done(0), refused, done(2), refused, done(3))]
        await DeferredList(waiting, consumeErrors=True)
        found = await report(database)
        assert (found.events, found.problems) == (3, ())

        with pytest.raises(Defect, match="altered by somebody else"):
            # Somebody moves the head: this process must not go on as if nothing had happened.
            await database.write(
                lambda c: (c.execute(text("UPDATE audit_writer SET head_seq = 1")), done(4)(c)),
            )
        await database.write(
            lambda c: c.execute(
                text(
                    "UPDATE audit_writer SET head_hash = prev FROM"
                    " (SELECT prev_hash AS prev FROM audit_event WHERE seq = 3) AS x"
                )
            )
        )
        for _ in range(2):
            with pytest.raises(Defect, match="altered by somebody else"):
                await database.write(done(5))
        assert await database.read(lambda c: blocked_keys.get(c, bytes([5]) * 32)) is None


async def test_logging_outside_a_write_is_a_defect(url: str) -> None:
    async with opened(url) as database:
        log = opened_log(database)
        with pytest.raises(Defect):
            await database.read(lambda c: log.append(c, event()))


EVENT_3 = "WHERE writer_id = 1 AND seq = 3"
OTHER_HEAD = "UPDATE audit_writer SET head_hash = prev_hash FROM audit_event WHERE id = 1 AND writer_id = 1 AND seq = 2"
OTHER_HEADS = """UPDATE audit_checkpoint SET heads = replace(heads, '"seq":5', '"seq":4')"""
ADDED = """INSERT INTO audit_event
    SELECT writer_id, 8, at, kind, 'mallory', object, outcome, request_id, details, hash, hash
    FROM audit_event WHERE writer_id = 2 AND seq = 7"""
TAMPERING = {
    "an altered row": (f"UPDATE audit_event SET object = 'other' {EVENT_3}", "event 3 was altered"),
    "an altered detail": (f"UPDATE audit_event SET details = '[]' {EVENT_3}", "event 3 was altered"),
    "an altered time": (f"UPDATE audit_event SET at = at + 1 {EVENT_3}", "event 3 was altered"),
    "a removed row": (f"DELETE FROM audit_event {EVENT_3}", "event 3 is missing"),
    "a removed first row": ("DELETE FROM audit_event WHERE writer_id = 1 AND seq = 1", "event 1 is missing"),
    "a cut tail": ("DELETE FROM audit_event WHERE writer_id = 1 AND seq > 4", "ends at event 4, its head is event"),
    "an altered head": (OTHER_HEAD, "its last event is not its head"),
    "another writer's name": ("UPDATE audit_writer SET node = 'x' WHERE id = 1", "event 1 does not continue"),
    "a removed writer": ("DELETE FROM audit_writer WHERE id = 2", "chain 2 is missing"),
    "a removed writer's events": ("DELETE FROM audit_writer WHERE id = 2", "chain 2 has events and no writer"),
    "a removed checkpoint": ("DELETE FROM audit_checkpoint WHERE id = 1", "checkpoint 1 is missing"),
    "a removed last checkpoint": ("DELETE FROM audit_checkpoint WHERE id = 2", "checkpoint 2 is missing"),
    "an added row": (ADDED, "chain 2: event 8 was altered"),
    "an altered checkpoint": (OTHER_HEADS, "checkpoint 1 was altered"),
    "a moved checkpoint": ("UPDATE audit_checkpoint SET at = at + 1 WHERE id = 2", "checkpoint 2 does not continue"),
    "a forged signature": (
        "UPDATE audit_checkpoint SET signature = hash WHERE id = 2",
        "not bear the signature of",
    ),
}


@pytest.mark.parametrize("name", TAMPERING)
async def test_tampering_shows(url: str, name: str) -> None:
    statement, problem = TAMPERING[name]
    async with opened(url) as database:
        await filled(database)
        assert (await report(database)).problems == ()
        await database.write(lambda c: c.exec_driver_sql(statement))
        assert any(problem in found for found in (await report(database)).problems)


async def filled(database: Database) -> None:
    """Two chains of five events and two checkpoints."""
    logs = [opened_log(database, "0"), opened_log(database, "1")]
    for log in logs:
        for n in range(5):
            await log.record(event(n))
    await logs[0].checkpoint(sign)
    for log in logs:
        await log.record(event(9))
    await logs[1].checkpoint(sign)


async def test_a_checkpoint_in_the_place_of_one_that_was_removed_shows(url: str) -> None:
    async with opened(url) as database:
        await filled(database)
        await database.write(lambda c: c.exec_driver_sql("DELETE FROM audit_checkpoint WHERE id = 2"))
        assert await opened_log(database, "2").checkpoint(sign) == 2
        assert (await report(database)).problems == ("chain 2: event 7 tells of another checkpoint 2",)


def rechain(connection: Connection, keep: Callable[[rows.EventRow], rows.EventRow | None]) -> None:
    """What somebody with full access to the database may do to chain 1: rewrite it, hashes, numbers, head and all."""
    import attrs

    (writer, *_) = rows.writers(connection)
    events = list(rows.events(connection, 1))
    connection.execute(text("DELETE FROM audit_event WHERE writer_id = 1"))
    head = chain.genesis(1, writer.node, writer.worker, chain.to_micros(writer.started))
    seq, links = 0, []
    for old in events:
        kept = keep(old)
        if kept is not None:
            seq += 1
            row = attrs.evolve(kept, seq=seq, prev_hash=head)
            links.append(attrs.evolve(row, hash=chain.event_hash(row)))
            head = links[-1].hash
    assert rows.append(connection, links, old_seq=writer.head_seq, old_hash=writer.head_hash)


async def test_a_chain_rewritten_whole_is_betrayed_by_checkpoints(url: str) -> None:
    async with opened(url) as database:
        await filled(database)
        await database.write(lambda c: rechain(c, lambda row: row))
        assert (await report(database)).problems == ()
        await database.write(lambda c: rechain(c, lambda row: None if row.seq == 6 else row))
        problems = (await report(database)).problems
        assert problems
        assert all("which checkpoint" in problem or "that checkpoint" in problem for problem in problems)


async def test_reordered_rows_show(url: str) -> None:
    async with opened(url) as database:
        await filled(database)

        def swap(connection: Connection) -> None:
            for a, b in ((2, 100), (3, 2), (100, 3)):
                connection.execute(text(f"UPDATE audit_event SET seq = {b} WHERE writer_id = 1 AND seq = {a}"))

        await database.write(swap)
        problems = (await report(database)).problems
        assert "chain 1: event 2 was altered" in problems
        assert "chain 1: event 2 does not continue the one before" in problems


async def test_no_name_forges_a_line_or_drives_a_terminal(url: str) -> None:
    evil = 'x\r\n{"type":"event"}\x1b[2J\x00\u2028\u202e\udcff' + "y" * 5000
    async with opened(url) as database:
        log = opened_log(database)
        forged = AuditEvent(AuditKind.ISSUE, evil, evil, "refused", evil, (("subject", evil),))
        await log.record(forged)
        lines = await database.read(lambda c: list(export(c)))
        assert [json.loads(line)["type"] for line in lines] == ["writer", "event"]
        for line in lines:
            assert line.isascii()
            assert line.isprintable()
        (row,) = await database.read(lambda c: rows.newest_events(c, limit=5))
        assert text_line(row).isprintable()
        assert row.actor.endswith("more characters)")
        assert len(row.actor) < TEXT_LIMIT + 40
        assert (await report(database)).problems == ()


def test_details_go_by_an_allow_list() -> None:
    for kind in AuditKind:
        assert not {"password", "pin", "code_value", "secret", "csr"} & allowed_details(kind)
    with pytest.raises(Defect, match="no details \\['password'\\]"):
        AuditEvent(AuditKind.LOGIN, "alice", "account alice", details=(("password", "hunter2"),))
    with pytest.raises(Defect, match="outcome"):
        AuditEvent(AuditKind.LOGIN, "alice", "account alice", "maybe")


def test_a_pin_in_a_uri_is_not_logged() -> None:
    logged = AuditEvent(AuditKind.KEY_OPERATION, "a", "key k", details=(("uri", "pkcs11:object=k?PIN-value=1234&x=y"),))
    assert logged.details == (("uri", "pkcs11:object=k?PIN-value=***&x=y"),)


async def test_an_export_can_be_verified_with_nothing_but_its_lines(url: str) -> None:
    """As docs say: netstrings and SHA-256; written here a second time, without the program's own functions."""

    def digest(*fields: object) -> str:
        parts = []
        for field in fields:
            octets = field if isinstance(field, bytes) else str(field).encode()
            parts.append(b"-0:," if field is None else str(len(octets)).encode() + b":" + octets + b",")
        return hashlib.sha256(b"".join(parts)).hexdigest()

    async with opened(url) as database:
        log = opened_log(database)
        await log.record(event(1))
        await log.record(event(2, request_id="r-2"))
        await log.checkpoint(sign)
        lines = [json.loads(line) for line in await database.read(lambda c: list(export(c)))]
    (writer,) = [one for one in lines if one["type"] == "writer"]
    head = digest("pkiserver audit writer 1", writer["writer"], writer["node"], writer["worker"], writer["started"])
    heads = {}
    for one in lines:
        if one["type"] == "event":
            names = ("writer", "seq", "at", "kind", "actor", "object", "outcome", "request_id", "details_text")
            head = digest("pkiserver audit event 1", *(one[name] for name in names), bytes.fromhex(head))
            assert one["hash"] == head
            heads[one["seq"]] = head
    assert writer["head_hash"] == head
    (checkpoint,) = [one for one in lines if one["type"] == "checkpoint"]
    octets = b"pkiserver audit checkpoint 1\n" + checkpoint["text"].encode()
    assert checkpoint["signature"] == hmac.digest(KEY, octets, "sha256").hex()
    (named,) = json.loads(checkpoint["text"])["heads"]
    assert named["hash"] == heads[named["seq"]]


async def test_export_by_time_and_tail(url: str) -> None:
    clock = FakeClock(NOW)
    async with opened(url) as database:
        log = AuditLog(database, node="n", worker="0", clock=clock)
        for n in range(5):
            await log.record(event(n))
            clock.advance(timedelta(hours=1))
        start, end = NOW + timedelta(hours=1), NOW + timedelta(hours=3)
        lines = await database.read(lambda c: list(export(c, start=start, end=end)))
        assert [json.loads(line)["object"] for line in lines[1:]] == ["certificate 1", "certificate 2"]
        newest = await database.read(lambda c: rows.newest_events(c, limit=2))
        assert [row.object for row in newest] == ["certificate 3", "certificate 4"]
        last = newest[-1]
        await log.record(event(5))
        fresh = await database.read(lambda c: rows.newest_events(c, limit=9, after=(last.at, last.writer_id, last.seq)))
        assert [row.object for row in fresh] == ["certificate 5"]
