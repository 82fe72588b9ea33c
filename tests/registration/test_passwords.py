"""Passwords: right, wrong, unknown names at equal work, a flood that is turned away."""

from __future__ import annotations

from typing import Any

import argon2
import pytest
from twisted.internet.defer import Deferred, DeferredList

from pkiserver.foundation.errors import Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.registration.passwords import MAX_PASSWORD_BYTES, PasswordHasher, PasswordSettings

CHEAP = PasswordSettings(memory_kib=8192, passes=1, threads=1, queue=4)


@pytest.fixture
def hasher(on_reactor: Any) -> Any:
    made = PasswordHasher(CHEAP)
    on_reactor(lambda: _call(made.start))
    yield made
    on_reactor(lambda: _call(made.stop))


async def _call(work: Any) -> None:
    work()


async def test_only_the_right_password_verifies(hasher: PasswordHasher) -> None:
    stored = await hasher.hash(Secret("correct horse"))
    assert stored.startswith("$argon2id$v=19$m=8192,t=1,p=1$")
    assert await hasher.verify(stored, Secret("correct horse"))
    assert not await hasher.verify(stored, Secret("correct horsE"))
    assert not await hasher.verify(None, Secret("decoy"))
    assert not await hasher.verify("no hash at all", Secret("correct horse"))


async def test_an_oversize_password_is_wrong_even_when_it_was_hashed(hasher: PasswordHasher) -> None:
    long = Secret(b"x" * (MAX_PASSWORD_BYTES + 1))
    stored = await hasher.hash(long)
    assert not await hasher.verify(stored, long)


async def test_an_unknown_name_costs_one_hash_like_a_wrong_password(
    hasher: PasswordHasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = await hasher.hash(Secret("correct horse"))
    await hasher.verify(None, Secret("makes the decoy"))
    calls: list[str] = []
    real = argon2.PasswordHasher.verify

    def counting(self: argon2.PasswordHasher, known: str, given: bytes) -> bool:
        calls.append(known.rsplit("$", 2)[0])
        return real(self, known, given)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", counting)
    for known in (stored, None):
        assert not await hasher.verify(known, Secret("wrong"))
    assert len(calls) == 2
    assert len(set(calls)) == 1  # the same parameters, so the same work


async def test_a_flood_is_told_to_come_back(hasher: PasswordHasher) -> None:
    stored = await hasher.hash(Secret("correct horse"))
    tries = [Deferred.fromCoroutine(hasher.verify(stored, Secret(f"guess {n}"))) for n in range(20)]
    results = await DeferredList(tries, consumeErrors=True)
    refused = [failure for fine, failure in results if not fine]
    assert len(refused) == 20 - CHEAP.threads - CHEAP.queue
    assert all(failure.check(Unavailable) for failure in refused)
    assert await hasher.verify(stored, Secret("correct horse"))


def test_an_old_hash_is_noticed() -> None:
    cheap = PasswordHasher(CHEAP)
    dear = PasswordHasher(PasswordSettings())
    old = argon2.PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash("x")
    assert not cheap.needs_rehash(old)
    assert dear.needs_rehash(old)
