"""Clients that leave, and answers of the database that are lost, amid an enrolment: a code is spent once."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, select
from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from pkiserver.authority.issue import Issuer
from pkiserver.authority.prepare import Preparer
from pkiserver.authority.requests import CodeEvidence, EnrollmentRequest, IssuedCertificate
from pkiserver.foundation.errors import Rejected, Unavailable
from pkiserver.keys.algorithms import SignatureScheme
from pkiserver.keys.signers import CertificateSigner
from pkiserver.registration.codes import CodeClaim
from pkiserver.runtime.engine import Engine
from pkiserver.store import certificates
from pkiserver.store.database import Database
from pkiserver.store.failures import OutcomeUnknown
from pkiserver.store.schema.certificates import certificate
from tests.support.engines import engine_with, enrollment, template_text

reactor: Any = _reactor
TEXTS = {"code": template_text("code", '[[evidence]]\nall = ["code"]\n')}


@asynccontextmanager
async def opened(folder: Path, url: str) -> AsyncIterator[tuple[Engine, EnrollmentRequest]]:
    async with engine_with(folder, TEXTS, url=url) as engine:
        _, code = await engine.codes.create(
            template="code", subject=None, sans=(), lifetime=timedelta(hours=1), by="tester"
        )
        yield engine, enrollment("code", CodeEvidence(code))


async def states(engine: Engine) -> list[str]:
    assert await engine.database.read(certificates.open_intents) == ()
    query = select(certificate.c.state).where(certificate.c.template == "code").order_by(certificate.c.id)
    return list(await engine.database.read(lambda connection: connection.execute(query).scalars().all()))


async def test_who_leaves_while_the_key_signs_has_the_code_back(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    signing = Deferred[None]()

    async def never(_signer: CertificateSigner, _tbs: bytes, _scheme: SignatureScheme) -> bytes:
        reactor.callLater(0, signing.callback, None)  # when this coroutine waits
        await Deferred[None]()
        raise AssertionError

    async with opened(tmp_path, url) as (engine, request):
        with monkeypatch.context() as slow:
            slow.setattr(CertificateSigner, "sign", never)
            asked = Deferred.fromCoroutine(engine.enroll(request))
            await signing
            asked.cancel()
            with pytest.raises(CancelledError):
                await asked
        assert isinstance(await engine.enroll(request), IssuedCertificate)
        assert await states(engine) == ["revoked", "issued"]
        with pytest.raises(Rejected, match="used"):
            await engine.enroll(request)


async def test_who_leaves_while_the_intent_is_written_has_the_code_back(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, left = CodeClaim.take, threading.Event()

    def leave(asked: Deferred[Any]) -> None:
        asked.cancel()
        left.set()

    async with opened(tmp_path, url) as (engine, request):
        with monkeypatch.context() as slow:

            def late(claim: CodeClaim, connection: Connection, number: int) -> None:
                take(claim, connection, number)
                reactor.callFromThread(lambda: leave(asked))
                left.wait()

            slow.setattr(CodeClaim, "take", late)
            asked = Deferred.fromCoroutine(engine.enroll(request))
            with pytest.raises(CancelledError):
                await asked
        assert isinstance(await engine.enroll(request), IssuedCertificate)
        assert await states(engine) == ["burnt", "issued"]


def lossy(writer: Callable[..., Any]) -> Callable[..., Any]:
    """Database.write whose answer is lost, once it is done, for what one method of the road writes."""
    write = Database.write

    async def lost(database: Database, work: Callable[[Connection], Any]) -> Any:
        value = await write(database, work)
        if work.__qualname__.startswith(f"{writer.__qualname__}.<locals>"):
            raise OutcomeUnknown("the outcome is unknown")
        return value

    return lost


async def test_a_lost_answer_about_the_intent_costs_no_code(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, url) as (engine, request):
        with monkeypatch.context() as broken:
            broken.setattr(Database, "write", lossy(Preparer._write))
            with pytest.raises(OutcomeUnknown):
                await engine.enroll(request)
        assert isinstance(await engine.enroll(request), IssuedCertificate)
        assert await states(engine) == ["burnt", "issued"]


async def test_a_lost_answer_about_the_certificate_brings_no_second_one(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, url) as (engine, request):
        with monkeypatch.context() as broken:
            broken.setattr(Database, "write", lossy(Issuer._store))
            with pytest.raises(OutcomeUnknown):
                await engine.enroll(request)
        with pytest.raises(Rejected, match="used"):
            await engine.enroll(request)
        assert await states(engine) == ["issued"]


async def test_a_database_that_goes_away_once_the_certificate_is_given_up_costs_no_code(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Giving up and giving back were two writes, and nobody took up the second."""
    write, gone = Database.write, False

    async def away(_signer: CertificateSigner, _tbs: bytes, _scheme: SignatureScheme) -> bytes:
        raise Unavailable("the token is away")

    async def once_more(database: Database, work: Callable[[Connection], Any]) -> Any:
        nonlocal gone
        if gone:
            raise Unavailable("the database cannot be reached")
        value = await write(database, work)
        gone = work.__qualname__.startswith(f"{Issuer._give_up.__qualname__}.<locals>")
        return value

    async with opened(tmp_path, url) as (engine, request):
        with monkeypatch.context() as broken:
            broken.setattr(CertificateSigner, "sign", away)
            broken.setattr(Database, "write", once_more)
            with pytest.raises(Unavailable, match="the token is away"):
                await engine.enroll(request)
            assert gone
        assert isinstance(await engine.enroll(request), IssuedCertificate)
        assert await states(engine) == ["revoked", "issued"]


LATE = """
CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON certificate_intent
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late();
"""
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"


class Cut:
    """Follows the writer's transactions, and cuts the connection of the last."""

    def begun(self, _connection: Connection) -> None: ...

    def flush(self, connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        self.file = driver.fileno()

    def committed(self) -> None: ...

    def undone(self) -> None: ...

    def cut(self) -> None:
        with socket.socket(fileno=os.dup(self.file)) as client:
            client.shutdown(socket.SHUT_RDWR)


@pytest.mark.postgresql
async def test_what_is_made_durable_long_after_its_connection_was_lost_costs_no_code(
    tmp_path: Path, postgres_url: str
) -> None:
    """As where a replica is waited for: the server goes on with the commit, though nobody is there to be told."""
    with psycopg.connect(postgres_url, autocommit=True) as other:
        async with opened(tmp_path, postgres_url) as (engine, request):

            async def until(query: str, number: int) -> None:
                while other.execute(query).fetchone() != (number,):
                    await deferLater(reactor, 0.02)

            other.execute(LATE)
            other.execute("SELECT pg_advisory_lock(42)")
            cut = Cut()
            engine.database.join(cut)
            asked = Deferred.fromCoroutine(engine.enroll(request))
            await until(WAITS, 1)
            await deferToThread(cut.cut)
            with pytest.raises(OutcomeUnknown):
                await asked
            await engine.road.recovery.give_sign()
            assert await states(engine) == []
            other.execute("SELECT pg_advisory_unlock(42)")
            await until("SELECT count(*) FROM certificate_intent", 1)
            with pytest.raises(Rejected, match="used"):
                await engine.enroll(request)
            await engine.road.recovery.give_sign()
            assert isinstance(await engine.enroll(request), IssuedCertificate)
            assert await states(engine) == ["revoked", "issued"]
