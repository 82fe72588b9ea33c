"""What a template says of duplicates holds however many processes issue at the same moment."""

from __future__ import annotations

import itertools
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import Connection, select
from twisted.internet.defer import Deferred, DeferredList

from pkiserver.authority.requests import IssuedCertificate, OperatorEvidence
from pkiserver.foundation.errors import Refusal, Unavailable
from pkiserver.runtime.engine import Engine, open_engine
from pkiserver.store import certificates
from pkiserver.store.schema.certificates import certificate
from tests.support.engines import engine_with, enrollment, template_text

OPERATOR = '[[evidence]]\nall = ["operator"]\n'
ROUNDS = 10


async def ask_both(engines: tuple[Engine, ...], *names: str, key: ec.EllipticCurvePrivateKey | None = None) -> int:
    """How many certificates come of two questions to each process at the same moment.

    The others are duplicates, or come again. Each process is asked for names of its own, where more than one is given.
    """
    shown = OperatorEvidence("root")
    tries = [
        Deferred.fromCoroutine(engine.enroll(enrollment("one", shown, name=name, key=key, protocol="cli")))
        for _ in range(2)
        for engine, name in zip(engines, itertools.cycle(names), strict=False)
    ]
    results = await DeferredList(tries, consumeErrors=True)
    assert all(fine or failure.check(Unavailable) or failure.value.has(Refusal.DUPLICATE) for fine, failure in results)
    return sum(fine for fine, _ in results)


def subjects_of(connection: Connection, key: ec.EllipticCurvePrivateKey) -> set[str]:
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    query = select(certificate.c.subject).where(certificate.c.spki_sha256 == sha256(spki).digest())
    return set(connection.execute(query).scalars())


@pytest.mark.parametrize("rule", ["same_subject", "same_key"])
async def test_of_duplicates_asked_of_two_processes_at_once_one_is_issued(tmp_path: Path, url: str, rule: str) -> None:
    texts = {"one": template_text("one", OPERATOR, f'[duplicates]\n{rule} = "refuse"\n')}
    async with engine_with(tmp_path, texts, url=url) as one, open_engine(one.settings, worker="1") as two:
        for number in range(ROUNDS):
            key = ec.generate_private_key(ec.SECP256R1()) if rule == "same_key" else None
            assert await ask_both((one, two), f"device-{number}", key=key) == 1


async def test_of_two_subjects_asked_of_two_processes_at_once_one_gets_the_key(tmp_path: Path, url: str) -> None:
    """What a template says that says nothing: one key is one subject's."""
    texts = {"one": template_text("one", OPERATOR)}
    async with engine_with(tmp_path, texts, url=url) as one, open_engine(one.settings, worker="1") as two:
        for number in range(ROUNDS):
            key = ec.generate_private_key(ec.SECP256R1())
            names = (f"device-{number}", f"other-{number}")
            assert await ask_both((one, two), *names, key=key) in {1, 2}
            assert len(await one.database.read(partial(subjects_of, key=key))) == 1


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
