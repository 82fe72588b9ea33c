"""One process of the CRL bench: makes lists of revoked certificates from the records; not a bench of its own."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
from sqlalchemy import Connection, func, insert, select

from pkiserver.authority.model import Authority
from pkiserver.authority.status.points import Partition, Point
from pkiserver.authority.validation.importing import Importer
from pkiserver.authority.validation.settings import ForeignCa
from pkiserver.cli.context import run_on_reactor
from pkiserver.cli.setup.layout import ISSUING
from pkiserver.foundation.tomlfile import dump
from pkiserver.runtime.configfile import load_settings
from pkiserver.runtime.engine import Engine, open_engine
from pkiserver.store.authority import authorities
from pkiserver.store.schema.certificates import certificate
from pkiserver.store.times import to_micros

SHARDS = 100
_BATCH = 20_000


def _rows(authority: Authority, first: int, count: int, now: int) -> Iterator[dict[str, Any]]:
    generation = authority.current
    year = 365 * 86_400_000_000
    for number in range(first, first + count):
        serial = hashlib.sha256(number.to_bytes(8, "big")).digest()[:20]
        yield {
            "id": number,
            "issuer_id": authority.issuer_id,
            "generation_id": generation.id,
            "serial": bytes((serial[0] & 0x3F | 0x40,)) + serial[1:],
            "state": "revoked",
            "subject": "CN=bench",
            "subject_key": "cn=bench",
            "sans": "[]",
            "not_before": now - year,
            "not_after": now + year + number,
            "template": "device",
            "requester": "bench",
            "protocol": "cli",
            "request_id": "",
            "spki_sha256": serial,
            "revocation_reason": (0, 1, 4, 5)[number % 4],
            "revoked_at": now - number * 7_000_000,
            "created": now - year,
            "settled": now - year,
            "ca": False,
            "crl_shard": number % SHARDS,
        }


async def _fill(engine: Engine, count: int) -> None:
    """So many more revoked certificates, put into the records as they would stand there."""
    authority = engine.authorities.get(ISSUING)
    now = to_micros(engine.clock.now())
    first = (await engine.database.read(lambda c: c.execute(select(func.max(certificate.c.id))).scalar()) or 0) + 10_000
    for start in range(0, count, _BATCH):
        batch = list(_rows(authority, first + start, min(_BATCH, count - start), now))

        def work(connection: Connection, batch: list[dict[str, Any]] = batch) -> None:
            connection.execute(insert(certificate), batch)

        await engine.database.write(work)


async def _with_shards(engine: Engine) -> None:
    authority = engine.authorities.get(ISSUING)
    points = (Point(), Point(partition=Partition.SHARDS, shards=SHARDS))
    crl = attrs.evolve(authority.settings.crl, points=points)
    text = dump(attrs.evolve(authority.settings, crl=crl))
    await engine.database.write(lambda c: authorities.update_authority(c, ISSUING, config=text, state="active"))
    await engine.authorities.refresh()


async def _issue(engine: Engine, scope: str) -> tuple[float, int]:
    authority = engine.authorities.get(ISSUING)
    begun = time.perf_counter()
    issued = await engine.status.schedule.issue_now(authority, authority.current, actor="bench", scope=scope)
    return time.perf_counter() - begun, issued.entries


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def _build(engine: Engine, count: int, runs: int) -> dict[str, Any]:
    """Complete lists and shards; how long each took from the records to the stored list."""
    full = [await _issue(engine, "full") for _ in range(runs)]
    await _with_shards(engine)
    shards = [await _issue(engine, f"shards/{number}") for number in range(runs + 1)][1:]
    assert all(entries == count for _, entries in full), full
    return {
        "full": [seconds for seconds, _ in full],
        "shard": [seconds for seconds, _ in shards],
        "shard_entries": shards[0][1],
        "peak_mib": _peak(),
    }


async def _import(engine: Engine, runs: int) -> dict[str, Any]:
    """The newest list, taken as another CA's, each time into another source."""
    generation = engine.authorities.get(ISSUING).current
    kept = await engine.status.crls.kept(generation)
    assert kept is not None
    foreign = ForeignCa(name="bench", certificate=generation.certificate.pem(), feeds=("http://127.0.0.1/x.crl",))
    importer = Importer(engine.database, engine.audit, engine.clock)
    seconds = []
    for number in range(runs):
        begun = time.perf_counter()
        await importer.take(foreign, f"bench {number}", kept.der, actor="bench")
        seconds.append(time.perf_counter() - begun)
    return {"import": seconds, "octets": len(kept.der), "peak_mib": _peak()}


async def _main(config: Path, what: str, count: int, runs: int) -> None:
    async with open_engine(load_settings(config), worker=f"bench-{os.getpid()}") as engine:
        result: dict[str, Any] = {}
        if what == "fill":
            await _fill(engine, count)
        elif what == "build":
            result = await _build(engine, count, runs)
        elif what == "issue":
            result = {"entries": (await _issue(engine, "full"))[1]}
        else:
            result = await _import(engine, runs)
    print(json.dumps(result))


if __name__ == "__main__":
    run_on_reactor(lambda: _main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
