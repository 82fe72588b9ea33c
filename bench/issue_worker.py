"""One process of the issuance bench: opens the engine and issues until told to stop; not a bench of its own."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from twisted.internet.defer import Deferred, gatherResults

from bench.support import make_csrs
from pkiserver.authority.csr import parse_request
from pkiserver.authority.requests import EnrollmentRequest, OperatorEvidence, ProofKind, ProofOfPossession
from pkiserver.cli.context import run_on_reactor
from pkiserver.runtime.configfile import load_settings
from pkiserver.runtime.engine import Engine, open_engine
from pkiserver.runtime.garbage import settle

IN_FLIGHT = 32


async def _lane(engine: Engine, csrs: list[bytes], until: float) -> int:
    done = 0
    while csrs and time.monotonic() < until:
        csr = csrs.pop()
        parsed = parse_request(csr)
        request = EnrollmentRequest(
            template="device",
            public_key=parsed.public_key,
            spki=parsed.spki,
            proof=ProofOfPossession(ProofKind.CSR_SIGNATURE, verified=True),
            wishes=parsed.wishes,
            evidence=(OperatorEvidence("bench"),),
            protocol="cli",
            source="bench",
            request_id=f"bench-{len(csrs)}",
            csr=csr,
        )
        await engine.enroll(request)
        done += 1
    return done


async def _main(config: Path, seconds: float, profile: str | None) -> None:
    async with open_engine(load_settings(config), worker="bench") as engine:
        csrs = make_csrs(int(seconds * 1600))
        await _lane(engine, make_csrs(20, "warm"), time.monotonic() + 5)
        settle()  # as a server does before it serves
        print("ready", flush=True)
        sys.stdin.readline()
        profiler = None
        if profile:
            import cProfile

            profiler = cProfile.Profile()
            profiler.enable()
        started = time.monotonic()
        lanes = [Deferred.fromCoroutine(_lane(engine, csrs, started + seconds)) for _ in range(IN_FLIGHT)]
        done = sum(await gatherResults(lanes))
        elapsed = time.monotonic() - started
        if profiler is not None:
            profiler.disable()
            profiler.dump_stats(profile)
        print(json.dumps({"done": done, "seconds": elapsed}), flush=True)


if __name__ == "__main__":
    path, lasting = Path(sys.argv[1]), float(sys.argv[2])
    run_on_reactor(lambda: _main(path, lasting, sys.argv[3] if len(sys.argv) > 3 else None))
