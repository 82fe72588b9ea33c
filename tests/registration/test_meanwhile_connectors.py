"""What became of a connector between a request and its certificate; and whom it shows, as officers are compared."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pkiserver.authority.requests import EnrollmentRequest, IssuedCertificate, PasswordEvidence
from pkiserver.foundation.errors import Rejected, Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.registration.administrators import Administrator, Role
from pkiserver.registration.approvals import Pending
from pkiserver.runtime.engine import Engine
from pkiserver.store.authority import templates
from pkiserver.store.registration.requests import RequestState
from tests.support.engines import engine_with, enrollment, template_text
from tests.support.webhook import SECRET, Webhook

RULE = '[[evidence]]\nall = ["password"]\nconnectors = ["portal"]\n'
TEXTS = {"decided": template_text("decided", f"{RULE}approval = true\n"), "plain": template_text("plain", RULE)}
ALICE = PasswordEvidence("alice", Secret("whatever it is"))


class Portal(Webhook):
    """A service that answers with its ``decision``."""

    def __init__(self) -> None:
        super().__init__(lambda _: {"decision": self.decision, "retry_after": 7, "reason": "not this time"})
        self.decision = "yes"


@pytest.fixture
def portal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Portal]:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    made = Portal()
    yield made
    made.close()


@asynccontextmanager
async def opened(folder: Path, portal: Portal) -> AsyncIterator[Engine]:
    async with engine_with(folder, TEXTS) as engine:
        await put(engine, f'name = "portal"\nkind = "connector"\n[webhook]\nurl = "http://127.0.0.1:{portal.port}/"\n'
                          'secret = "env:HOOK_SECRET"\n')  # fmt: skip
        yield engine


async def put(engine: Engine, text: str, name: str = "portal", kind: str = "connector") -> None:
    now = engine.clock.now()
    known = await engine.database.read(lambda connection: templates.get(connection, name, kind=kind))
    expected = None if known is None else known.revision
    await engine.database.write(
        lambda connection: templates.put(connection, name, text, now=now, expected=expected, kind=kind)
    )
    await engine.refresh()


async def asked(engine: Engine, template: str) -> tuple[EnrollmentRequest, int]:
    request = enrollment(template, ALICE)
    pending = await engine.enroll(request)
    assert isinstance(pending, Pending)
    return request, pending.request_number


async def gone(engine: Engine, portal: Portal) -> None:
    del portal
    await engine.database.write(lambda c: templates.remove(c, "portal", expected=1, kind="connector"))
    await engine.refresh()


async def away(engine: Engine, portal: Portal) -> None:
    del engine
    portal.close()


async def off(engine: Engine, portal: Portal) -> None:
    head = 'name = "portal"\nkind = "connector"\nenabled = false\n'
    await put(engine, f'{head}[webhook]\nurl = "http://127.0.0.1:{portal.port}/"\nsecret = "env:HOOK_SECRET"\n')


async def against(engine: Engine, portal: Portal) -> None:
    del engine
    portal.decision = "no"


@pytest.mark.parametrize(
    ("change", "answer"), [(gone, Unavailable), (away, Unavailable), (off, Rejected), (against, Rejected)]
)
async def test_an_approval_stands_beside_the_connector_and_not_in_its_place(
    tmp_path: Path, portal: Portal, change: Callable[..., Any], answer: type[Exception]
) -> None:
    async with opened(tmp_path, portal) as engine:
        request, number = await asked(engine, "decided")
        await engine.approvals.decide(number, approved=True, by="officer")
        await change(engine, portal)
        with pytest.raises(answer):
            await engine.enroll(request)
        # the request keeps its place and its approval
        assert (await engine.approvals.get(number)).state is RequestState.APPROVED


async def test_row_29_whom_a_connector_shows_does_not_decide_as_an_administrator(
    tmp_path: Path, portal: Portal
) -> None:
    async with opened(tmp_path, portal) as engine:
        _, number = await asked(engine, "decided")
        for name in ("alice", "ruth"):
            await engine.administrators.create(Administrator(name, frozenset({Role.RA_OFFICER})), by="tester")
        alice, ruth = [(await engine.administrators.get(name)).person for name in ("alice", "ruth")]
        with pytest.raises(Rejected, match="nobody decides their own"):
            await engine.approvals.decide(number, approved=True, by=alice)
        assert (await engine.approvals.decide(number, approved=True, by=ruth)).state is RequestState.APPROVED


async def test_a_connector_that_decides_later_decides_under_the_template_as_it_is(
    tmp_path: Path, portal: Portal
) -> None:
    async with opened(tmp_path, portal) as engine:
        portal.decision = "pending"
        request, number = await asked(engine, "plain")
        await put(engine, TEXTS["plain"].replace('"90d"', '"30d"'), "plain", "template")
        assert await engine.enroll(request) == Pending(number, 7)
        await put(engine, TEXTS["plain"].replace('"90d"', '"31d"'), "plain", "template")
        portal.decision = "yes"
        made = await engine.enroll(request)
        assert isinstance(made, IssuedCertificate)
        assert (await engine.approvals.get(number)).state is RequestState.ISSUED
        for change in ("31d", "32d"):  # whoever asks again gets it again, whatever the template has become since
            await put(engine, TEXTS["plain"].replace('"90d"', f'"{change}"'), "plain", "template")
            again = await engine.enroll(request)
            assert isinstance(again, IssuedCertificate)
            assert again.der == made.der


async def test_what_waits_for_a_service_alone_ends_when_it_says_no(tmp_path: Path, portal: Portal) -> None:
    async with opened(tmp_path, portal) as engine:
        portal.decision = "pending"
        request, number = await asked(engine, "plain")
        officers, beside = await asked(engine, "decided")
        portal.decision = "no"
        for one in (request, request, officers):
            with pytest.raises(Rejected, match="the name or the password is wrong"):
                await engine.enroll(one)
        # what officers are asked too stays theirs: it may have been a wrong password
        assert [one.id for one in await engine.approvals.list_page()] == [beside]
        ended = await engine.approvals.get(number)
        assert (ended.state, ended.decided_by) == (RequestState.DENIED, "connector portal")
        assert ended.reasons == ("the service says no: not this time",)
        # who comes again is asked about again, and waits under a new number
        portal.decision = "pending"
        waiting = await engine.enroll(request)
        assert isinstance(waiting, Pending)
        another = waiting.request_number
        assert another > number
        portal.decision = "yes"
        assert isinstance(await engine.enroll(request), IssuedCertificate)
        assert (await engine.approvals.get(another)).state is RequestState.ISSUED
        assert await engine.approvals.list_page(state=RequestState.DENIED) == (ended,)


async def test_a_service_that_says_no_ends_nothing_that_an_officer_has_agreed_to(
    tmp_path: Path, portal: Portal
) -> None:
    async with opened(tmp_path, portal) as engine:
        portal.decision = "pending"
        request, number = await asked(engine, "plain")
        await engine.approvals.decide(number, approved=True, by="officer")
        portal.decision = "no"
        with pytest.raises(Rejected):
            await engine.enroll(request)
        portal.decision = "pending"
        assert isinstance(await engine.enroll(request), IssuedCertificate)
