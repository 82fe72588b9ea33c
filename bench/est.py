"""EST re-enrolments a second from one process: kept TLS connections, a client certificate on each, a fresh key each."""

from __future__ import annotations

from bench.estload import prepare_renewals, reenrolments
from bench.report import Report
from bench.support import running, set_up

CONNECTIONS = 8


def run(seconds: float) -> Report:
    """Ours, under the P-256 CA that quickstart makes."""
    report = Report()
    with set_up(workers=1) as layout, running(layout):
        prepare_renewals(layout, CONNECTIONS)
        report.measure("est_reenroll_per_s", "1/s", lambda: reenrolments(layout, seconds, CONNECTIONS))
    report.notes.append(f"one worker, P-256 CA in SoftHSM, SQLite, linted, {CONNECTIONS} kept connections (TLS 1.3);")
    report.notes.append("requests are made before; the load generator has the same cores; no free peer serves EST")
    return report
