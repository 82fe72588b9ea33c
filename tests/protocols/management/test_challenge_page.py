"""The page that hands out challenges to administrators with a browser; curl stands for the browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes

from pkiserver.authority.requests import CodeEvidence, IssuedCertificate
from pkiserver.foundation.errors import Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.registration.administrators import Role
from tests.protocols.management.world import World, opened, with_people
from tests.support.engines import enrollment

FORM = {"template": "code", "subject": "CN=printer-7", "names": "", "lifetime": "3600"}


def told(body: bytes) -> Secret:
    found = re.search(rb'<b id="challenge">([^<]+)</b>', body)
    assert found is not None, body
    return Secret(found[1].decode())


async def made(world: World) -> int:
    return len(await world.engine.codes.list_page(before=None, limit=100))


async def test_an_officer_hands_out_a_challenge_that_enrols_its_subject_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        blank = await world.page("ruth")
        assert blank.status == 200
        assert blank.headers["content-type"] == "text/html; charset=utf-8"
        assert blank.headers["cache-control"] == "no-store"
        assert "*" not in blank.headers["content-security-policy"]
        assert "access-control-allow-origin" not in blank.headers
        assert b"<option>code</option>" in blank.body
        assert b"<option>open</option>" not in blank.body  # takes no challenges
        assert (await world.page("ruth", tail="/")).body == blank.body  # as NDES's address is written
        assert await made(world) == 0  # looking makes none
        answer = await world.page("ruth", FORM)
        assert answer.status == 200, answer.body
        ca = world.engine.authorities.get("issuing").current.certificate.certificate
        assert ca.fingerprint(hashes.SHA256()).hex(":").upper().encode() in answer.body
        code = told(answer.body)
        with pytest.raises(Rejected):
            await world.engine.enroll(enrollment("code", CodeEvidence(code), name="somebody-else"))
        issued = await world.engine.enroll(enrollment("code", CodeEvidence(code), name="printer-7"))
        assert isinstance(issued, IssuedCertificate)
        row = (await world.engine.codes.list_page(before=None, limit=1))[0]
        assert (row.subject, row.created_by) == ("CN=printer-7", "admin:ruth")
        with pytest.raises(Rejected):
            await world.engine.enroll(enrollment("code", CodeEvidence(code), name="printer-7"))


async def test_row_29_who_may_not_gets_no_challenge(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        await world.person("zoe", Role.OPERATOR, templates=frozenset({"code"}))
        for who, status in (("ada", 403), ("aud", 403), ("zoe", 200)):
            assert (await world.page(who)).status == status
            assert (await world.page(who, FORM)).status == status
        outside = await world.page("olga", FORM)  # her templates are others
        assert outside.status >= 400
        assert await made(world) == 1  # zoe's


@pytest.mark.parametrize(
    "headers",
    [
        ("-H", "Origin: https://evil.example"),
        ("-H", "Origin: null"),
        ("-H", "Sec-Fetch-Site: cross-site"),
        ("-H", "Accept: */*"),  # says nothing about where it comes from
        ("-H", "Origin: https://localhost:{port}", "-H", "Sec-Fetch-Site: same-site"),
        ("-H", "Origin: https://localhost:{port}", "-H", "Content-Type: text/plain"),
    ],
)
async def test_row_29_forms_of_other_pages_are_refused(tmp_path: Path, headers: tuple[str, ...]) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        more = tuple(one.replace("{port}", str(world.port)) for one in headers)
        answer = await world.page("ruth", FORM, *more)
        assert answer.status in {400, 403}, answer.body
        assert await made(world) == 0


FORMS = [
    ({"subject": ""}, b"say for whom"),
    ({"names": "dns:*.example.org"}, b"wildcard"),
    ({"names": "dns:a b"}, b"a b"),
    ({"names": "<script>alert(1)</script>"}, b"&lt;script&gt;"),
    ({"subject": "no name"}, b"distinguished name"),
    ({"template": "open"}, b"choose a template"),
    ({"template": "../../etc"}, b"choose a template"),
    ({"lifetime": "99999999"}, b"lifetime"),
    ({"more": "1"}, b"not ours"),
    ({"names": "dns:a.example\n" * 101}, b"more than 100"),
]


async def test_forms_that_will_not_do(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await with_people(world)
        for change, says in FORMS:
            answer = await world.page("ruth", {**FORM, **change})
            assert 400 <= answer.status < 500, answer.body
            assert says in answer.body
            assert b"<script>" not in answer.body
        for octets in ("template=code&template=code", "%ff=%fe", "&" * 50, "a=b&" * 50, "template=%C3%28"):
            assert (await world.page("ruth", octets)).status == 400, octets
        assert await made(world) == 0
