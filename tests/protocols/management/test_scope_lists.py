"""What lists, searches, cursors and operations tell an administrator of what is not theirs: nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import timedelta
from pathlib import Path

from pkiserver.authority.requests import IssuedCertificate, PasswordEvidence
from pkiserver.foundation.secret import Secret
from pkiserver.registration.administrators import Role
from pkiserver.registration.operations import OperationKind
from pkiserver.registration.votes import Person
from tests.protocols.management.callers import Caller, calling
from tests.protocols.management.world import TEXTS, World, opened
from tests.support.engines import enrollment

ALICE = PasswordEvidence("alice", Secret("a long password"))
MINE = frozenset({"open", "code", "gone"})


async def certificate_of(world: World, template: str, host: str) -> str:
    made = await world.engine.enroll(enrollment(template, ALICE, name=host, hosts=(host,)))
    assert isinstance(made, IssuedCertificate)
    return hashlib.sha256(made.der).hexdigest()


async def pages(caller: Caller, path: str) -> list[list[dict[str, object]]]:
    """All pages of one object each."""
    found, more = [], ""
    joint = "&" if "?" in path else "?"
    while len(found) < 20:
        page = (await caller.call("GET", f"{path}{joint}limit=1{more}")).json
        found.append(page["items"])
        name = "cursor" if "cursor" in page else "next_before"
        if page[name] is None:
            return found
        if name == "cursor":
            padded = page[name] + "=" * (-len(page[name]) % 4)
            assert "secret" not in base64.urlsafe_b64decode(padded).decode()
        more = f"&{'cursor' if name == 'cursor' else 'before'}={page[name]}"
    raise AssertionError("pages without end")


async def test_pages_and_cursors_of_a_search_tell_nothing_of_what_is_out_of_scope(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url=url) as world:
        await world.engine.accounts.create("alice", ALICE.password, by="tester")
        mine = []
        for turn in range(3):
            await certificate_of(world, "seated", f"a-secret-{turn}.example")
            mine.append(await certificate_of(world, "open", f"b-open-{turn}.example"))
            await certificate_of(world, "seated", f"c-secret-{turn}.example")
        olga = await world.person("olga", Role.OPERATOR, templates=MINE)
        with calling(world, olga) as caller:
            for query in (
                "", "?requester=alice", "?state=issued", "?name_prefix=dns:", "?subject_prefix=CN",
                "?expires_from=2000-01-01T00:00:00Z", "?template=open",
            ):  # fmt: skip
                shown = await pages(caller, f"/certificates{query}")
                assert sorted(str(one["fingerprint"]) for [one] in shown) == sorted(mine), query
            for query in ("?template=seated", "?name=dns:a-secret-0.example", "?name_prefix=dns:a-", "?subject=CN=x"):
                assert await pages(caller, f"/certificates{query}") == [[]]
            # somebody else's cursor is a place in the list, and no key to what is there
            aud = await world.person("aud", Role.AUDITOR)
            with calling(world, aud) as auditor:
                seen = (await auditor.call("GET", "/certificates?name_prefix=dns:&limit=1")).json
                answer = await caller.call("GET", f"/certificates?name_prefix=dns:&limit=9&cursor={seen['cursor']}")
                assert sorted(one["fingerprint"] for one in answer.json["items"]) == sorted(mine)
                wrong = await caller.call("GET", f"/certificates?limit=9&cursor={seen['cursor']}")
                assert (wrong.status, wrong.codes) == (400, {"malformed"})


async def test_lists_of_requests_challenges_seats_and_operations_are_of_the_scope(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url=url) as world:
        engine = world.engine
        await engine.accounts.create("alice", ALICE.password, by="tester")
        for turn in range(2):
            for template in ("seated", "code"):
                await engine.codes.create(
                    template=template, subject=None, sans=(), lifetime=timedelta(hours=1), by="cli:root"
                )
            await engine.seats.create("seated", f"secret-{turn}", owner=None, by="cli:root")
            await engine.enroll(enrollment("two", ALICE, name=f"device-{turn}"))
            for template in ("two", "open"):
                toml = TEXTS[template].replace('"90d"', f'"{turn + 30}d"')
                kind, particulars = OperationKind.CHANGE_TEMPLATE, {"toml": toml}
                await engine.dual_control.ask(kind, template, particulars, reason="x", by=Person("cli:root"))
        rita = await world.person("rita", Role.RA_OFFICER, templates=MINE)
        with calling(world, rita) as caller:
            for path, count in (("challenges", 2), ("requests?state=pending", 0), ("seats", 0), ("operations", 2)):
                shown = await pages(caller, f"/{path}")
                assert len([one for [*page] in shown for one in page]) == count, path
                assert all(shown[:-1])  # only after a full page nothing may follow
            # exactly as many as the limit: where the next page begins is a number of theirs
            listed = (await caller.call("GET", "/challenges?limit=2")).json
            assert listed["next_before"] == listed["items"][-1]["number"]


def change_of(text: str, **more: str) -> dict[str, object]:
    change = {"kind": "change-template", "object": "open", "particulars": {"toml": text}, "reason": "x"}
    return {**change, **more}


async def test_row_29_a_scope_is_not_left_by_an_operation(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        marks = {one.name: hashlib.sha256(one.current.certificate.der).hexdigest()
                 for one in world.engine.authorities.list()}  # fmt: skip

        def revoking(name: str, mark: str) -> dict[str, object]:
            particulars = {"fingerprint": mark, "reason": "cACompromise"}
            return {"kind": "revoke-authority", "object": name, "particulars": particulars, "reason": "x"}

        await world.engine.accounts.create("alice", ALICE.password, by="tester")
        leaf = await certificate_of(world, "open", "a.example")
        await world.person("ann", Role.ADMINISTRATOR, authorities=frozenset({"issuing"}))
        await world.person("tess", Role.ADMINISTRATOR, templates=frozenset({"open"}))
        await world.person("ruth", Role.RA_OFFICER)
        moved = TEXTS["open"].replace('issuer = "issuing"', 'issuer = "root"')
        for who, body, status in (
            ("ann", change_of(moved), 403),  # to an authority that is not hers
            ("ann", change_of(f"\ufeff{moved}"), 403),  # a byte order mark hides nothing
            ("ann", revoking("root", marks["root"]), 403),
            ("ann", revoking("absent", marks["root"]), 403),
            ("ann", revoking("issuing", marks["root"]), 404),  # under her authority's name
            ("ann", revoking("issuing", leaf), 404),
            ("tess", revoking("issuing", marks["issuing"]), 403),  # she has one template of it
            ("ruth", change_of(moved), 403),  # who registers does not configure
            ("ruth", {**change_of(""), "kind": "change-administrator", "particulars": {"detail": "x"}}, 403),
            ("ann", {**change_of(""), "kind": "export-secret", "particulars": {"detail": "x"}}, 403),
        ):
            answer = await world.call(who, "POST", "/operations", body)
            assert answer.status == status, (who, body, answer)
        for who in ("ann", "tess", "ruth"):
            assert (await world.ok(who, "GET", "/operations"))["items"] == []
        for text in (moved, f"\ufeff{moved}"):
            kind, toml = OperationKind.CHANGE_TEMPLATE, {"toml": text}
            asked = await world.engine.dual_control.ask(kind, "open", toml, reason="x", by=Person("cli:root"))
            refused = await world.call("ann", "POST", f"/operations/{asked.number}/approve", {})
            assert (refused.status, refused.codes) == (403, {"not-authorised"})


async def test_a_template_that_is_named_out_of_scope_looks_like_one_that_does_not_exist(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await world.person("rita", Role.RA_OFFICER, templates=frozenset({"other"}))
        await world.person("rolf", Role.RA_OFFICER, authorities=frozenset({"root"}))
        for who in ("rita", "rolf"):
            for path, body in (
                ("/challenges", {"template": "code"}),
                ("/challenges", {"template": "open"}),  # which takes no codes
                ("/seats", {"template": "seated", "identity": "x"}),
                ("/seats", {"template": "open", "identity": "x"}),  # which has no seats
            ):
                hidden = await world.call(who, "POST", path, body)
                absent = await world.call(who, "POST", path, {**body, "template": "nothing"})
                told = absent.json["detail"].replace("nothing", body["template"])
                assert (hidden.status, hidden.json["detail"]) == (absent.status, told) == (403, told)


async def test_whoever_manages_a_template_sees_the_authority_behind_it_and_no_other(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await world.person("tess", Role.ADMINISTRATOR, templates=frozenset({"open"}))
        assert [one["name"] for one in (await world.ok("tess", "GET", "/authorities"))["items"]] == ["issuing"]
        assert [one["name"] for one in (await world.ok("tess", "GET", "/templates"))["items"]] == ["open"]
        assert json.dumps((await world.ok("tess", "GET", "/certificates"))["items"]) == "[]"
