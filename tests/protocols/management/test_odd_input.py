"""Names, numbers and octets that no honest client sends: answered as the document says, and kept short in the log."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest

from pkiserver.registration.administrators import Role
from protocols.management import codec, views
from protocols.management.codec import MOST_PROBLEMS
from tests.protocols.management.callers import calling
from tests.protocols.management.world import opened


async def test_a_member_whose_name_is_no_text_is_refused_like_any_other(tmp_path: Path) -> None:
    """A lone surrogate can be written in JSON, but not in UTF-8: neither in the answer nor in the audit log."""
    async with opened(tmp_path) as world:
        with calling(world, await world.person("ruth", Role.RA_OFFICER)) as caller:
            for name in (r"\ud800", r"a\u0000b", "~a/b"):
                body = f'{{"template":"open","{name}":1}}'.encode()
                answer = await caller.call("POST", "/challenges", body)
                assert (answer.status, answer.codes) == (400, {"malformed"})
            assert "/~0a~1b is not known" in answer.json["detail"]
            answer = await caller.call("PATCH", "/seats/1", rb'{"metadata":{"\ud800":1}}')
            assert (answer.status, len(answer.json["reasons"])) == (400, 2)


def test_what_a_body_has_wrong_is_told_within_bounds() -> None:
    body = {"template": "open", **{f"{number:05}": 1 for number in range(5000)}, "x" * 100_000: 1}
    with pytest.raises(codec.Rejected) as caught:
        codec.read(views.NewChallenge, json.dumps(body).encode())
    assert len(caught.value.reasons) == MOST_PROBLEMS
    with pytest.raises(codec.Rejected) as caught:
        codec.read(views.NewChallenge, json.dumps({"template": "open", "x" * 100_000: 1}).encode())
    assert len(str(caught.value)) < 100


async def test_a_path_or_query_that_is_no_text_is_a_problem_too(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        with calling(world, await world.person("ruth", Role.RA_OFFICER)) as caller:
            for path in ("/accounts/%ff", "/%ff", "/certificates?subject=%ff", "/certificates?subject=%ED%A0%80"):
                answer = await caller.call("GET", path, checked=False)
                assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json"), path
                assert answer.headers["cache-control"] == "no-store"
            assert (await caller.call("GET", "//me", checked=False)).status == 404
            assert (await caller.call("GET", f"/certificates?subject={quote('CN=José')}")).status == 200


@pytest.mark.parametrize(
    "query", ["serial=0x12", "serial=1_2", "serial=%2012", "serial=-5", "serial=", "fingerprint=ab", "fingerprint=zz"]
)
async def test_only_hexadecimal_digits_are_hexadecimal(tmp_path: Path, query: str) -> None:
    async with opened(tmp_path) as world:
        with calling(world, await world.person("ruth", Role.RA_OFFICER)) as caller:
            answer = await caller.call("GET", f"/certificates?{query}")
            assert (answer.status, answer.codes) == (400, {"malformed"})


async def test_an_account_whose_name_has_a_slash(tmp_path: Path) -> None:
    """As Kerberos principals have: once made over the API it could be neither shown nor removed there."""
    async with opened(tmp_path) as world:
        with calling(world, await world.person("ruth", Role.RA_OFFICER)) as caller:
            name = "host/www.example.org/José"
            path = f"/accounts/{quote(name, safe='')}"
            assert (await caller.call("POST", "/accounts", {"name": name})).status == 201
            shown = await caller.call("GET", path)
            assert (shown.status, shown.json["name"]) == (200, name)
            assert (await caller.call("PATCH", path, {"groups": ["hosts"]})).json["groups"] == ["hosts"]
            assert (await caller.call("DELETE", path)).status == 204
            assert (await caller.call("GET", path)).status == 404
