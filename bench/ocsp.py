"""OCSP answers a second: signed (token, software, RSA), kept, by two processes, while certificates are revoked."""

from __future__ import annotations

import base64
import contextlib
import json
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import attrs

from bench import issue, peers, web
from bench.ocspload import (
    NONCE,
    add_software_ca,
    asked,
    certificates_of,
    closing,
    have,
    issuer_of,
    openssl_responder,
    responding,
    revoking,
    run_cli,
    script,
    token_rate,
    visible_after,
    wrk,
)
from bench.report import RUNS, Figure, Report
from bench.support import free_port, listening, processor_seconds, running, set_up
from pkiserver.cli.setup.layout import Layout

CERTIFICATES = 200
REVOCATIONS = 1000.0
ROUNDS = 20


def run(seconds: float) -> Report:
    """All figures of one process, then of two; peers within the same minutes."""
    report = Report()
    if missing := have("wrk", "nginx", "ab", "openssl"):
        for name in missing:
            report.missing[name] = "apt-get install wrk nginx-light apache2-utils openssl"
        return report
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with set_up() as layout:
            issue.in_process(layout, 3, 1)
            software = add_software_ca(layout)
            with running(layout):
                _one(report, layout, folder, seconds)
                lua = script(folder, [asked(software[1], software[0], bytes(NONCE))], "/ocsp")
                url = f"http://127.0.0.1:{layout.http_port}"
                time.sleep(3)  # the list is fetched in the first seconds
                report.measure("ocsp_signed_soft_per_s", "1/s", lambda: wrk(url, seconds, lua)["rate"])
                body = asked(software[1], software[0], bytes(NONCE))
                report.measure("ocsp_soft_closing_per_s", "1/s", lambda: closing(f"{url}/ocsp", folder, body, 1))
                _openssl(report, folder, 1)
                _compare(report, "openssl ocsp", "ocsp_signed_soft_per_s", "openssl_ocsp_per_s")
                _compare(report, "openssl ocsp, a connection each", "ocsp_soft_closing_per_s", "openssl_ocsp_per_s")
            _rsa(report, layout, folder, seconds)
        _two(report, folder, seconds)
    _django(report, seconds)
    report.notes.append(
        f"A fresh nonce in each signed answer, {CERTIFICATES} certificates in turn, wrk on the same machine. openssl "
        "closes the connection after each answer; django-ca is called in process, without HTTP."
    )
    return report


def _load(layout: Layout, folder: Path, pause: float = 0.0) -> Path:
    issuer = issuer_of(layout)
    requests = [asked(one, issuer, bytes(NONCE)) for one in certificates_of(layout, CERTIFICATES)]
    return script(folder, requests, "/ocsp", pause)


def _one(report: Report, layout: Layout, folder: Path, seconds: float) -> None:
    url = f"http://127.0.0.1:{layout.http_port}"
    lua = _load(layout, folder)
    peak = report.measure("ocsp_signed_per_s", "1/s", lambda: wrk(url, seconds, lua)["rate"]).median
    half = _load(layout, folder, pause=32 * 1000 / (peak / 2))
    report.measure("ocsp_signed_p99_ms_at_half", "ms", lambda: wrk(url, seconds, half)["p99"], runs=3)
    changes: list[float] = []

    def meanwhile() -> float:
        worker = revoking(layout, seconds + 4, REVOCATIONS)
        assert worker.stdout is not None
        worker.stdout.readline()
        rate = wrk(url, seconds, lua)["rate"]
        changes.append(json.loads(worker.stdout.readline()))
        worker.wait(30)
        return rate

    report.measure("ocsp_signed_while_revoking_per_s", "1/s", meanwhile, runs=3)
    report.figures["revocations_meanwhile_per_s"] = Figure("1/s", tuple(changes))
    report.compare("the same without revocations", "ocsp_signed_while_revoking_per_s", "ocsp_signed_per_s")
    [one, *_] = certificates_of(layout, 1)
    target = "/ocsp/" + quote(base64.b64encode(asked(one, issuer_of(layout), None)).decode(), safe="")
    report.measure("ocsp_cached_per_s", "1/s", lambda: wrk(url + target, seconds)["rate"])
    _nginx(report, folder, url + target, seconds)


def _nginx(report: Report, folder: Path, source: str, seconds: float) -> None:
    import urllib.request

    with urllib.request.urlopen(source, timeout=10) as answer:
        (folder / "answer").write_bytes(answer.read())
    port = free_port()
    (folder / "conf").write_text(web.NGINX.format(folder=folder, port=port))
    with listening(["/usr/sbin/nginx", "-c", str(folder / "conf")], port):
        url = f"http://127.0.0.1:{port}/answer"
        report.measure("nginx_same_bytes_per_s", "1/s", lambda: wrk(url, seconds)["rate"])
    report.compare("nginx, the same bytes", "ocsp_cached_per_s", "nginx_same_bytes_per_s")


def _openssl(report: Report, folder: Path, processes: int) -> None:
    port = free_port()
    command, leaf, ca = openssl_responder(folder, port, processes)
    name = "openssl_ocsp_per_s" if processes == 1 else f"openssl_ocsp_multi_{processes}_per_s"
    url, body = f"http://127.0.0.1:{port}/", asked(leaf, ca, bytes(NONCE))
    try:
        with responding(command):
            report.measure(name, "1/s", lambda: closing(url, folder, body, processes))
    except RuntimeError as error:
        report.missing[f"openssl ocsp, {processes} process(es)"] = f"it stalls: {str(error)[-200:]}"


def _compare(report: Report, peer: str, ours: str, theirs: str) -> None:
    if theirs in report.figures:
        report.compare(peer, ours, theirs)


def _rsa(report: Report, layout: Layout, folder: Path, seconds: float) -> None:
    """The same with an RSA-2048 responder in the token, beside what the token signs."""
    settings = run_cli(layout, "export", "authority/issuing").replace("[settings.ocsp]", "").rstrip()
    document = folder / "issuing.toml"
    document.write_text(f'{settings}\n\n[settings.ocsp]\nkey_type = "rsa-2048"\n')
    run_cli(layout, "apply", "--yes", str(document))
    with running(layout):
        time.sleep(3)  # the responder is made in the first seconds
        keys = json.loads(run_cli(layout, "key", "list", "--json"))
        name = next(row["name"] for row in keys if row["name"].startswith("ocsp-g") and "rsa" in json.dumps(row))
        url, lua = f"http://127.0.0.1:{layout.http_port}", _load(layout, folder)
        report.measure("ocsp_signed_rsa_per_s", "1/s", lambda: wrk(url, seconds, lua)["rate"])
    report.measure("token_rsa_signatures_per_s", "1/s", lambda: token_rate(layout, name), runs=3)
    report.compare("the token alone, RSA-2048, one at a time", "ocsp_signed_rsa_per_s", "token_rsa_signatures_per_s")


def _two(report: Report, folder: Path, seconds: float) -> None:
    """Two processes and one, in turn, and what each uses: the load generator needs its share of the same cores."""
    with contextlib.ExitStack() as stack:
        sides = {}
        for workers in (1, 2):
            layout = stack.enter_context(set_up(workers))
            issue.in_process(layout, 2, 1)
            sides[workers] = _Side(layout, stack.enter_context(running(layout)), _load(layout, folder))
        for _ in range(RUNS):
            for side in sides.values():
                side.measure(seconds)
        report.figures["ocsp_signed_per_s_2"] = Figure("1/s", tuple(sides[2].rates))
        report.figures["ocsp_signed_per_s_1_in_turn"] = Figure("1/s", tuple(sides[1].rates))
        report.figures["ocsp_signed_processor_us_2"] = Figure("us", tuple(sides[2].costs))
        report.figures["ocsp_signed_processor_us_1"] = Figure("us", tuple(sides[1].costs))
        report.figures["revocation_visible_ms"] = Figure("ms", tuple(visible_after(sides[2].layout, ROUNDS)))
    _openssl(report, folder, 2)
    report.compare("one process, in turn", "ocsp_signed_per_s_2", "ocsp_signed_per_s_1_in_turn")
    _compare(report, "openssl ocsp -multi 2", "ocsp_signed_per_s_2", "openssl_ocsp_multi_2_per_s")


@attrs.define
class _Side:
    """A server under load: answers a second, and microseconds of processor that each took, run for run."""

    layout: Layout
    server: int
    lua: Path
    rates: list[float] = attrs.field(factory=list)
    costs: list[float] = attrs.field(factory=list)

    def measure(self, seconds: float) -> None:
        before, begun = processor_seconds(self.server), time.monotonic()
        rate = wrk(f"http://127.0.0.1:{self.layout.http_port}", seconds, self.lua)["rate"]
        self.rates.append(rate)
        used, took = processor_seconds(self.server) - before, time.monotonic() - begun
        self.costs.append(used * 1e6 / (rate * took))


def _django(report: Report, seconds: float) -> None:
    try:
        once = peers.django_ca_ocsp(seconds)
    except peers.Missing as error:
        report.missing["django-ca"] = str(error)
        return
    report.measure("django_ca_ocsp_per_s", "1/s", once, runs=3)
    report.compare("django-ca", "ocsp_signed_soft_per_s", "django_ca_ocsp_per_s")
