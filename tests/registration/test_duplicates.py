"""What a template says of duplicates holds however many processes issue at the same moment."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred, DeferredList

from pkiserver.authority.requests import Authorised, IssuedCertificate, OperatorEvidence
from pkiserver.foundation.errors import Refusal, Unavailable
from pkiserver.runtime.engine import Engine, open_engine
from pkiserver.store import certificates, engines
from tests.support.engines import engine_with, enrollment, template_text

OPERATOR = '[[evidence]]\nall = ["operator"]\n'
SEATS = "[seats]\nenabled = true\ncertificates = 1\n"
ROUNDS = 10


async def ask_both(engines: tuple[Engine, ...], name: str, key: ec.EllipticCurvePrivateKey | None = None) -> int:
    """How many certificates come of two questions to each process at the same moment; the others are duplicates."""
    shown = OperatorEvidence("root")
    tries = [
        Deferred.fromCoroutine(engine.enroll(enrollment("one", shown, name=name, key=key, protocol="cli")))
        for _ in range(2)
        for engine in engines
    ]
    results = await DeferredList(tries, consumeErrors=True)
    assert all(fine or failure.value.has(Refusal.DUPLICATE) for fine, failure in results)
    return sum(fine for fine, _ in results)


@pytest.mark.parametrize("rule", ["same_subject", "same_key"])
async def test_of_duplicates_asked_of_two_processes_at_once_one_is_issued(tmp_path: Path, url: str, rule: str) -> None:
    texts = {"one": template_text("one", OPERATOR, f'[duplicates]\n{rule} = "refuse"\n')}
    async with engine_with(tmp_path, texts, url=url) as one, open_engine(one.settings, worker="1") as two:
        for number in range(ROUNDS):
            key = ec.generate_private_key(ec.SECP256R1()) if rule == "same_key" else None
            assert await ask_both((one, two), f"device-{number}", key) == 1


async def test_of_certificates_that_supersede_each_other_one_is_valid_in_the_end(tmp_path: Path, url: str) -> None:
    """Those that came while one was made and could not be revoked yet are told to come again."""
    texts = {"one": template_text("one", OPERATOR, '[duplicates]\nsame_subject = "supersede"\n')}
    shown = OperatorEvidence("root")
    async with engine_with(tmp_path, texts, url=url) as one, open_engine(one.settings, worker="1") as two:
        now = one.clock.now()
        for number in range(ROUNDS):
            requests = [enrollment("one", shown, name=f"device-{number}", protocol="cli") for _ in range(4)]
            tries = [
                Deferred.fromCoroutine(engine.enroll(r)) for engine in (one, two) for r in requests[engine is two :: 2]
            ]
            results = await DeferredList(tries, consumeErrors=True)
            assert any(fine for fine, _ in results)
            assert all(fine or failure.check(Unavailable) for fine, failure in results), results
            subject = f"CN=device-{number}"
            valid = await one.database.read(
                partial(certificates.valid_of_subject, subject=subject, now=now, template="one")
            )
            assert len(valid) == 1


async def test_the_same_subject_under_two_templates_at_once_is_no_duplicate(tmp_path: Path) -> None:
    """Two for one person, to sign and to encrypt with, are often asked for side by side."""
    rules = '[duplicates]\nsame_subject = "refuse"\n'
    texts = {name: template_text(name, OPERATOR, rules) for name in ("one", "two")}
    async with engine_with(tmp_path, texts) as engine:
        requests = [enrollment(name, OperatorEvidence("root"), name="alice", protocol="cli") for name in texts]
        results = await DeferredList([Deferred.fromCoroutine(engine.enroll(one)) for one in requests])
        assert all(isinstance(answer, IssuedCertificate) for _, answer in results)


async def test_processes_that_take_turns_for_several_templates_never_wait_for_each_other(
    tmp_path: Path, url: str
) -> None:
    """PostgreSQL ends such a wait after a second, by undoing all that one of them was writing."""
    seats = "[seats]\nenabled = true\nlimit = 1000\n"
    rules = {"seats": seats, "alone": '[duplicates]\nsame_subject = "refuse"\n', "other": seats}
    texts = {name: template_text(name, OPERATOR, more) for name, more in rules.items()}
    async with engine_with(tmp_path, texts, url=url) as one, open_engine(one.settings, worker="1") as two:
        for number in range(ROUNDS):
            tries = [
                Deferred.fromCoroutine(
                    engine.enroll(enrollment(name, OperatorEvidence("root"), name=f"{which}-{number}", protocol="cli"))
                )
                for which, engine, order in (("one", one, texts), ("two", two, reversed(texts)))
                for name in order
            ]
            results = await DeferredList(tries, consumeErrors=True)
            assert all(fine for fine, _ in results), results
        assert (one.database.counts().retries, two.database.counts().retries) == (0, 0)


@pytest.mark.parametrize(
    "rules", ['[duplicates]\nsame_subject = "supersede"\n', '[duplicates]\nsame_subject = "refuse"\n', SEATS]
)
async def test_what_was_being_made_as_the_database_went_away_stands_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rules: str
) -> None:
    """It counted as being made for as long as the process lived: who asked again was told to come again, for ever."""
    monkeypatch.setattr(engines, "BUSY_TIMEOUT", 0.05)
    shown = OperatorEvidence("root")
    async with engine_with(tmp_path, {"one": template_text("one", OPERATOR, rules)}) as engine:
        decision = await engine.gate.decide(enrollment("one", shown, protocol="cli"))
        assert isinstance(decision, Authorised)
        prepared = await engine.road.prepare(decision, ask=True)
        with closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable):
                await engine.road.issue(prepared)
            other.execute("ROLLBACK")
        await engine.road.recovery.give_sign()
        assert isinstance(await engine.enroll(enrollment("one", shown, protocol="cli")), IssuedCertificate)
