"""The management API by curl, call by call."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509

from pkiserver.authority.requests import IssuedCertificate, PasswordEvidence
from pkiserver.foundation.secret import Secret
from pkiserver.registration.administrators import Role
from pkiserver.registration.approvals import Pending
from tests.protocols.management.world import World, common_name, opened, with_people
from tests.support.engines import enrollment
from tests.support.postgres import PostgresServer

GOOD = "a long password"


async def issue(world: World, template: str = "open", name: str = "device-1", account: str = "alice") -> str:
    """A certificate; its fingerprint."""
    made = await world.engine.enroll(enrollment(template, PasswordEvidence(account, Secret(GOOD)), name=name))
    assert isinstance(made, IssuedCertificate)
    return hashlib.sha256(made.der).hexdigest()


async def test_an_account_from_its_making_to_its_deletion(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        new = {"name": "alice", "password": GOOD, "groups": ["staff"], "attributes": {"mail": "a@example.org"}}
        assert (await world.ok("ruth", "POST", "/accounts", new))["password"] is True
        again = await world.call("ruth", "POST", "/accounts", new)
        assert (again.status, again.codes) == (409, {"conflict"})
        assert GOOD not in again.body.decode()
        bad = await world.call("ruth", "POST", "/accounts", {"name": "a:b", "password": "short"})
        assert bad.status == 400
        assert len(bad.json["reasons"]) == 2
        changed = await world.ok("ruth", "PATCH", "/accounts/alice", {"groups": ["staff", "vip"], "disabled": True})
        assert (changed["groups"], changed["disabled"], changed["attributes"]) == (
            ["staff", "vip"], True, {"mail": "a@example.org"},
        )  # fmt: skip
        listed = await world.ok("aud", "GET", "/accounts?limit=1")
        assert ([one["name"] for one in listed["items"]], listed["next_after"]) == (["alice"], "alice")
        assert await world.ok("ruth", "DELETE", "/accounts/alice") is None
        assert (await world.call("ruth", "GET", "/accounts/alice")).status == 404


async def test_a_change_of_several_things_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        await world.ok("ruth", "POST", "/accounts", {"name": "alice", "password": GOOD})
        bad = {"password": "another long password", "groups": ["vip"], "attributes": {"no name": "x"}, "disabled": True}
        assert (await world.call("ruth", "PATCH", "/accounts/alice", bad)).status == 400
        shown = await world.ok("ruth", "GET", "/accounts/alice")
        assert (shown["groups"], shown["disabled"]) == ([], False)
        assert await issue(world), "the password is the old one"
        seat = await world.ok("ruth", "POST", "/seats", {"template": "seated", "identity": "x", "owner": "bob"})
        path = f"/seats/{seat['number']}"
        bad = {"owner": "carol", "archived": True, "metadata": {str(number): "x" for number in range(65)}}
        assert (await world.call("ruth", "PATCH", path, bad)).status == 422
        assert (await world.ok("ruth", "GET", path))["seat"] == seat
        await world.ok("ruth", "PATCH", "/accounts/alice", {"groups": ["vip"], "disabled": True})
        await world.ok("ruth", "PATCH", path, {"owner": "carol", "archived": True})
        events = [one["details"]["change"] for one in (await world.ok("aud", "GET", "/audit?limit=2"))["items"]]
        assert events == ["changed, disabled", "owner carol, archived"]


async def test_values_that_stand_twice_are_all_told_and_taken(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        both = (("mail", "a@example.org"), ("mail", "b@example.org"), ("room", "7"))
        await world.engine.accounts.create("alice", Secret(GOOD), attributes=both, by="tester")
        shown = await world.ok("aud", "GET", "/accounts/alice")
        assert shown["attributes"] == {"mail": ["a@example.org", "b@example.org"], "room": "7"}
        await world.ok("ruth", "PATCH", "/accounts/alice", {"attributes": shown["attributes"]})
        assert (await world.engine.accounts.get("alice")).attributes == both
        odd = await world.call(
            "ruth", "PATCH", "/accounts/alice", {"attributes": {"mail": [1], "room": {}}}, checked=False
        )
        assert (odd.status, len(odd.json["reasons"])) == (400, 2)


async def test_row_37_a_nul_is_refused_wherever_it_stands(tmp_path: Path, postgres_server: PostgresServer) -> None:
    async with opened(tmp_path, url=postgres_server.new_url()) as world:
        await with_people(world)
        made = await world.ok("ruth", "POST", "/seats", {"template": "seated", "identity": "alice", "owner": "bob"})
        path, nul = f"/seats/{made['number']}", "a\0b"
        calls: list[tuple[str, str, object]] = [
            ("PATCH", path, {"owner": nul}),
            ("PATCH", path, {"metadata": {nul: "x"}}),
            ("PUT", f"{path}/slots/1", {"mode": "locked", "device": nul}),
            ("POST", "/accounts", {"name": "al", "groups": [nul], "attributes": {"mail": nul}}),
            ("POST", "/challenges", {"template": "code", "subject": f"CN={nul}"}),
            ("GET", "/seats?identity=a%00b", None),
            ("GET", "/accounts?after=a%00b", None),
            ("GET", "/accounts/a%00b", None),
            ("GET", "/certificates?requester=a%00b", None),
        ]
        for method, where, body in calls:
            answer = await world.call("ruth", method, where, body, checked=False)
            assert answer.status in {400, 404}, where


async def test_a_challenge_for_an_mdm(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        wanted = {"template": "code", "subject": "CN=printer", "names": ["dns:printer.example"], "lifetime_seconds": 60}
        made = await world.ok("ruth", "POST", "/challenges", wanted)
        [listed] = (await world.ok("ruth", "GET", "/challenges"))["items"]
        assert (listed["subject"], listed["created_by"], listed["spent_at"]) == ("CN=printer", "admin:ruth", None)
        assert made["code"] not in str(listed)
        outside = await world.call("olga", "POST", "/challenges", wanted)
        assert (outside.status, outside.codes) == (403, {"not-authorised"})
        assert (await world.ok("olga", "GET", "/challenges"))["items"] == []
        assert (await world.call("olga", "DELETE", f"/challenges/{made['number']}")).status == 404
        bad = await world.call("ruth", "POST", "/challenges", {**wanted, "names": ["what:ever"], "lifetime_seconds": 1})
        assert bad.status == 400
        useless = await world.call("ruth", "POST", "/challenges", {**wanted, "template": "open"})
        assert (useless.status, useless.codes) == (409, {"conflict"})
        assert "takes an enrolment code" in useless.json["detail"]
        for_nobody = await world.call("ruth", "POST", "/challenges", {"template": "code", "subject": ""})
        assert (for_nobody.status, for_nobody.codes) == (422, {"bad-subject"})
        assert await world.ok("ruth", "DELETE", f"/challenges/{made['number']}") is None
        assert (await world.call("ruth", "DELETE", f"/challenges/{made['number']}")).status == 404


async def test_a_request_that_two_officers_approve(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        await world.engine.accounts.create("alice", Secret(GOOD), by="tester")
        request = enrollment("two", PasswordEvidence("alice", Secret(GOOD)))
        pending = await world.engine.enroll(request)
        assert isinstance(pending, Pending)
        path = f"/requests/{pending.request_number}"
        shown = await world.ok("rolf", "GET", path)
        assert shown["request"]["needed"] == 2
        assert x509.load_pem_x509_csr(shown["csr"].encode()).subject.rfc4514_string() == "CN=device-1"
        assert any(line.startswith("key: ec-p256") for line in shown["request"]["checks"])
        first = await world.ok("ruth", "POST", f"{path}/approve", {"reason": "asked for by telephone"})
        assert first["state"] == "pending"
        assert (await world.call("ruth", "POST", f"{path}/approve", {})).codes == {"conflict"}
        assert (await world.call("ada", "POST", f"{path}/approve", {})).codes == {"not-authorised"}
        second = await world.ok("rolf", "POST", f"{path}/approve", {})
        assert (second["state"], second["decided_by"]) == ("approved", "admin:rolf")
        votes = (await world.ok("aud", "GET", path))["votes"]
        assert [(vote["voter"], vote["reason"]) for vote in votes] == [("ruth", "asked for by telephone"), ("rolf", "")]
        assert isinstance(await world.engine.enroll(request), IssuedCertificate)
        assert (await world.ok("ruth", "GET", "/requests?state=issued"))["items"][0]["requester"] == "alice"
        denied = await world.engine.enroll(enrollment("two", PasswordEvidence("alice", Secret(GOOD)), name="other"))
        assert isinstance(denied, Pending)
        answer = await world.ok("ruth", "POST", f"/requests/{denied.request_number}/deny", {"reason": "not ours"})
        assert answer["state"] == "denied"


async def test_certificates_are_searched_by_pages_and_revoked(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        await world.engine.accounts.create("alice", Secret(GOOD), by="tester")
        marks = [await issue(world, name=f"device-{n}") for n in range(5)]
        seen: list[str] = []
        page = await world.ok("olga", "GET", "/certificates?requester=alice&limit=2")
        while True:
            seen += [one["fingerprint"] for one in page["items"]]
            if page["cursor"] is None:
                break
            page = await world.ok("olga", "GET", f"/certificates?requester=alice&limit=2&cursor={page['cursor']}")
        assert seen == marks[::-1]
        shown = await world.ok("olga", "GET", f"/certificates/{marks[0]}")
        assert common_name(shown["pem"]) == "CN=device-0"
        held = await world.ok("olga", "POST", f"/certificates/{marks[0]}/hold", {"comment": "lost?"})
        assert (held["state"], held["reason"]) == ("held", "certificateHold")
        assert (await world.ok("olga", "POST", f"/certificates/{marks[0]}/release", {}))["state"] == "issued"
        wanted = {"reason": "keyCompromise", "comment": "stolen"}
        revoked = await world.ok("olga", "POST", f"/certificates/{marks[0]}/revoke", wanted)
        assert (revoked["state"], revoked["reason"]) == ("revoked", "keyCompromise")
        found = await world.ok("aud", "GET", "/certificates?state=revoked")
        assert [one["fingerprint"] for one in found["items"]] == [marks[0]]
        events = (await world.ok("aud", "GET", "/audit?limit=20"))["items"]
        [event] = [one for one in events if one["details"].get("comment") == "stolen"]
        assert (event["kind"], event["actor"]) == ("revocation", "admin:olga")


async def test_a_revocation_says_since_when_the_key_was_not_to_be_trusted(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        await world.engine.accounts.create("alice", Secret(GOOD), by="tester")
        mark = await issue(world)
        since = (await world.ok("ruth", "GET", f"/certificates/{mark}"))["certificate"]["not_before"]
        wanted = {"reason": "keyCompromise", "invalidity_date": since}
        revoked = await world.ok("ruth", "POST", f"/certificates/{mark}/revoke", wanted)
        assert revoked["invalidity_date"] == since
        assert (await world.ok("aud", "GET", f"/certificates/{mark}"))["certificate"] == revoked


async def test_every_filter_of_a_search_finds_what_it_says(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        for name in ("alice", "bob"):
            await world.engine.accounts.create(name, Secret(GOOD), by="tester")
        wanted = (("open", "alice", "one", "one.example"), ("seated", "bob", "two", "two.example"))
        marks = []
        for template, account, name, host in wanted:
            shown = PasswordEvidence(account, Secret(GOOD))
            made = await world.engine.enroll(enrollment(template, shown, name=name, hosts=(host,)))
            assert isinstance(made, IssuedCertificate)
            marks.append(hashlib.sha256(made.der).hexdigest())
        one = (await world.ok("aud", "GET", f"/certificates/{marks[0]}"))["certificate"]
        await world.ok("ruth", "POST", f"/certificates/{marks[0]}/hold", {})
        for query in (
            f"serial={one['serial']}", f"fingerprint={one['fingerprint']}", "subject=CN=one", "subject_prefix=cn=on",
            "name=dns:ONE.example", "name_prefix=dns:one.", "template=open", "requester=alice", "state=held",
        ):  # fmt: skip
            found = (await world.ok("aud", "GET", f"/certificates?{query}"))["items"]
            assert [each["fingerprint"] for each in found] == marks[:1], query
        end = quote(one["not_after"])
        early = (await world.ok("aud", "GET", f"/certificates?expires_before={end}"))["items"]
        late = (await world.ok("aud", "GET", f"/certificates?expires_from={end}"))["items"]
        assert marks[0] not in {each["fingerprint"] for each in early}
        assert marks[0] in {each["fingerprint"] for each in late}
        assert all(each["not_after"] >= one["not_after"] for each in late)
        both = (await world.ok("aud", "GET", "/certificates?template=open&requester=bob"))["items"]
        assert both == [], "all that is given must hold"


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=x", "limit=1&limit=2", "state=odd", "serial=xyz", "cursor=AAAA", "nonsense=1", "name=x",
     "expires_from=yesterday", "fingerprint=zz"],
)  # fmt: skip
async def test_odd_queries_are_refused_and_not_failures(tmp_path: Path, query: str) -> None:
    async with opened(tmp_path) as world:
        await world.person("aud", Role.AUDITOR)
        answer = await world.call("aud", "GET", f"/certificates?{query}")
        assert (answer.status, answer.codes) == (400, {"malformed"})
        if query == "name=x":
            assert "'x' is no kind of name (there are: dns, email, uri" in answer.json["detail"]


async def test_row_25_nobody_revokes_what_is_not_theirs_or_undoes_a_compromise(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        await world.engine.accounts.create("alice", Secret(GOOD), by="tester")
        await world.person("omar", Role.OPERATOR, templates=frozenset({"two"}))
        await world.person("otto", Role.OPERATOR, authorities=frozenset({"root"}))
        mark = await issue(world)
        for who in ("omar", "otto"):
            for call in ("revoke", "hold", "release"):
                answer = await world.call(who, "POST", f"/certificates/{mark}/{call}", {})
                assert (answer.status, answer.codes) == (404, {"unknown-certificate"})
            unknown = await world.call(who, "GET", f"/certificates/{'0' * 64}")
            hidden = await world.call(who, "GET", f"/certificates/{mark}")
            assert unknown.json["detail"].replace("0" * 64, mark) == hidden.json["detail"]
            listed = (await world.ok(who, "GET", "/certificates"))["items"]
            assert mark not in {one["fingerprint"] for one in listed}
        await world.ok("ruth", "POST", f"/certificates/{mark}/revoke", {"reason": "keyCompromise"})
        assert (await world.call("ruth", "POST", f"/certificates/{mark}/release", {})).status == 409
        weaker = await world.call("ruth", "POST", f"/certificates/{mark}/revoke", {"reason": "superseded"})
        assert (weaker.status, weaker.codes) == (409, {"certificate-revoked"})
        authority = (await world.ok("ruth", "GET", "/authorities"))["items"]
        issuing = next(one for one in authority if one["name"] == "issuing")
        alone = await world.call("ruth", "POST", f"/certificates/{issuing['fingerprint']}/revoke", {})
        assert alone.codes == {"not-authorised"}
        assert "second person" in alone.json["detail"]
        events = (await world.ok("aud", "GET", "/audit?limit=100"))["items"]
        assert sum(event["kind"] == "refusal" and event["actor"] == "admin:omar" for event in events) == 3


async def test_a_seat_is_made_changed_and_shown_with_its_devices_and_history(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        await world.engine.accounts.create("alice", Secret(GOOD), by="tester")
        made = await world.ok("olga", "POST", "/seats", {"template": "seated", "identity": "alice", "owner": "bob"})
        path = f"/seats/{made['number']}"
        await issue(world, "seated")
        changed = await world.ok("olga", "PATCH", path, {"metadata": {"room": "4.12"}, "owner": ""})
        assert (changed["metadata"], changed["owner"]) == ({"room": "4.12"}, None)
        slot = await world.ok("olga", "PUT", f"{path}/slots/2", {"mode": "learn_always", "device": "laptop"})
        assert (slot["number"], slot["mode"], slot["signature"]) == (2, "learn_always", None)
        shown = await world.ok("aud", "GET", path)
        assert [one["number"] for one in shown["slots"]] == [1, 2]
        assert shown["certificates"][0]["state"] == "issued"
        assert shown["history"][0]["what"] == "slot 2 learn_always"
        assert [one["number"] for one in (await world.ok("aud", "GET", "/seats?identity=alice"))["items"]] == [
            made["number"]
        ]
        nobodys = await world.ok("olga", "POST", "/seats", {"template": "seated", "identity": "spare", "owner": ""})
        assert nobodys["owner"] is None
        odd = await world.call("olga", "PUT", f"{path}/slots/11", {"mode": "locked"})
        assert odd.status == 400
        assert (await world.call("olga", "POST", "/seats", {"template": "open", "identity": "x"})).status == 422
        await world.person("omar", Role.OPERATOR, templates=frozenset({"open"}))
        assert (await world.call("omar", "GET", path)).status == 404
