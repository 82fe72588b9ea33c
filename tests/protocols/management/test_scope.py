"""Every operation of the served document with every role: everywhere, in and out of scope, and without a certificate.

The table below has a row for each operation; one that is missing fails the test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import pytest

from pkiserver.authority.requests import IssuedCertificate, PasswordEvidence
from pkiserver.authority.revocation import ByFingerprint, Order
from pkiserver.foundation.secret import Secret
from pkiserver.registration.administrators import Administrator, Role
from pkiserver.registration.approvals import Pending
from pkiserver.registration.operations import OperationKind
from pkiserver.registration.votes import Person
from tests.protocols.management.callers import Caller, calling
from tests.protocols.management.world import TEXTS, World, opened
from tests.support.engines import enrollment

ADMINISTRATOR, OFFICER, OPERATOR, AUDITOR = Role.ADMINISTRATOR, Role.RA_OFFICER, Role.OPERATOR, Role.AUDITOR
EVERYBODY = frozenset(Role)
REGISTERS = frozenset({OFFICER, OPERATOR})
NOT_OPERATOR = EVERYBODY - {OPERATOR}
ALICE = PasswordEvidence("alice", Secret("a long password"))
numbers = count(1)


async def no_preparation(world: World) -> str:
    del world
    return ""


async def a_challenge(world: World) -> str:
    hour = timedelta(hours=1)
    number, _ = await world.engine.codes.create(template="code", subject=None, sans=(), lifetime=hour, by="cli:root")
    return str(number)


async def a_request(world: World) -> str:
    pending = await world.engine.enroll(enrollment("two", ALICE, name=f"device-{next(numbers)}"))
    assert isinstance(pending, Pending)
    return str(pending.request_number)


async def a_certificate(world: World) -> str:
    made = await world.engine.enroll(enrollment("open", ALICE, name=f"device-{next(numbers)}"))
    assert isinstance(made, IssuedCertificate)
    return hashlib.sha256(made.der).hexdigest()


async def a_held_certificate(world: World) -> str:
    mark = await a_certificate(world)
    await world.engine.status.revocations.hold(ByFingerprint(bytes.fromhex(mark)), Order("cli:root"))
    return mark


async def a_seat(world: World) -> str:
    made = await world.engine.seats.create("seated", f"identity-{next(numbers)}", owner=None, by="cli:root")
    return str(made.id)


async def an_account(world: World) -> str:
    name = f"account-{next(numbers)}"
    await world.engine.accounts.create(name, None, by="cli:root")
    return name


def changed(text: str) -> str:
    return text.replace('duration = "90d"', f'duration = "{next(numbers) + 100}m"')


async def an_operation(world: World) -> str:
    kind, toml = OperationKind.CHANGE_TEMPLATE, changed(TEXTS["open"])
    made = await world.engine.dual_control.ask(kind, "open", {"toml": toml}, reason="why", by=Person("cli:root"))
    return str(made.number)


def a_new_account() -> dict[str, object]:
    return {"name": f"new-{next(numbers)}"}


def a_change() -> dict[str, object]:
    particulars = {"toml": changed(TEXTS["open"])}
    return {"kind": "change-template", "object": "open", "particulars": particulars, "reason": "why"}


@attrs.frozen
class Row:
    """An operation: who may, and what comes of it.

    ``outside`` is the status for those whose role permits it and whose scope does not have the object; ``inside`` for
    those with a scope that has it. A list answers 200 and shows nothing of what is outside.
    """

    roles: frozenset[Role]
    success: int = 200
    outside: int = 404
    inside: int | None = None
    prepare: Callable[[World], Awaitable[str]] = no_preparation
    body: Callable[[], Any] | None = None
    absent: str = "999999"


def nothing() -> dict[str, object]:
    return {}


LIST: dict[str, Any] = {"outside": 200}
EVERYTHING: dict[str, Any] = {"outside": 403, "inside": 403}
MARK = "0" * 64
TABLE = {
    "showMe": Row(EVERYBODY, outside=200),
    "listAdministrators": Row(frozenset({ADMINISTRATOR, AUDITOR}), **EVERYTHING),
    "listTemplates": Row(NOT_OPERATOR, **LIST),
    "listAuthorities": Row(NOT_OPERATOR, **LIST),
    "listAudit": Row(frozenset({ADMINISTRATOR, AUDITOR}), **EVERYTHING),
    "listChallenges": Row(EVERYBODY, **LIST),
    "makeChallenge": Row(REGISTERS, 201, 403, body=lambda: {"template": "code"}),
    "withdrawChallenge": Row(REGISTERS, 204, prepare=a_challenge),
    "listRequests": Row(EVERYBODY, **LIST),
    "showRequest": Row(EVERYBODY, prepare=a_request),
    "approveRequest": Row(frozenset({OFFICER}), prepare=a_request, body=nothing),
    "denyRequest": Row(frozenset({OFFICER}), prepare=a_request, body=nothing),
    "listAccounts": Row(NOT_OPERATOR, **EVERYTHING),
    "showAccount": Row(NOT_OPERATOR, **EVERYTHING, prepare=an_account, absent="nobody"),
    "makeAccount": Row(frozenset({OFFICER}), 201, **EVERYTHING, body=a_new_account),
    "changeAccount": Row(frozenset({OFFICER}), **EVERYTHING, prepare=an_account, body=nothing, absent="nobody"),
    "deleteAccount": Row(frozenset({OFFICER}), 204, **EVERYTHING, prepare=an_account, absent="nobody"),
    "searchCertificates": Row(EVERYBODY, **LIST),
    "showCertificate": Row(EVERYBODY, prepare=a_certificate, absent=MARK),
    "revokeCertificate": Row(REGISTERS, prepare=a_certificate, body=nothing, absent=MARK),
    "holdCertificate": Row(REGISTERS, prepare=a_certificate, body=nothing, absent=MARK),
    "releaseCertificate": Row(REGISTERS, prepare=a_held_certificate, body=nothing, absent=MARK),
    "searchSeats": Row(EVERYBODY, **LIST),
    "makeSeat": Row(REGISTERS, 201, 403, body=lambda: {"template": "seated", "identity": f"new-{next(numbers)}"}),
    "showSeat": Row(EVERYBODY, prepare=a_seat),
    "changeSeat": Row(REGISTERS, prepare=a_seat, body=nothing),
    "changeSlot": Row(REGISTERS, prepare=a_seat, body=lambda: {"mode": "locked"}),
    "listOperations": Row(NOT_OPERATOR, **LIST),
    "askOperation": Row(frozenset({ADMINISTRATOR}), 201, 403, body=a_change),
    "showOperation": Row(NOT_OPERATOR, prepare=an_operation),
    "approveOperation": Row(frozenset({ADMINISTRATOR, OFFICER}), prepare=an_operation, body=nothing),
    "denyOperation": Row(frozenset({ADMINISTRATOR, OFFICER}), prepare=an_operation, body=nothing),
}
SCOPES: dict[str, dict[str, frozenset[str]]] = {
    "everywhere": {},
    "in scope": {"authorities": frozenset({"issuing"})},
    "another template": {"templates": frozenset({"other"})},
    "another authority": {"authorities": frozenset({"root"})},
}


async def served(caller: Caller) -> dict[str, tuple[str, str]]:
    """The operations of the document as it is served: ID to method and path."""
    document = (await caller.call("GET", "/openapi.json", checked=False)).json
    return {
        what["operationId"]: (method.upper(), path.removeprefix("/api/v1"))
        for path, methods in document["paths"].items()
        for method, what in methods.items()
    }


def expected(row: Row, role: Role, scope: str) -> int:
    if role not in row.roles:
        return 403
    if scope == "everywhere":
        return row.success
    if scope == "in scope":
        return row.inside or row.success
    return row.outside


def filled(path: str, value: str) -> str:
    for name in ("number", "name", "fingerprint"):
        path = path.replace(f"{{{name}}}", value)
    return path.replace("{slot}", "1")


@pytest.mark.parametrize("role", list(Role))
async def test_row_29_every_operation_with_every_role_in_scope_and_out_of_it(tmp_path: Path, role: Role) -> None:
    async with opened(tmp_path) as world:
        await world.engine.accounts.create("alice", ALICE.password, by="tester")
        credential = await world.person("somebody", role, groups=frozenset({"officers"}))
        with calling(world, credential) as caller, calling(world, None) as nobody:
            operations = await served(caller)
            assert operations.keys() == TABLE.keys()
            there = {name: await row.prepare(world) for name, row in TABLE.items()}
            for scope, limits in SCOPES.items():
                await limit(world, role, limits)
                for name, row in TABLE.items():
                    method, path = operations[name]
                    wanted = expected(row, role, scope)
                    value = await row.prepare(world) if wanted == row.success else there[name]
                    body = None if row.body is None else row.body()
                    answer = await caller.call(method, filled(path, value), body)
                    assert answer.status == wanted, (name, scope, answer)
                    if scope.startswith("another"):
                        await hides(caller, row, (method, path, value), answer)
            for name, row in TABLE.items():
                method, path = operations[name]
                body = None if row.body is None else row.body()
                answer = await nobody.call(method, filled(path, there[name]), body)
                assert (answer.status, answer.codes) == (403, {"not-authenticated"}), name


async def limit(world: World, role: Role, limits: dict[str, frozenset[str]]) -> None:
    """Give the one administrator another scope."""

    def change(one: Administrator) -> Administrator:
        plain = Administrator(one.name, frozenset({role}), groups=one.groups, created=one.created)
        return attrs.evolve(plain, **limits)

    await world.engine.administrators.change("somebody", "tester", change)


async def hides(caller: Caller, row: Row, what: tuple[str, str, str], answer: Any) -> None:
    """What is out of scope looks as if it were not there."""
    method, path, value = what
    if row.outside == 200 and answer.status == 200 and "items" in answer.json:
        shown = [one for one in answer.json["items"] if one.get("name") != "root"]
        shown = [one for one in shown if one.get("authority") != "root"]
        assert not shown, (path, answer)
        assert not any(answer.json.get(name) for name in ("cursor", "next_before", "next_after"))
    if answer.status >= 400 and value:
        missing = await caller.call(method, filled(path, row.absent), None if row.body is None else row.body())
        told = missing.json["detail"].replace(row.absent, value)
        assert (missing.status, told, missing.codes) == (answer.status, answer.json["detail"], answer.codes)
