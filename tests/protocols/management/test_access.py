"""Who may what: every role with every call; strangers; and what attackers try on an administrators' interface."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from openapi_spec_validator import validate
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs, formatEvent

from pkiserver.authority.revocation import ByFingerprint, Order
from pkiserver.foundation.clock import SystemClock
from pkiserver.foundation.errors import Rejected
from pkiserver.registration.admincertificates import AdministratorCertificates
from pkiserver.registration.administrators import Administrator, Role
from pkiserver.store.certificates import RevocationReason
from protocols.management.edge import CALLS, Api
from protocols.management.site import ApiLimits
from tests.protocols.management.world import DOCUMENT, Credential, World, opened, with_people
from tests.support.clock import FakeClock


def test_the_document_is_valid_and_knows_every_route() -> None:
    validate(DOCUMENT)
    told = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert told == {(call.method, f"/api/v1{call.path}") for call in CALLS}


async def test_every_route_of_the_application_is_in_the_document(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        api = Api(world.engine)
        routed = set()
        for rule in api.app.url_map.iter_rules():
            path = rule.rule.replace("<", "{").replace(">", "}").replace("{path:", "{")
            routed |= {(method.lower(), path) for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}
        told = {(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods}
        page = {(method, f"/certsrv/mscep_admin{tail}") for method in ("get", "post") for tail in ("", "/")}
        assert routed - told == {("get", "/api/v1/openapi.json")} | page
        await world.person("aud", Role.AUDITOR)
        shown = await world.call("aud", "GET", "/openapi.json", checked=False)
        assert shown.json == DOCUMENT


async def test_the_log_has_the_number_of_every_problem_and_of_every_call(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        with capturedLogs() as captured:
            answers = [
                await world.call("ruth", "GET", "/requests/99"),
                await world.call("ruth", "POST", "/challenges", {"template": "nosuch"}),
                await world.call("ruth", "POST", "/challenges", {f"unknown-{n}": n for n in range(200)}),
                await world.call("ruth", "POST", "/challenges", "a=b", "-H", "Content-Type: text/plain"),
                await world.call("aud", "POST", "/challenges", {"template": "code"}),
                await world.call("ruth", "GET", "/nothing\N{LATIN SMALL LETTER E WITH ACUTE}", checked=False),
                await world.call("ruth", "PUT", "/me", checked=False),
                await world.call("ruth", "GET", "/%ff", checked=False),
            ]
            assert (await world.call("ruth", "GET", "/me")).status == 200
        lines = [str(formatEvent(event)) for event in captured if event["log_namespace"] == "pkiserver.api"]
        assert [answer.status for answer in answers] == [404, 404, 400, 415, 403, 404, 405, 400]
        for answer, line in zip(answers, lines[:-1], strict=True):
            number = answer.json["instance"].removeprefix("urn:pkiserver:request:")
            assert f": {answer.status} {number} {answer.json['detail'][:100]}" in line
            assert len(line) < 700
        assert re.fullmatch("ruth showMe {}: 200 [0-9a-f]{16}", lines[-1])


async def test_row_29_who_configures_does_not_issue_and_who_audits_does_nothing_else(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        for roles in (
            {Role.ADMINISTRATOR, Role.RA_OFFICER},
            {Role.ADMINISTRATOR, Role.OPERATOR},
            {Role.AUDITOR, Role.OPERATOR},
            set(),
        ):
            with pytest.raises(Rejected):
                await world.engine.administrators.create(Administrator("x", frozenset(roles)), by="tester")
        assert await world.engine.administrators.list_page() == ()


async def stranger(world: World, name: str) -> Credential:
    """A certificate of the same authority that shows no administrator, in a file like theirs."""
    road = world.engine.road
    maker = AdministratorCertificates(road.authorities, road.preparer, road.issuer, world.engine.clock)
    made = await maker.issue(name, "issuing", by="tester")
    file = world.folder / "stranger.p12"
    file.write_bytes(made.pkcs12)
    return Credential(file, made.password.reveal_text(), made.certificate)


async def test_strangers_and_those_who_were_administrators_are_turned_away(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        # the same name, the same authority, another key
        for who in (None, await stranger(world, "ada")):
            answer = await world.call(who, "GET", "/me")
            assert (answer.status, answer.codes) == (403, {"not-authenticated"})
            assert (await world.call(who, "GET", "/openapi.json", checked=False)).status == 403
        administrators = world.engine.administrators
        await administrators.change("ada", "tester", lambda one: Administrator(one.name, one.roles, disabled=True,
                                                                              created=one.created))  # fmt: skip
        assert (await world.call("ada", "GET", "/me")).codes == {"not-authenticated"}
        mark = hashlib.sha256(world.people["ruth"].der).digest()
        revoked = RevocationReason.KEY_COMPROMISE
        await world.engine.status.revocations.revoke(ByFingerprint(mark), revoked, Order("tester"))
        assert "revoked" in (await world.call("ruth", "GET", "/me")).json["detail"]
        rolf = hashlib.sha256(world.people["rolf"].der).digest()
        await administrators.unbind("rolf", rolf, by="tester")
        assert (await world.call("rolf", "GET", "/me")).codes == {"not-authenticated"}
        await administrators.delete("olga", by="tester")
        assert (await world.call("olga", "GET", "/me")).codes == {"not-authenticated"}
        events = (await world.ok("aud", "GET", "/audit?limit=50"))["items"]
        # noted once a minute, however often they come
        assert sum(event["kind"] == "login" for event in events) == 1


async def test_row_29_a_page_of_another_site_gets_nothing_done(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        wanted = '{"template": "code"}'
        for headers in (
            ("-H", "Origin: https://evil.example"),
            ("-H", "Origin: null"),
            ("-H", "Sec-Fetch-Site: cross-site"),
            ("-H", "Sec-Fetch-Site: same-site"),
        ):
            answer = await world.call("ruth", "POST", "/challenges", wanted, *headers)
            assert (answer.status, answer.codes) == (403, {"not-authorised"})
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            answer = await world.call(
                "ruth", "POST", "/challenges", wanted, "-H", f"Content-Type: {kind}", checked=False
            )
            assert answer.status in {400, 415}
        preflight = ("-H", "Origin: https://evil.example", "-H", "Access-Control-Request-Method: PUT")
        answer = await world.call("ruth", "OPTIONS", "/challenges", None, *preflight, checked=False)
        assert "access-control-allow-origin" not in answer.headers
        own = ("-H", f"Origin: https://localhost:{world.port}", "-H", "Sec-Fetch-Site: same-origin")
        assert (await world.call("ruth", "POST", "/challenges", wanted, *own)).status == 201
        assert len((await world.ok("ruth", "GET", "/challenges"))["items"]) == 1


async def test_row_29_nobody_makes_themselves_more_than_they_are(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        for who in ("ada", "olga"):
            for method, path in (
                ("POST", "/administrators"),
                ("PUT", "/administrators/olga"),
                ("PATCH", "/me"),
                ("DELETE", "/administrators/aud"),
            ):
                answer = await world.call(who, method, path, {"roles": ["administrator"]})
                assert answer.status in {404, 405}
        more = {"name": "x", "password": "a long password", "roles": ["administrator"]}
        assert (await world.call("ruth", "POST", "/accounts", more)).status == 400
        # scoped officers do not touch what is everybody's
        await world.person("rita", Role.RA_OFFICER, templates=frozenset({"open"}))
        answer = await world.call("rita", "POST", "/accounts", {"name": "x"})
        assert (answer.status, answer.codes) == (403, {"not-authorised"})


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", "null", '{"template": 1}', '{"template": "open", "template": "code"}', '{"template": NaN}',
     '{"other": 1, "template": "code"}', "[" * 100_000, '{"template": "\\ud800"}', '{"template": "%s"}' % ("x" * 99)],
)  # fmt: skip
async def test_odd_bodies_are_refused_and_not_failures(tmp_path: Path, body: str) -> None:
    async with opened(tmp_path) as world:
        await world.person("ruth", Role.RA_OFFICER)
        file = tmp_path / "body"
        file.write_text(body)
        answer = await world.call("ruth", "POST", "/challenges", f"@{file}")
        assert (answer.status, answer.codes) == (400, {"malformed"})


async def test_row_34_large_bodies_slow_requests_and_many_connections_are_bounded(tmp_path: Path) -> None:
    limits = ApiLimits(connections=6, body_bytes=2000, timeout=1.0)
    async with opened(tmp_path, limits=limits) as world:
        await world.person("ruth", Role.RA_OFFICER)
        file = tmp_path / "large"
        file.write_bytes(b"x" * 3000)
        for more in ((), ("-H", "Transfer-Encoding: chunked")):
            answer = await world.call("ruth", "POST", "/challenges", f"@{file}", "-H", "Expect:", *more)
            assert answer.status == 413
        assert await deferToThread(_drip, world.port) < len(_SLOWLY)
        crowd = await deferToThread(_crowd, world.port, 20)
        assert crowd <= 6
        assert (await world.ok("ruth", "GET", "/me"))["name"] == "ruth"


async def test_row_34_a_head_that_is_too_long_or_malformed_gets_an_answer_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await world.person("ruth", Role.RA_OFFICER)
        headers = [part for number in range(10) for part in ("-H", f"X-{number}: {'y' * 2000}")]
        for path, more in (
            (f"/certificates?subject={'x' * 20_000}", ()),
            ("/me", ("-H", f"X: {'y' * 20_000}")),
            ("/me", tuple(headers)),
            ("/me", ("-H", "a b: c")),
        ):
            answer = await world.call("ruth", "GET", path, None, *more, checked=False)  # by curl, which waits for 20 s
            assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
            assert "16384 octets" in answer.json["detail"]
        assert (await world.ok("ruth", "GET", "/me"))["name"] == "ruth"


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_SLOWLY = b"GET /api/v1/me HTTP/1.1\r\n" + b"X: y\r\n" * 100


def _drip(port: int) -> int:
    """Send a request one octet at a time, ten in a second; how many the server puts up with."""
    with socket.create_connection(("127.0.0.1", port)) as plain, _context().wrap_socket(plain) as stream:
        stream.settimeout(0.1)
        for sent, octet in enumerate(_SLOWLY):
            try:
                stream.sendall(bytes([octet]))
                if stream.recv(1) == b"":
                    return sent
            except TimeoutError:
                continue
            except OSError:
                return sent
    return len(_SLOWLY)


def _crowd(port: int, size: int) -> int:
    """Open many connections; how many of them get through the handshake."""
    with contextlib.ExitStack() as stack:
        made = 0
        for _ in range(size):
            with contextlib.suppress(OSError):
                plain = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                stack.enter_context(_context().wrap_socket(plain))
                made += 1
    return made


async def test_who_came_in_is_in_the_audit_log_once_a_minute(tmp_path: Path) -> None:
    clock = FakeClock(SystemClock().now())  # TLS looks at the time of the day as well
    async with opened(tmp_path, clock=clock) as world:
        credential = await world.person("ruth", Role.RA_OFFICER)
        await world.person("aud", Role.AUDITOR)

        async def logins() -> list[tuple[str, str, str]]:
            """As the auditor reads them, who comes in after what is read."""
            events = (await world.ok("aud", "GET", "/audit?limit=1000"))["items"]
            found = [one for one in events if one["kind"] == "login"]
            return [(one["actor"], one["outcome"], one["details"]["fingerprint"]) for one in found]

        mark = hashlib.sha256(credential.der).hexdigest()
        assert await logins() == []
        for _ in range(3):
            await world.ok("ruth", "GET", "/me")
        assert [one for one in await logins() if one[0] == "admin:ruth"] == [("admin:ruth", "ok", mark)]
        clock.advance(timedelta(seconds=61))
        await world.ok("ruth", "GET", "/me")
        assert len([one for one in await logins() if one[0] == "admin:ruth"]) == 2
        assert ("admin:aud", "ok") in {one[:2] for one in await logins()}
