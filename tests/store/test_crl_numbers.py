"""CRL numbers of one issuer name: rising over keys and processes, and moved forward for good."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from pkiserver.store.authority import authorities, crl_history, crls
from pkiserver.store.authority.authorities import AuthorityRow, GenerationState
from pkiserver.store.authority.crls import CrlScope
from tests.support.children import finish, start
from tests.support.stored import NOW, opened


def two_keys(connection: Connection) -> tuple[CrlScope, CrlScope]:
    """The complete lists of two keys of one name."""
    issuer = authorities.issuer_for(connection, b"dn", "CN=CA", now=NOW)
    authorities.insert_authority(connection, AuthorityRow("ca", issuer.id, "", "active", NOW))

    def key(name: str) -> CrlScope:
        generation = authorities.add_generation(
            connection,
            authority_name="ca",
            certificate=name.encode(),
            key_name=name,
            chain=(),
            ski=None,
            state=GenerationState.ACTIVE,
            now=NOW,
        )
        return crls.scope_for(connection, issuer.id, generation.id)

    return key("one"), key("two")


def test_processes_that_issue_at_the_same_moment_never_share_a_number(
    url: str, on_reactor: Callable[[Any], Any]
) -> None:
    async def prepare() -> tuple[CrlScope, CrlScope]:
        async with opened(url) as database:
            return await database.write(two_keys)

    scopes = on_reactor(prepare)
    which = ",".join(str(one.id) for one in scopes)
    children = [start("tests.store.numbering_child", url, scopes[0].issuer_id, which) for _ in range(2)]
    said = [finish(child) for child in children]
    numbers = sorted(int(line.split()[1]) for text in said for line in text.splitlines())
    assert numbers == list(range(1, 121)), "the two keys of a name share the sequence too"


async def test_numbers_move_forward_for_every_list_of_the_name_and_never_back(url: str) -> None:
    async with opened(url) as database:
        one, two = await database.write(two_keys)

        def take(scope: CrlScope) -> Callable[[Connection], int]:
            return lambda c: crl_history.next_issuer_number(c, scope.issuer_id, scope.id, scope.scope)

        assert await database.write(take(one)) == 1
        for number in (50, 20):
            await database.write(lambda c, number=number: crl_history.advance(c, one.issuer_id, number))  # type: ignore[misc]
            assert await database.read(lambda c: crl_history.highest_number(c, one.issuer_id)) == 50
        assert [await database.write(take(scope)) for scope in (two, one, two)] == [51, 52, 53]
        later = await database.write(lambda c: crls.scope_for(c, one.issuer_id, one.generation_id, "shards/0"))
        assert await database.write(take(later)) == 51, "also one that was not there then"
        assert await database.read(lambda c: crl_history.highest_number(c, one.issuer_id)) == 53
