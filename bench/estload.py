"""EST clients with a certificate each, which enrol over connections that they keep."""

from __future__ import annotations

import base64
import multiprocessing
import re
import socket
import ssl
import subprocess
import time
from pathlib import Path

from bench.support import PKISERVER, make_csrs
from pkiserver.cli.setup.layout import Layout

CONNECTIONS = 4
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)")
REENROL = """
kind = "template"
name = "bench-renew"
issuer = "issuing"
protocols = ["est"]
keys = ["ec-p256"]
[validity]
duration = "90d"
[renewal]
window = "90d"
[[evidence]]
all = ["password"]
[[subject.parts]]
attribute = "common_name"
from = "request"
required = true
[key_usage]
usages = ["digital_signature"]
[extended_key_usage]
usages = ["client_auth"]
"""
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


def prepare_renewals(layout: Layout, connections: int) -> None:
    """A template, linted like any other, and a certificate of it for each connection."""
    (layout.directory / "bench-renew.toml").write_text(REENROL)
    command = [PKISERVER, "--config", layout.config, "apply", "--yes", layout.directory / "bench-renew.toml"]
    subprocess.run(command, check=True, capture_output=True)
    time.sleep(2)  # until every worker has followed the configuration
    for number in range(connections):
        _certify(layout, f"renew-{number}", f"/CN=renew-{number}", "bench-renew")


def reenrolments(layout: Layout, seconds: float, connections: int) -> float:
    """Re-enrolments a second, each with a fresh key, from one load process with a kept connection for each thread."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return float(pool.apply(_renew, (layout, seconds, connections)))


def _renew(layout: Layout, seconds: float, connections: int) -> float:
    from concurrent.futures import ThreadPoolExecutor

    # made before, more than this machine answers: a lane that runs out would be counted too low
    each = int(seconds * 900 / connections)
    lanes = [
        [base64.b64encode(csr) for csr in make_csrs(each, common_name=f"renew-{number}")]
        for number in range(connections)
    ]
    with ThreadPoolExecutor(connections) as pool:
        begin = time.monotonic() + 0.5
        path = "bench-renew/simplereenroll"

        def one(number: int) -> int:
            return _lane(layout, lanes[number], begin, seconds, path=path, stem=f"renew-{number}")

        done = list(pool.map(one, range(connections)))
    return sum(done) / seconds


def _certify(layout: Layout, stem: str, subject: str, template: str) -> None:
    """A certificate by the demonstration account's password, in STEM.pem and STEM.key."""
    password = (layout.secrets / "demo-password").read_text()
    script = f"""
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {stem}.key -subj {subject} -outform DER \
 | openssl base64 -out {stem}.p10
curl -fsS --cacert root.pem --user 'demo:{password}' -H 'Content-Type: application/pkcs10' --data-binary @{stem}.p10 \
 {layout.https_url}/.well-known/est/{template}/simpleenroll | openssl base64 -d \
 | openssl pkcs7 -inform DER -print_certs | openssl x509 -out {stem}.pem
"""
    command = ["bash", "-e", "-o", "pipefail", "-c", script]
    subprocess.run(command, cwd=layout.directory, check=True, capture_output=True)


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
    _certify(layout, "bench", "/CN=demo", "tls-client")


def _load(layout: Layout, seconds: float) -> float:
    from concurrent.futures import ThreadPoolExecutor

    csrs = [base64.b64encode(csr) for csr in make_csrs(int(seconds * 700))]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        begin = time.monotonic() + 0.5
        lanes = [csrs[number::CONNECTIONS] for number in range(CONNECTIONS)]
        done = list(
            pool.map(lambda lane: _lane(layout, lane, begin, seconds, path="bench/simpleenroll", stem="bench"), lanes)
        )
    return sum(done) / seconds


def _lane(layout: Layout, csrs: list[bytes], begin: float, seconds: float, *, path: str, stem: str) -> int:
    folder: Path = layout.directory
    context = ssl.create_default_context(cafile=str(layout.root_certificate))
    context.load_cert_chain(folder / f"{stem}.pem", folder / f"{stem}.key")
    head = f"POST /.well-known/est/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/pkcs10\r\n".encode()
    done = 0
    with (
        socket.create_connection(("localhost", layout.https_port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        time.sleep(max(0.0, begin - time.monotonic()))
        for csr in csrs:
            if time.monotonic() > begin + seconds:
                return done
            connection.sendall(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(csr), csr))
            _take(connection)
            done += 1
    return done


def _take(connection: ssl.SSLSocket) -> None:
    """Read one answer, which must be 200. The server shares the cores with whoever reads its answers: as little as is
    needed, where Python's own client takes a tenth of what the server does."""
    answer = connection.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    while length is not None and len(body) < int(length[1]) and (more := connection.recv(65536)):
        body += more
    if length is None or len(body) != int(length[1]) or not answer.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"{head[:100]!r}: {body[:300]!r}")
