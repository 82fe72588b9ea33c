"""Certificates a second through the whole road: in process, and over EST with kept client-certificate connections."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from bench import peers
from bench.estload import enrolments
from bench.report import Report
from bench.support import running, set_up
from pkiserver.cli.setup.layout import Layout


def run(seconds: float) -> Report:
    """Figures ``issue_per_s_1``, ``issue_per_s_2``, ``est_enroll_per_s``, and peers on the same key type."""
    report = Report()
    with set_up() as layout:
        report.measure("issue_per_s_1", "certificates/s", lambda: in_process(layout, seconds, 1))
        report.measure("issue_per_s_2", "certificates/s", lambda: in_process(layout, seconds, 2))
        one, two = (report.figures[name].median for name in ("issue_per_s_1", "issue_per_s_2"))
        report.notes.append(f"two processes / one: {two / one:.2f}")
    with set_up(workers=1) as layout, running(layout):
        report.measure("est_enroll_per_s", "certificates/s", lambda: enrolments(layout, seconds))
    for peer, measure in (("django-ca", peers.django_ca), ("openssl ca", peers.openssl_ca)):
        try:
            measure_once = measure(seconds)
        except peers.Missing as error:
            report.missing[peer] = str(error)
            continue
        figure = f"{peer.replace(' ', '_').replace('-', '_')}_per_s"
        report.measure(figure, "certificates/s", measure_once, runs=3)
        report.compare(peer, "issue_per_s_1", figure)
    report.notes.append(
        "Everything on: gate, template, key checks, pkilint, durable serial and intent, SoftHSM P-256, comparison, "
        "store and audit row with full sync. Peers store a row and sign with a software key; they do not lint."
    )
    return report


def in_process(layout: Layout, seconds: float, processes: int) -> float:
    """Issue from so many processes at once on one database and token; the sum of their rates."""
    command = [sys.executable, "-m", "bench.issue_worker", str(layout.config), str(seconds)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]

    def ready(worker: subprocess.Popen[str]) -> None:
        assert worker.stdout is not None
        if worker.stdout.readline() != "ready\n":
            raise RuntimeError("a bench process ended early")

    def rate(worker: subprocess.Popen[str]) -> float:
        output, _ = worker.communicate()
        result = json.loads(output)
        return float(result["done"] / result["seconds"])

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(ready, workers))
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        return sum(pool.map(rate, workers))
