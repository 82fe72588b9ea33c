"""What a template says of duplicates holds however many processes issue at the same moment."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.threads import deferToThread

from pkiserver.authority.requests import Authorised, IssuedCertificate, OperatorEvidence
from pkiserver.foundation.errors import Refusal, Rejected, Unavailable
from pkiserver.runtime.engine import Engine, open_engine
from pkiserver.store import certificates, engines
from tests.support.claims import Held
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


@pytest.mark.postgresql
@pytest.mark.parametrize("rules", ["", '[duplicates]\nsame_key = "refuse"\n'])
async def test_a_key_is_one_subjects_though_two_processes_make_certificates_of_it_at_once(
    tmp_path: Path, postgres_url: str, rules: str
) -> None:
    """By default, and beside a template that refuses any second certificate of a key."""
    texts, held = {"one": template_text("one", OPERATOR, rules), "two": template_text("two", OPERATOR)}, Held()
    key = ec.generate_private_key(ec.SECP256R1())
    shown = OperatorEvidence("root")
    first = enrollment("one", shown, name="alice", key=key, protocol="cli")
    second = enrollment("two", shown, name="bob", key=key, protocol="cli")
    async with engine_with(tmp_path, texts, url=postgres_url) as one, open_engine(one.settings, worker="1") as two:
        for engine in (one, two):  # the first of each announces its list, and the second process waits for that
            await engine.enroll(enrollment("two", shown, protocol="cli"))
        under_way = Deferred.fromCoroutine(one.enroll(first, claims=(held,)))
        await deferToThread(held.taken.wait, 30)
        assert isinstance(await two.enroll(second), IssuedCertificate)
        held.go.set()
        with pytest.raises(Unavailable, match="with this key is being made at this moment: ask again"):
            await under_way
        assert held.given_back.is_set()
        with pytest.raises(Rejected, match="a valid certificate with this key"):
            await one.enroll(first)
        assert isinstance(await one.enroll(second), IssuedCertificate)


@pytest.mark.postgresql
async def test_rivals_for_a_key_of_the_same_moment_never_both_have_it(tmp_path: Path, postgres_url: str) -> None:
    texts, shown = {"one": template_text("one", OPERATOR)}, OperatorEvidence("root")
    async with engine_with(tmp_path, texts, url=postgres_url) as one, open_engine(one.settings, worker="1") as two:
        for _ in range(ROUNDS):
            key = ec.generate_private_key(ec.SECP256R1())
            tries = [
                Deferred.fromCoroutine(engine.enroll(enrollment("one", shown, name=name, key=key, protocol="cli")))
                for engine, name in ((one, "alice"), (two, "bob"))
            ]
            results = await DeferredList(tries, consumeErrors=True)
            assert sum(fine for fine, _ in results) <= 1
            assert all(fine or why.check(Unavailable) or why.value.has(Refusal.DUPLICATE) for fine, why in results)


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
