"""The management API by curl: what each role may, and what each call does."""

from __future__ import annotations

from pathlib import Path

from tests.protocols.management.world import opened, with_people


async def test_first(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        me = await world.ok("ada", "GET", "/me")
        assert me["roles"] == ["administrator"]
        made = await world.ok("ruth", "POST", "/challenges", {"template": "code"})
        assert made["code"].startswith("E")
        answer = await world.call("ruth", "DELETE", f"/challenges/{made['number']}")
        assert answer.status == 204
