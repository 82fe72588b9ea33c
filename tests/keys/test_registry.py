"""Keys in the database: records, the audit rows beside them, and signed checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from pkiserver.audit import AuditLog
from pkiserver.audit.verify import verify
from pkiserver.foundation.clock import SystemClock
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.keys.algorithms import KeyType
from pkiserver.keys.checkpoints import checkpoint_sign, checkpoint_verify
from pkiserver.keys.doors import Door
from pkiserver.keys.keyring import KeyRing
from pkiserver.store.database import Database
from pkiserver.store.migrate import migrate
from tests.support.keys import software_store

P256 = KeyType.parse("ec-p256")


@pytest.fixture
def url(tmp_path: Path) -> str:
    found = f"sqlite:///{tmp_path}/test.db"
    migrate(found)
    return found


def audited(connection: Connection) -> list[tuple[str, str, str]]:
    rows = connection.execute(text("SELECT kind, object, outcome FROM audit_event ORDER BY seq"))
    return [tuple(row) for row in rows if row.kind == "key-operation"]  # type: ignore[misc]


async def opened(url: str, tmp_path: Path) -> tuple[Database, AuditLog, KeyRing]:
    database, clock = await Database.open(url), SystemClock()
    audit = AuditLog(database, node="test", worker="0", clock=clock)
    return database, audit, await KeyRing.open([software_store(tmp_path)], database, audit, clock)


async def test_keys_and_their_audit_rows_outlive_the_process(url: str, tmp_path: Path) -> None:
    database, _, ring = await opened(url, tmp_path)
    info = await ring.generate("ca", P256, store="software", doors=[Door.CERTIFICATE, Door.CRL], actor="cli:anna")
    await ring.generate("short-lived", P256, store="software", doors=[Door.CMS])
    await ring.test("ca")
    await ring.delete("short-lived")
    with pytest.raises(Rejected) as caught:
        await ring.generate("ca", P256, store="software", doors=[Door.CMS])
    assert caught.value.has(Refusal.CONFLICT)
    assert await database.read(audited) == [
        ("key-operation", "key ca", "ok"),
        ("key-operation", "key short-lived", "ok"),
        ("key-operation", "key ca", "ok"),
        ("key-operation", "key short-lived", "ok"),
    ]
    await ring.close()
    await database.close()
    database, _, ring = await opened(url, tmp_path)
    assert [one.record for one in ring.list()] == [info.record]
    assert ring.certificate_signer("ca")
    with pytest.raises(Rejected):
        ring.cms_signer("ca", "1.2.840.113549.1.7.1")
    await ring.close()
    await database.close()


async def test_two_processes_cannot_make_one_name_twice(url: str, tmp_path: Path) -> None:
    database, _, first = await opened(url, tmp_path)
    other_database, _, second = await opened(url, tmp_path)
    kept = (await first.generate("ca", P256, store="software", doors=[Door.CRL])).record
    with pytest.raises(Rejected) as caught:
        await second.generate("ca", P256, store="software", doors=[Door.CRL])
    assert caught.value.has(Refusal.CONFLICT)
    assert (await first.test("ca")).seconds
    await second.refresh()
    assert second.show("ca").record == kept
    for thing in (first, second, database, other_database):
        await thing.close()


async def test_checkpoints_are_signed_and_checked(url: str, tmp_path: Path) -> None:
    database, audit, ring = await opened(url, tmp_path)
    await ring.generate("audit", P256, store="software", doors=[Door.CHECKPOINT])
    await ring.generate("other", P256, store="software", doors=[Door.CRL])
    assert await audit.checkpoint(checkpoint_sign(ring, "audit")) == 1
    await ring.test("other")
    with pytest.raises(Rejected, match="bound to crl"):
        await audit.checkpoint(checkpoint_sign(ring, "other"))
    check: Callable[[Connection], Any] = lambda connection: verify(  # noqa: E731
        connection, verify_signature=checkpoint_verify(ring.public_key)
    )
    report = await database.read(check)
    assert report.problems == ()
    assert report.checkpoints == 1

    def forge(connection: Connection) -> None:
        connection.execute(text("UPDATE audit_checkpoint SET key_name = 'other'"))

    await database.write(forge)
    assert (await database.read(check)).problems
    await ring.close()
    await database.close()
