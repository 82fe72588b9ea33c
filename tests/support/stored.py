"""Records to put into a store under test."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from pkiserver.store import certificates
from pkiserver.store.database import Database
from pkiserver.store.engines import parse_url, writing_engine
from pkiserver.store.names import San, SanKind
from pkiserver.store.outbox import Outbox
from pkiserver.store.writer import Job, Writer

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Database]:
    """An open database, closed afterwards."""
    database = await Database.open(url, **options)
    try:
        yield database
    finally:
        await database.close()


def write(url: str, work: Callable[[Connection], object]) -> None:
    """One write without a reactor."""
    outcomes: list[Exception | None] = []
    engine = writing_engine(parse_url(url))
    writer = Writer(engine, lambda done: outcomes.extend(one.error for one in done), limit=10)
    writer.join(Outbox())
    writer.start()
    writer.submit(Job(work, None))
    writer.close()
    engine.dispose()
    assert outcomes == [None]


def new_serial() -> int:
    """A serial as an authority makes them: 159 bits."""
    return int.from_bytes(os.urandom(20), "big") >> 1 | 1 << 158


def new_intent(
    *,
    serial: int | None = None,
    issuer_id: int = 1,
    generation_id: int = 1,
    subject: str = "CN=device,O=Example",
    sans: tuple[San, ...] = (San(SanKind.DNS, "device.example"),),
    not_after: datetime = NOW + timedelta(days=90),
    template: str = "device",
    requester: str = "alice",
    spki_sha256: bytes | None = None,
    holder: str = "test",
    created: datetime = NOW,
) -> certificates.NewIntent:
    """A certificate about to be signed."""
    return certificates.NewIntent(
        issuer_id=issuer_id,
        generation_id=generation_id,
        serial=serial or new_serial(),
        tbs=b"to be signed",
        subject=subject,
        sans=sans,
        not_before=NOW,
        not_after=not_after,
        template=template,
        requester=requester,
        protocol="est",
        request_id="r-1",
        spki_sha256=spki_sha256 or os.urandom(32),
        holder=holder,
        created=created,
    )


def issue(connection: Connection, intent: certificates.NewIntent | None = None, der: bytes | None = None) -> int:
    """Take a certificate down the whole road in one transaction; returns its number."""
    intent = intent or new_intent()
    number = certificates.insert_prepared(connection, intent)
    assert certificates.mark_asked(connection, number)
    assert certificates.store_issued(connection, number, der or os.urandom(300), serial=intent.serial, at=NOW)
    return number
