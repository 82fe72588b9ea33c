"""A search of which hardly any certificate meets all conditions holds nobody up, and still finds what there is."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, insert, select

from pkiserver.registration.administrators import Role
from pkiserver.store.certificates.search import MOST_READ
from pkiserver.store.schema.certificates import certificate
from tests.protocols.management.callers import Caller, calling
from tests.protocols.management.test_scope_lists import ALICE, certificate_of
from tests.protocols.management.world import World, opened

QUERIES = (
    "requester=alice&template=open",
    "requester=alice&state=issued&template=open",
    "subject_prefix=cn&template=open",
)


async def crowd(world: World) -> None:
    """More certificates of the same person than one page looks at."""

    def work(connection: Connection) -> None:
        query = select(certificate).where(certificate.c.template == "seated").limit(1)
        row = dict(connection.execute(query).one()._mapping)
        row |= {"fingerprint": None}
        news = range(10**6, 10**6 + MOST_READ + 10)
        connection.execute(insert(certificate), [{**row, "id": new, "serial": new.to_bytes(20)} for new in news])

    await world.engine.database.write(work)


async def pages(caller: Caller, query: str) -> list[list[str]]:
    """The fingerprints on each page, up to the one without a cursor."""
    found, more = [], ""
    while True:
        page = (await caller.call("GET", f"/certificates?{query}&limit=1{more}")).json
        found.append([str(one["fingerprint"]) for one in page["items"]])
        if page["cursor"] is None:
            return found
        more = f"&cursor={page['cursor']}"


async def test_a_page_ends_where_enough_was_looked_at_and_its_cursor_leads_on(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url=url) as world:
        await world.engine.accounts.create("alice", ALICE.password, by="tester")
        wanted = [await certificate_of(world, "open", f"{turn}.example") for turn in range(2)]
        await certificate_of(world, "seated", "z.example")
        await crowd(world)
        with calling(world, await world.person("aud", Role.AUDITOR)) as caller:
            for query in QUERIES:
                found = await pages(caller, query)
                assert sorted(one for page in found for one in page) == sorted(wanted)
                assert [] in found, query


async def test_pages_within_a_scope_are_full_and_their_cursors_are_of_what_is_in_it(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url=url) as world:
        await world.engine.accounts.create("alice", ALICE.password, by="tester")
        wanted = [await certificate_of(world, "open", f"{turn}.example") for turn in range(2)]
        await certificate_of(world, "seated", "z.example")
        await crowd(world)
        with calling(world, await world.person("olga", Role.OPERATOR, templates=frozenset({"open"}))) as caller:
            for query in ("", "requester=alice", "subject_prefix=cn"):
                assert sorted(await pages(caller, query)) == sorted([one] for one in wanted), query
