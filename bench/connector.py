"""How late the reactor is while sixteen requests wait for a connector that takes 2 s to answer."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bench.report import Report
from bench.support import PKISERVER, make_csrs, running, set_up
from pkiserver.cli.setup.layout import Layout

ANSWER_SECONDS = 2.0
WAITING = 16
_SECRET = b"both sides know this"
_FILES = (
    """
kind = "connector"
name = "slow"
[webhook]
url = "http://127.0.0.1:{port}/"
secret = "file:{secret}"
""",
    """
name = "slow"
issuer = "issuing"
protocols = ["est"]
keys = ["ec-p256"]
[validity]
duration = "90d"
[[evidence]]
all = ["password"]
connectors = ["slow"]
[[subject.parts]]
attribute = "common_name"
from = "request"
required = true
[key_usage]
usages = ["digital_signature"]
""",
)


class _Portal(BaseHTTPRequestHandler):
    """Says yes, after a while."""

    def do_POST(self) -> None:
        """Answer one question, signed."""
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(ANSWER_SECONDS)
        answer = b'{"decision": "yes"}'
        mark = hmac.new(_SECRET, question["id"].encode() + b"." + answer, hashlib.sha256).hexdigest()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("Pkiserver-Signature", f"v1={mark}")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def _portal() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Portal)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def _prepare(layout: Layout, port: int) -> None:
    secret = layout.directory / "portal-secret"
    secret.write_bytes(_SECRET)
    secret.chmod(0o600)
    files = []
    for number, text in enumerate(_FILES):
        file = layout.directory / f"slow-{number}.toml"
        file.write_text(text.replace("{port}", str(port)).replace("{secret}", str(secret)))
        files.append(str(file))
    subprocess.run([PKISERVER, "--config", layout.config, "apply", "--yes", *files], check=True, capture_output=True)


def _samples(layout: Layout) -> tuple[float, float]:
    """Samples of the reactor's lateness so far, and those later than 5 ms."""
    with urllib.request.urlopen(f"http://127.0.0.1:{layout.management_port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()

    def value(name: str) -> float:
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    return value("pkiserver_reactor_latency_seconds_count"), value("pkiserver_reactor_blocked_total")


def _enrol(layout: Layout, csr: bytes, failed: list[str]) -> None:
    context = ssl.create_default_context(cafile=str(layout.root_certificate))
    connection = http.client.HTTPSConnection("localhost", layout.https_port, context=context)
    login = base64.b64encode(b"alice:a long password").decode()
    headers = {"Content-Type": "application/pkcs10", "Authorization": f"Basic {login}"}
    connection.request("POST", "/.well-known/est/slow/simpleenroll", base64.b64encode(csr), headers)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        failed.append(f"{answer.status}: {body[:200]!r}")


def _waiting(layout: Layout) -> tuple[float, float]:
    """Samples, and late ones, from when all questions are asked until shortly before they are answered."""
    failed: list[str] = []
    clients = [threading.Thread(target=_enrol, args=(layout, csr, failed)) for csr in make_csrs(WAITING)]
    begin = time.monotonic()
    for one in clients:
        one.start()
    time.sleep(0.7)
    before = _samples(layout)
    time.sleep(max(0.0, begin + ANSWER_SECONDS - 0.2 - time.monotonic()))
    after = _samples(layout)
    for one in clients:
        one.join()
    if failed:
        raise RuntimeError(failed[0])
    return after[0] - before[0], after[1] - before[1]


def _share(samples: float, late: float) -> float:
    return 100 * late / samples if samples else 0.0


def _idle(layout: Layout, seconds: float) -> tuple[float, float]:
    before = _samples(layout)
    time.sleep(seconds)
    after = _samples(layout)
    return after[0] - before[0], after[1] - before[1]


def run(seconds: float) -> Report:
    """The share of samples later than 5 ms with and without a slow connector; and that all are served in the end."""
    report = Report()
    with _portal() as port, set_up(workers=1) as layout:
        _prepare(layout, port)
        with running(layout):
            time.sleep(3)  # until what is made at the first start is made
            rounds = max(1, round(seconds / (ANSWER_SECONDS - 0.9)))
            report.measure("idle_late_percent", "%", lambda: _share(*_idle(layout, seconds)), runs=3)

            def waited() -> float:
                found = [_waiting(layout) for _ in range(rounds)]
                return _share(sum(one[0] for one in found), sum(one[1] for one in found))

            report.measure("connector_late_percent", "%", waited, runs=3)
    report.notes.append(
        f"samples 20 ms apart of which the reactor served more than 5 ms late; {WAITING} EST requests wait"
    )
    report.notes.append(
        f"for a webhook that answers after {ANSWER_SECONDS:g} s, one worker; idle: the same, nobody waits"
    )
    return report
