"""Dual control: nobody does it alone, nobody twice, and what was agreed on is what is done."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import update
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from pkiserver.authority.configuration import Configuration
from pkiserver.authority.documents import read_documents
from pkiserver.foundation.errors import Rejected, Unavailable
from pkiserver.registration.administrators import Administrator, Role
from pkiserver.registration.operations import OperationKind, digest_of
from pkiserver.registration.votes import Person
from pkiserver.store.authority import templates
from pkiserver.store.schema.management import operation
from tests.protocols.management.callers import calling
from tests.protocols.management.world import TEXTS, World, opened, with_people


def template_change(text: str) -> dict[str, object]:
    changed = text.replace('duration = "90d"', 'duration = "30d"')
    return {
        "kind": "change-template",
        "object": "open",
        "particulars": {"toml": changed},
        "reason": "shorter is better",
    }


async def test_a_template_is_changed_by_two(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        await world.person("adam", Role.ADMINISTRATOR)
        asked = await world.ok("ada", "POST", "/operations", template_change(TEXTS["open"]))
        path = f"/operations/{asked['operation']['number']}"
        assert '+duration = "30d"' in asked["difference"]
        own = await world.call("ada", "POST", f"{path}/approve", {})
        assert (own.status, own.codes) == (403, {"not-authorised"})
        assert (await world.ok("aud", "GET", "/operations?state=pending"))["items"][0]["requested_by"] == "admin:ada"
        done = await world.ok("adam", "POST", f"{path}/approve", {"reason": "agreed"})
        assert (done["operation"]["state"], done["votes"][0]["voter"]) == ("done", "adam")
        row = await world.engine.database.read(lambda connection: templates.get(connection, "open"))
        assert row is not None
        assert 'duration = "30d"' in row.toml
        assert (await world.call("adam", "POST", f"{path}/approve", {})).status == 409
        events = (await world.ok("aud", "GET", "/audit?limit=50"))["items"]
        [event] = [one for one in events if one["details"].get("via") == "operation 1"]
        assert (event["kind"], event["actor"]) == ("configuration", "admin:ada")


async def test_one_refusal_ends_an_operation_for_good(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        await world.person("adam", Role.ADMINISTRATOR)
        asked = await world.ok("ada", "POST", "/operations", template_change(TEXTS["open"]))
        path = f"/operations/{asked['operation']['number']}"
        assert (await world.call("ada", "POST", f"{path}/deny", {})).codes == {"not-authorised"}
        denied = await world.ok("ruth", "POST", f"{path}/deny", {"reason": "too short"})
        assert (denied["operation"]["state"], denied["operation"]["outcome"]) == ("denied", "too short")
        assert [(vote["voter"], vote["approved"], vote["reason"]) for vote in denied["votes"]] == [
            ("ruth", False, "too short")
        ]
        assert (await world.call("adam", "POST", f"{path}/approve", {})).codes == {"conflict"}
        row = await world.engine.database.read(lambda connection: templates.get(connection, "open"))
        assert row is not None
        assert 'duration = "90d"' in row.toml


async def test_a_template_that_was_changed_meanwhile_is_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        await world.person("adam", Role.ADMINISTRATOR)
        asked = await world.ok("ada", "POST", "/operations", template_change(TEXTS["open"]))
        now = world.engine.clock.now()
        other = TEXTS["open"].replace('duration = "90d"', 'duration = "60d"')
        await world.engine.database.write(
            lambda connection: templates.put(connection, "open", other, now=now, expected=1)
        )
        done = await world.ok("adam", "POST", f"/operations/{asked['operation']['number']}/approve", {})
        assert done["operation"]["state"] == "failed"
        assert "changed meanwhile" in done["operation"]["outcome"]
        failed = [one for one in (await world.ok("aud", "GET", "/audit"))["items"] if one["outcome"] == "failed"]
        assert [(one["actor"], one["object"]) for one in failed] == [("admin:adam", "operation 1")]
        assert "changed meanwhile" in failed[0]["details"]["why"]


async def test_who_leaves_before_the_answer_leaves_nothing_half_done(tmp_path: Path) -> None:
    """The last approval is a vote and then a deed: a connection that broke between them left it approved for ever."""
    async with opened(tmp_path) as world:
        await with_people(world)
        adam = await world.person("adam", Role.ADMINISTRATOR)
        asked = await world.ok("ada", "POST", "/operations", template_change(TEXTS["open"]))
        path = f"/operations/{asked['operation']['number']}"
        await world.ok("adam", "GET", "/me")
        hurdle = threading.Event()
        held = Deferred.fromCoroutine(world.engine.database.write(lambda _: hurdle.wait(20)))
        with calling(world, adam) as caller:
            await deferToThread(caller.send, "POST", f"{path}/approve", {})
            await deferLater(reactor, 0.3)
        await deferLater(reactor, 0.3)
        hurdle.set()
        await held
        for _ in range(100):
            shown = await world.ok("aud", "GET", path)
            if shown["operation"]["state"] == "done":
                break
        assert (shown["operation"]["state"], len(shown["votes"])) == ("done", 1)
        row = await world.engine.database.read(lambda connection: templates.get(connection, "open"))
        assert row is not None
        assert 'duration = "30d"' in row.toml


async def test_what_was_approved_when_the_process_ended_is_carried_out_by_approving_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        await world.person("adam", Role.ADMINISTRATOR)
        asked = await world.ok("ada", "POST", "/operations", template_change(TEXTS["open"]))
        number = asked["operation"]["number"]
        # the vote alone, as it stands when the process ends after it
        await world.engine.operations.decide(number, approved=True, by=Person("admin:adam"))
        path = f"/operations/{number}"
        for who in ("ada", "ruth"):
            assert (await world.call(who, "POST", f"{path}/approve", {})).codes == {"conflict"}
        assert (await world.call("adam", "POST", f"{path}/deny", {})).codes == {"conflict"}
        done = await world.ok("adam", "POST", f"{path}/approve", {})
        assert (done["operation"]["state"], len(done["votes"])) == ("done", 1)
        row = await world.engine.database.read(lambda connection: templates.get(connection, "open"))
        assert row is not None
        assert 'duration = "30d"' in row.toml
        assert (await world.call("adam", "POST", f"{path}/approve", {})).codes == {"conflict"}


async def test_what_was_approved_while_the_database_went_away_is_carried_out_by_approving_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        await world.person("adam", Role.ADMINISTRATOR)
        asked = await world.ok("ada", "POST", "/operations", template_change(TEXTS["open"]))
        path = f"/operations/{asked['operation']['number']}"

        def gone(*_arguments: object, **_more: object) -> None:
            raise Unavailable("the database is away")

        with monkeypatch.context() as patched:
            patched.setattr(templates, "put", gone)
            away = await world.call("adam", "POST", f"{path}/approve", {})
        assert (away.status, "retry-after" in away.headers) == (503, True)
        assert (await world.ok("aud", "GET", path))["operation"]["state"] == "approved"
        done = await world.ok("adam", "POST", f"{path}/approve", {})
        assert (done["operation"]["state"], len(done["votes"])) == ("done", 1)


async def test_what_cannot_be_is_not_even_asked(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        await world.person("ann", Role.ADMINISTRATOR, templates=frozenset({"two"}))
        good = template_change(TEXTS["open"])
        for change in (
            {"particulars": {"toml": "nonsense ="}},
            {"particulars": {"toml": TEXTS["open"]}},
            {"particulars": {"toml": TEXTS["two"]}},
            {"particulars": {}},
            {"reason": ""},
            {"kind": "revoke-authority", "object": "root", "particulars": {"fingerprint": "zz", "reason": "x"}},
            {"kind": "revoke-authority", "object": "absent", "particulars": {"fingerprint": "00", "reason": "1"}},
        ):
            answer = await world.call("ada", "POST", "/operations", {**good, **change})
            assert answer.status in {400, 404, 409, 422}, change
        assert (await world.call("ann", "POST", "/operations", good)).status == 403
        assert (await world.ok("aud", "GET", "/operations"))["items"] == []


async def test_several_templates_are_asked_for_all_or_none(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        engine = world.engine
        configuration, desk = Configuration(engine.database, engine.audit, engine.clock), engine.dual_control
        shorter = [TEXTS[name].replace('duration = "90d"', 'duration = "30d"') for name in ("open", "seated", "two")]
        documents = read_documents([(f"{number}.toml", text) for number, text in enumerate(shorter)])
        plan = await configuration.plan(documents)
        for name in ("open", "two"):  # the second one, or the third, is not theirs
            who = Administrator(f"only-{name}", frozenset({Role.ADMINISTRATOR}), templates=frozenset({name, "seated"}))
            await world.engine.administrators.create(who, by="tester")
            with pytest.raises(Rejected, match="is not for"):
                await desk.ask_to_change(plan, why="shorter", by=who.person)
        long = read_documents([("0.toml", shorter[0]), ("1.toml", shorter[1] + "#" * 300_000)])
        with pytest.raises(Rejected, match="at most 262144 characters of particulars: change-template seated"):
            await desk.ask_to_change(await configuration.plan(long), why="shorter", by=Person("admin:ada"))
        assert await world.engine.operations.list_page() == ()
        asked = await desk.ask_to_change(plan, why="shorter", by=Person("admin:ada"))
        assert [one.object for one in asked] == ["open", "seated", "two"]
        assert await configuration.plan(documents) == plan, "nothing is changed before somebody agrees"


async def test_row_25_an_authority_is_revoked_by_two(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        found = (await world.ok("ruth", "GET", "/authorities"))["items"]
        mark = next(one["fingerprint"] for one in found if one["name"] == "issuing")
        wanted = {
            "kind": "revoke-authority",
            "object": "issuing",
            "particulars": {"fingerprint": mark, "reason": "cACompromise"},
            "reason": "the safe was open",
        }
        asked = await world.ok("ruth", "POST", "/operations", wanted)
        done = await world.ok("rolf", "POST", f"/operations/{asked['operation']['number']}/approve", {})
        assert done["operation"]["state"] == "done"
        shown = await world.call("aud", "GET", f"/certificates/{mark}")
        # the administrators' own certificates are of that authority, but they are not revoked with it
        assert shown.json["certificate"]["state"] == "revoked"
        events = (await world.ok("aud", "GET", "/audit?limit=20"))["items"]
        [event] = [one for one in events if one["kind"] == "revocation"]
        assert (event["actor"], event["details"]["approved_by"]) == ("admin:ruth", "admin:rolf")


async def test_row_25_an_authority_on_hold_is_released_by_two(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        found = (await world.ok("ruth", "GET", "/authorities"))["items"]
        mark = next(one["fingerprint"] for one in found if one["name"] == "issuing")

        async def agreed(kind: str, **particulars: str) -> None:
            named = {"fingerprint": mark, **particulars}
            wanted = {"kind": kind, "object": "issuing", "particulars": named, "reason": "drill"}
            number = (await world.ok("ruth", "POST", "/operations", wanted))["operation"]["number"]
            own = await world.call("ruth", "POST", f"/operations/{number}/approve", {})
            assert own.codes == {"not-authorised"}
            done = await world.ok("rolf", "POST", f"/operations/{number}/approve", {})
            assert done["operation"]["state"] == "done"

        async def state() -> str:
            return str((await world.ok("aud", "GET", f"/certificates/{mark}"))["certificate"]["state"])

        early = {"kind": "release-authority", "object": "issuing", "particulars": {"fingerprint": mark}, "reason": "x"}
        assert (await world.call("ruth", "POST", "/operations", early)).status == 409
        await agreed("revoke-authority", reason="certificateHold")
        assert await state() == "held"
        for reason, status in (("certificateHold", 409), ("removeFromCRL", 422)):
            again = {"kind": "revoke-authority", "particulars": {"fingerprint": mark, "reason": reason}}
            assert (await world.call("ruth", "POST", "/operations", {**early, **again})).status == status
        alone = await world.call("ruth", "POST", f"/certificates/{mark}/release", {})
        assert (alone.status, alone.codes) == (403, {"not-authorised"})
        assert await state() == "held"
        await agreed("release-authority")
        assert await state() == "issued"
        events = (await world.ok("aud", "GET", "/audit?limit=20"))["items"]
        [event] = [one for one in events if one["kind"] == "release"]
        assert (event["actor"], event["details"]["approved_by"]) == ("admin:ruth", "admin:rolf")


async def approved_export(world: World) -> tuple[int, bytes]:
    """An operation that is approved, and the digest of what it approves."""
    operations = world.engine.operations
    for name in ("ada", "adam"):
        await world.engine.administrators.create(Administrator(name, frozenset({Role.ADMINISTRATOR})), by="tester")
    particulars = {"detail": "the key of device-7"}
    asked = await operations.ask(
        OperationKind.EXPORT_SECRET, "key-7", particulars, reason="moving", by=Person("admin:ada")
    )
    await operations.decide(asked.number, approved=True, by=Person("admin:adam"))
    return asked.number, digest_of(OperationKind.EXPORT_SECRET, "key-7", particulars)


async def test_an_approval_is_spent_once_and_on_nothing_else(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url=url) as world:
        number, digest = await approved_export(world)
        operations, database = world.engine.operations, world.engine.database
        other = digest_of(OperationKind.EXPORT_SECRET, "key-8", {"detail": "the key of device-7"})
        for kind, wrong in ((OperationKind.EXPORT_SECRET, other), (OperationKind.RECOVER_KEY, digest)):
            with pytest.raises(Rejected, match="approves something else"):
                await database.write(lambda connection, k=kind, w=wrong: operations.spend(connection, number, k, w))
        kind = OperationKind.EXPORT_SECRET
        tries = [
            Deferred.fromCoroutine(
                database.write(lambda connection: operations.spend(connection, number, kind, digest))
            )
            for _ in range(50)
        ]
        results = await DeferredList(tries, consumeErrors=True)
        assert sum(fine for fine, _ in results) == 1


async def test_recovering_a_key_is_agreed_on_over_the_api_and_done_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        detail = {"detail": "the key of certificate 1f3a"}
        wish = {"kind": "recover-key", "object": "device-7", "particulars": detail, "reason": "the disk is broken"}
        for wrong in ({}, {"detail": "x", "more": "y"}):
            assert (await world.call("ruth", "POST", "/operations", {**wish, "particulars": wrong})).status == 400
        assert (await world.call("olga", "POST", "/operations", wish)).codes == {"not-authorised"}
        asked = (await world.ok("ruth", "POST", "/operations", wish))["operation"]
        number, kind, desk = asked["number"], OperationKind.RECOVER_KEY, world.engine.dual_control
        with pytest.raises(Rejected, match="has 0 of 1 approvals"):
            await desk.consent(number, kind, "device-7", detail)
        agreed = await world.ok("rolf", "POST", f"/operations/{number}/approve", {})
        assert agreed["operation"]["state"] == "approved", "who recovers the key does it, with this consent"
        with pytest.raises(Rejected, match="approves something else"):
            await desk.consent(number, kind, "device-8", detail)
        consent = await desk.consent(number, kind, "device-7", detail)
        await world.engine.database.write(consent.spend)
        assert (await world.ok("aud", "GET", f"/operations/{number}"))["operation"]["state"] == "done"
        with pytest.raises(Rejected, match="is done"):
            await desk.consent(number, kind, "device-7", detail)


async def test_row_40_an_operation_that_was_changed_in_the_database_is_not_done(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url=url) as world:
        number, digest = await approved_export(world)
        operations, database = world.engine.operations, world.engine.database
        kind = OperationKind.EXPORT_SECRET
        forged = digest_of(kind, "key-8", {"detail": "another"})
        changes = (
            {"object": "key-8"},
            {"payload": '{"detail": "another"}'},
            {"object": "key-8", "payload": '{"detail": "another"}', "digest": forged},
        )
        before = await database.read(lambda connection: connection.execute(operation.select()).one()._asdict())
        for change in changes:
            await database.write(
                lambda connection, c=change: connection.execute(update(operation).values(**c)).rowcount
            )
            for wanted in (digest, forged):
                with pytest.raises(Rejected):
                    await database.write(lambda connection, w=wanted: operations.spend(connection, number, kind, w))
            await database.write(lambda connection: connection.execute(update(operation).values(**before)).rowcount)
        await database.write(lambda connection: operations.spend(connection, number, kind, digest))
