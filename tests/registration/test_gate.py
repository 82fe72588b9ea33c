"""The gate over the real engine: who gets a certificate, who does not and why, and what can be had only once."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import argon2
import pytest
from cryptography import x509
from sqlalchemy import Connection, inspect, select, update
from twisted.internet.defer import Deferred, DeferredList

from pkiserver.authority.recover import LEASE
from pkiserver.authority.requests import (
    Authorised,
    ClientCertificateEvidence,
    CodeEvidence,
    IssuedCertificate,
    OperatorEvidence,
    PasswordEvidence,
)
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.registration.approvals import Pending
from pkiserver.registration.codeform import canonical
from pkiserver.registration.codes import CodeClaim, parse_san, parse_subject
from pkiserver.runtime.engine import Engine, open_engine
from pkiserver.store import certificates
from pkiserver.store.schema.audit import audit_event
from pkiserver.store.schema.certificates import certificate
from pkiserver.store.schema.registration import enroll_code
from pkiserver.store.times import to_micros
from tests.support.clock import FakeClock
from tests.support.engines import engine_with, enrollment, template_text
from tests.support.postgres import PostgresServer

PASSWORD = '[[evidence]]\nall = ["password"]\n[[evidence]]\nall = ["operator"]\n'
CODE = '[[evidence]]\nall = ["code"]\n'
APPROVAL = '[[evidence]]\nall = ["password"]\napproval = true\n'
CERTIFICATE = '[[evidence]]\nall = ["client_certificate"]\n'
GOOD = Secret("a long password")
TEXTS = {
    "open": template_text("open", PASSWORD),
    "code": template_text("code", CODE),
    "approved": template_text("approved", APPROVAL),
    "certified": template_text("certified", CERTIFICATE),
    "nobody": template_text("nobody", ""),
    "off": template_text("off", PASSWORD, "enabled = false"),
}


@asynccontextmanager
async def opened(folder: Path, url: str) -> AsyncIterator[Engine]:
    async with engine_with(folder, TEXTS, url=url) as engine:
        await engine.accounts.create("alice", GOOD, groups=frozenset({"staff"}), by="tester")
        yield engine


async def refused(engine: Engine, request: object) -> set[Refusal]:
    with pytest.raises(Rejected) as caught:
        await engine.enroll(request)  # type: ignore[arg-type]
    return {reason.code for reason in caught.value.reasons}


async def test_the_default_answer_is_no(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as engine:
        alice = PasswordEvidence("alice", GOOD)
        assert isinstance(await engine.enroll(enrollment("open", alice)), IssuedCertificate)
        assert await refused(engine, enrollment("open")) == {Refusal.NOT_AUTHENTICATED}
        assert await refused(engine, enrollment("nobody", alice)) == {Refusal.NOT_AUTHORISED}
        assert await refused(engine, enrollment("off", alice)) == {Refusal.NOT_AUTHORISED}
        assert await refused(engine, enrollment("absent", alice)) == {Refusal.UNKNOWN_TEMPLATE}
        assert await refused(engine, enrollment("open", alice, protocol="scep")) == {Refusal.NOT_AUTHORISED}
        assert await refused(engine, enrollment("open", alice, verified=False)) == {Refusal.BAD_PROOF}
        unknown = await refused(engine, enrollment("open", PasswordEvidence("nobody", GOOD)))
        wrong = await refused(engine, enrollment("open", PasswordEvidence("alice", Secret("wrong"))))
        assert unknown == wrong == {Refusal.NOT_AUTHENTICATED}
        await engine.accounts.set_disabled("alice", True, by="tester")
        assert await refused(engine, enrollment("open", alice)) == {Refusal.NOT_AUTHENTICATED}
        kinds = await engine.database.read(lambda c: c.execute(select(audit_event.c.kind)).scalars().all())
        assert kinds.count("refusal") == 9


async def test_row_20_a_name_that_is_not_there_costs_as_much_as_a_wrong_password(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    verify = argon2.PasswordHasher.verify

    def counted(hasher: argon2.PasswordHasher, stored: str, password: bytes) -> bool:
        done.append("argon2id")
        return bool(verify(hasher, stored, password))

    monkeypatch.setattr(argon2.PasswordHasher, "verify", counted)
    async with opened(tmp_path, url) as engine:
        await engine.accounts.create("carol", GOOD, by="tester")
        await engine.accounts.set_disabled("carol", True, by="tester")
        for name in ("alice", "nobody", "carol"):
            with pytest.raises(Rejected) as caught:
                await engine.enroll(enrollment("open", PasswordEvidence(name, Secret("wrong"))))
            assert "the name or the password is wrong" in str(caught.value)
            assert done == ["argon2id"], name
            done.clear()


async def test_row_3_fifty_parallel_uses_of_a_code_bring_one_certificate(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as engine:
        _, code = await engine.codes.create(
            template="code",
            subject=parse_subject("CN=printer-1"),
            sans=(parse_san("dns:printer-1.example"),),
            lifetime=timedelta(hours=1),
            by="tester",
        )
        # VU#971035: the code decides who it is for; a CSR for somebody else is refused and spends nothing
        other = enrollment("code", CodeEvidence(code), name="admin", hosts=("admin.example",))
        assert await refused(engine, other) == {Refusal.BAD_SUBJECT, Refusal.BAD_NAME}
        requests = [enrollment("code", CodeEvidence(code), name="printer-1") for _ in range(50)]
        tries = [Deferred.fromCoroutine(engine.enroll(request)) for request in requests]
        results = await DeferredList(tries, consumeErrors=True)
        issued = [value for fine, value in results if fine]
        assert len(issued) == 1
        assert all(value.check(Rejected) for fine, value in results if not fine)
        made = x509.load_der_x509_certificate(issued[0].der)
        assert made.subject.rfc4514_string() == "CN=printer-1"
        names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["printer-1.example"]
        states = await engine.database.read(lambda c: c.execute(select(certificate.c.template)).scalars().all())
        assert list(states).count("code") == 1


async def test_row_4_a_code_for_a_subject_gives_no_names_that_it_does_not_have(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as engine:
        hour, subject = timedelta(hours=1), parse_subject("CN=printer-1")
        _, code = await engine.codes.create(template="code", subject=subject, sans=(), lifetime=hour, by="tester")
        other = enrollment("code", CodeEvidence(code), name="printer-1", hosts=("admin.example",))
        assert await refused(engine, other) == {Refusal.BAD_NAME}
        made = await engine.enroll(enrollment("code", CodeEvidence(code), name="printer-1"))
        assert isinstance(made, IssuedCertificate)


async def test_a_code_is_for_its_template_its_time_and_may_be_typed_as_a_password(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as engine:
        number, code = await engine.codes.create(
            template="code", subject=None, sans=(), lifetime=timedelta(hours=1), by="tester"
        )
        assert Refusal.NOT_AUTHORISED in await refused(engine, enrollment("open", CodeEvidence(code)))
        typed = PasswordEvidence("anybody", Secret(code.reveal_text().lower().replace("-", "")))
        assert isinstance(await engine.enroll(enrollment("code", typed)), IssuedCertificate)
        assert Refusal.NOT_AUTHENTICATED in await refused(engine, enrollment("code", typed))
        assert not await engine.codes.withdraw(number, by="tester")
        number, code = await engine.codes.create(
            template="code", subject=None, sans=(), lifetime=timedelta(hours=1), by="tester"
        )
        assert await engine.codes.withdraw(number, by="tester")
        assert Refusal.NOT_AUTHENTICATED in await refused(engine, enrollment("code", CodeEvidence(code)))


async def test_a_code_that_is_past_its_time_is_good_for_nothing(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as engine:
        _, code = await engine.codes.create(
            template="code", subject=None, sans=(), lifetime=timedelta(hours=1), by="tester"
        )
        ended = update(enroll_code).values(expires=to_micros(engine.clock.now()))
        await engine.database.write(lambda connection: connection.execute(ended).rowcount)
        with pytest.raises(Rejected, match="has been used or has expired"):
            await engine.enroll(enrollment("code", CodeEvidence(code)))
        grant = await engine.codes.find(code)
        assert grant is not None
        assert not grant.usable
        late = CodeClaim(grant.id, engine.clock)
        with pytest.raises(Rejected, match="has been used or has expired"):
            await engine.database.write(lambda connection: late.take(connection, 1))


async def test_a_refused_request_does_not_spend_its_code(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as engine:
        _, code = await engine.codes.create(
            template="code", subject=None, sans=(), lifetime=timedelta(hours=1), by="tester"
        )
        bad = enrollment("code", CodeEvidence(code), hosts=("not_a_host_name",))
        assert Refusal.BAD_NAME in await refused(engine, bad)
        assert isinstance(await engine.enroll(enrollment("code", CodeEvidence(code))), IssuedCertificate)


@pytest.mark.parametrize("asked", [False, True])
async def test_a_code_can_be_used_again_where_the_process_died_over_its_certificate(
    tmp_path: Path, url: str, asked: bool
) -> None:
    clock = FakeClock()
    async with engine_with(tmp_path, TEXTS, url=url, clock=clock) as engine:
        _, code = await engine.codes.create(
            template="code", subject=None, sans=(), lifetime=timedelta(hours=1), by="tester"
        )
        request = enrollment("code", CodeEvidence(code))
        decision = await engine.gate.decide(request)
        assert isinstance(decision, Authorised)
        number = (await engine.road.prepare(decision)).certificate_id
        if asked:
            await engine.database.write(lambda connection: certificates.mark_asked(connection, number))
        clock.advance(LEASE + timedelta(seconds=1))  # it has given no sign of life since
        async with open_engine(engine.settings, clock=clock) as other:
            made = await other.enroll(request)
            assert isinstance(made, IssuedCertificate)
            with pytest.raises(Rejected, match="has been used"):
                await other.enroll(enrollment("code", CodeEvidence(code)))


async def test_an_approval_is_used_once_and_its_certificate_found_again(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as engine:
        request = enrollment("approved", PasswordEvidence("alice", GOOD))
        first = await engine.enroll(request)
        assert isinstance(first, Pending)
        assert await engine.enroll(request) == first
        with pytest.raises(Rejected, match="their own request"):
            await engine.approvals.decide(first.request_number, approved=True, by="alice")
        await engine.approvals.decide(first.request_number, approved=True, by="officer", reason="known device")
        with pytest.raises(Rejected, match="not pending any more"):
            await engine.approvals.decide(first.request_number, approved=False, by="officer")
        # two polls at the same moment are both told yes, and one of them has the approval
        first_poll, second_poll = [await engine.gate.decide(request) for _ in range(2)]
        assert isinstance(first_poll, Authorised)
        assert isinstance(second_poll, Authorised)
        prepared = await engine.road.preparer.prepare(first_poll)
        with pytest.raises(Rejected, match="is being answered already"):
            await engine.road.preparer.prepare(second_poll)
        await engine.road.issuer.issue(prepared)
        made = await engine.enroll(request)
        again = await engine.enroll(request)
        assert isinstance(made, IssuedCertificate)
        assert isinstance(again, IssuedCertificate)
        assert (again.der, again.chain) == (made.der, made.chain)


async def test_parallel_polls_after_an_approval_bring_one_certificate(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as engine:
        request = enrollment("approved", PasswordEvidence("alice", GOOD))
        pending = await engine.enroll(request)
        assert isinstance(pending, Pending)
        await engine.approvals.decide(pending.request_number, approved=True, by="officer")
        polls = [Deferred.fromCoroutine(engine.enroll(request)) for _ in range(10)]
        await DeferredList(polls, consumeErrors=True)
        count = await engine.database.read(
            lambda c: len(c.execute(select(certificate).where(certificate.c.template == "approved")).all())
        )
        assert count == 1
        assert isinstance(await engine.enroll(request), IssuedCertificate)


async def test_a_denied_request_says_why(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as engine:
        request = enrollment("approved", PasswordEvidence("alice", GOOD))
        pending = await engine.enroll(request)
        assert isinstance(pending, Pending)
        await engine.approvals.decide(pending.request_number, approved=False, by="officer", reason="not ours")
        with pytest.raises(Rejected, match="denied: not ours"):
            await engine.enroll(request)


async def test_a_client_certificate_counts_while_it_is_good(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as engine:
        own = await engine.enroll(enrollment("open", PasswordEvidence("alice", GOOD)))
        assert isinstance(own, IssuedCertificate)
        shown = ClientCertificateEvidence(own.der)
        assert isinstance(await engine.enroll(enrollment("certified", shown, name="device-2")), IssuedCertificate)
        root = ClientCertificateEvidence(own.chain[-1])
        assert await refused(engine, enrollment("certified", root)) & {
            Refusal.NOT_AUTHENTICATED,
            Refusal.NOT_AUTHORISED,
        }
        await engine.accounts.set_disabled("alice", True, by="tester")
        assert await refused(engine, enrollment("certified", shown)) == {
            Refusal.NOT_AUTHORISED,
            Refusal.NOT_AUTHENTICATED,
        }


async def test_an_operator_at_the_command_line(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as engine:
        request = enrollment("open", OperatorEvidence("root"), protocol="cli")
        assert isinstance(await engine.enroll(request), IssuedCertificate)


async def test_row_37_a_name_with_a_nul_is_a_wrong_one(tmp_path: Path, postgres_server: PostgresServer) -> None:
    texts = {"people": template_text("people", '[[evidence]]\nall = ["password"]\n')}
    async with engine_with(tmp_path, texts, url=postgres_server.new_url()) as engine:
        with pytest.raises(Rejected) as caught:
            await engine.enroll(enrollment("people", PasswordEvidence("ali\x00ce", Secret("a long password"))))
        assert {reason.code for reason in caught.value.reasons} == {Refusal.NOT_AUTHENTICATED}


async def test_what_is_stored_of_codes_and_passwords_is_of_no_use_without_what_is_kept_apart(
    tmp_path: Path, url: str
) -> None:
    """No row has a code, nor a hash of one that can be tried out: codes are hashed under the server's secret."""
    async with opened(tmp_path, url) as engine:
        _, code = await engine.codes.create(
            template="code", subject=None, sans=(), lifetime=timedelta(hours=1), by="tester"
        )
        await engine.enroll(enrollment("code", CodeEvidence(code)))
        given = code.reveal_text()
        spellings = {text.encode() for text in (given, given.lower(), given.replace("-", ""), canonical(code) or "")}
        told = spellings | {getattr(hashlib, kind)(one).digest() for one in spellings for kind in ("sha1", "sha256")}
        told |= {one.hex().encode() for one in told} | {GOOD.reveal()}

        def everything(connection: Connection) -> bytes:
            tables = inspect(connection).get_table_names()
            rows = (connection.exec_driver_sql(f"SELECT * FROM {table}").all() for table in tables)
            return b"\0".join(_octets(value) for found in rows for row in found for value in row)

        stored = await engine.database.read(everything)
        assert b"$argon2id$" in stored
        assert not [one for one in told if one in stored]


def _octets(value: object) -> bytes:
    return bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()
