"""EST clients with a certificate each, which enrol over connections that they keep."""

from __future__ import annotations

import base64
import http.client
import multiprocessing
import ssl
import subprocess
import time
from pathlib import Path

from bench.support import PKISERVER, make_csrs
from pkiserver.cli.setup.layout import Layout

CONNECTIONS = 4
TEMPLATE = """
kind = "template"
name = "bench"
issuer = "issuing"
protocols = ["est"]
keys = ["ec-p256"]
lint = "warning"
[validity]
duration = "90d"
[[evidence]]
all = ["client_certificate"]
[[subject.parts]]
attribute = "common_name"
from = "request"
required = true
[sans]
others = "ignore"
[key_usage]
usages = ["digital_signature"]
[extended_key_usage]
usages = ["client_auth"]
"""


def enrolments(layout: Layout, seconds: float) -> float:
    """Enrolments a second from one load process with :data:`CONNECTIONS` threads of its own."""
    _prepare(layout)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return float(pool.apply(_load, (layout, seconds)))


def _prepare(layout: Layout) -> None:
    """A template that takes client certificates, and a client certificate."""
    folder = layout.directory
    if (folder / "bench.pem").exists():
        return
    (folder / "bench.toml").write_text(TEMPLATE)
    subprocess.run(
        [PKISERVER, "--config", layout.config, "apply", "--yes", folder / "bench.toml"], check=True, capture_output=True
    )
    time.sleep(2)  # until every worker has followed the configuration
    password = (layout.secrets / "demo-password").read_text()
    script = f"""
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout bench.key -subj /CN=demo -outform DER \
 | openssl base64 -out bench.p10
curl -fsS --cacert root.pem --user 'demo:{password}' -H 'Content-Type: application/pkcs10' --data-binary @bench.p10 \
 {layout.https_url}/.well-known/est/tls-client/simpleenroll | openssl base64 -d \
 | openssl pkcs7 -inform DER -print_certs | openssl x509 -out bench.pem
"""
    subprocess.run(["bash", "-e", "-o", "pipefail", "-c", script], cwd=folder, check=True, capture_output=True)


def _load(layout: Layout, seconds: float) -> float:
    from concurrent.futures import ThreadPoolExecutor

    csrs = [base64.b64encode(csr) for csr in make_csrs(int(seconds * 700))]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        begin = time.monotonic() + 0.5
        lanes = [csrs[number::CONNECTIONS] for number in range(CONNECTIONS)]
        done = list(pool.map(lambda lane: _lane(layout, lane, begin, seconds), lanes))
    return sum(done) / seconds


def _lane(layout: Layout, csrs: list[bytes], begin: float, seconds: float) -> int:
    folder: Path = layout.directory
    context = ssl.create_default_context(cafile=str(layout.root_certificate))
    context.load_cert_chain(folder / "bench.pem", folder / "bench.key")
    connection = http.client.HTTPSConnection("localhost", layout.https_port, context=context)
    headers = {"Content-Type": "application/pkcs10"}
    connection.connect()
    time.sleep(max(0.0, begin - time.monotonic()))
    done = 0
    for csr in csrs:
        if time.monotonic() > begin + seconds:
            return done
        connection.request("POST", "/.well-known/est/bench/simpleenroll", csr, headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {body[:300]!r}")
        done += 1
    return done
