"""Trying keys and measuring them."""

from __future__ import annotations

import time

import attrs

from pkiserver.keys.algorithms import KeyType, SignatureScheme
from pkiserver.keys.handle import PROOF, KeyHandle


@attrs.frozen
class KeyTest:
    """A test signature: it verified, in this many seconds."""

    name: str
    key_type: KeyType
    seconds: float
    in_place: bool


@attrs.frozen
class BenchResult:
    """Signatures in a loop: per second, and the seconds that the slowest of 50 and of 99 in 100 took."""

    name: str
    key_type: KeyType
    in_place: bool
    signatures: int
    seconds: float
    per_second: float
    median: float
    p99: float


def bench(name: str, handle: KeyHandle, scheme: SignatureScheme, seconds: float) -> BenchResult:
    """Sign a known text one after the other for ``seconds`` (once at least); blocking."""
    timer = time.perf_counter
    times: list[float] = []
    started = last = timer()
    while last - started < seconds or not times:
        handle.sign(PROOF, scheme)
        now = timer()
        times.append(now - last)
        last = now
    times.sort()
    total = last - started
    return BenchResult(
        name=name,
        key_type=handle.key_type,
        in_place=handle.fast,
        signatures=len(times),
        seconds=total,
        per_second=len(times) / total,
        median=times[len(times) // 2],
        p99=times[len(times) * 99 // 100],
    )
