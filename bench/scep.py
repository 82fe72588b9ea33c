"""SCEP enrolments a second from one process, whole: envelope, one-time code, issue, answer; beside scepserver."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.report import RUNS, Report
from bench.scepload import CONNECTIONS, Device, encryption_certificate, fetch, post_all
from bench.support import free_port, listening, running, set_up

PER_SECOND = 300
"""Messages made for each second of a run; more than this machine answers makes the run longer, not wrong."""
CHALLENGE = "bench"


@contextlib.contextmanager
def scepserver() -> Iterator[int]:
    """Debian's scepserver with an RSA-2048 CA key and a static challenge."""
    folder = Path(tempfile.mkdtemp(prefix="pkiserver-bench-scep-"))
    port = free_port()
    try:
        subprocess.run(
            ["scepserver", "ca", "-init", "-keySize", "2048", "-depot", folder / "depot"],
            check=True,
            capture_output=True,
        )
        command = ["scepserver", "-depot", str(folder / "depot"), "-port", str(port), "-challenge", CHALLENGE]
        with listening([*command, "-allowrenew", "0"], port, folder):
            yield port
    finally:
        shutil.rmtree(folder)


def run(seconds: float) -> Report:
    """Ours under a P-256 and an RSA-2048 CA, and the peer, in the same minutes."""
    report, device = Report(), Device()
    count = int(seconds * PER_SECOND)
    with set_up(workers=1) as layout:
        command = [sys.executable, "-m", "bench.scepload", str(layout.config), str(count * RUNS)]
        codes = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        with running(layout):
            for issuer, name in (("issuing", "scep_enroll_per_s"), ("rsa", "scep_enroll_rsa_ca_per_s")):
                path = f"/scep/bench-{issuer}"
                ra = encryption_certificate(fetch(layout.http_port, path, "GetCACert"))
                left = list(enumerate(codes[issuer]))

                def once(path: str = path, ra: object = ra, left: list[tuple[int, str]] = left) -> float:
                    batch = [device.message(ra, *left.pop()) for _ in range(count)]  # type: ignore[arg-type]
                    return post_all(layout.http_port, path, batch)

                report.measure(name, "1/s", once)
    if shutil.which("scepserver") is None:
        report.missing["scepserver"] = "apt-get install scep"
    else:
        with scepserver() as port:
            ca = encryption_certificate(fetch(port, "/scep", "GetCACert"))
            few = max(20, count // 8)
            numbers = iter(range(10**9))
            report.measure(
                "scepserver_enroll_per_s",
                "1/s",
                lambda: post_all(port, "/scep", [device.message(ca, next(numbers), CHALLENGE) for _ in range(few)], 1),
            )
            report.compare("scepserver (RSA-2048 CA)", "scep_enroll_rsa_ca_per_s", "scepserver_enroll_per_s")
    report.notes.append(f"one worker, RSA-2048 registration authority in SoftHSM, SQLite, {CONNECTIONS} connections;")
    report.notes.append("each enrolment with a one-time code of its own; all messages by one device key, made before")
    return report
