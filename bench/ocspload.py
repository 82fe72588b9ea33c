"""OCSP load for the bench: requests with fresh nonces by wrk, a CA for software keys, revocations meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import ocsp

from bench.support import PKISERVER, children
from pkiserver.cli.setup.layout import Layout

CONNECTIONS = 32
NONCE = 32
TRIES = 12
_TYPE = "application/ocsp-request"

_SCRIPT = """
local function octets(hex) return (hex:gsub("..", function(two) return string.char(tonumber(two, 16)) end)) end
local heads, salt, char, floor, at, n = {}, "", string.char, math.floor, 0, 0
function init(args)
  math.randomseed(SEED)
  for i = 1, SIZE - 4 do salt = salt .. char(math.random(0, 255)) end
  for hex in ("HEADS"):gmatch("%x+") do
    local whole = octets(hex) .. salt .. "____"
    local sent = wrk.format("POST", "PATH", {["Content-Type"] = "application/ocsp-request"}, whole)
    heads[#heads + 1] = sent:sub(1, -5)
  end
end
function request()
  at, n = at % #heads + 1, n + 1
  return heads[at] .. char(floor(n / 16777216) % 256, floor(n / 65536) % 256, floor(n / 256) % 256, n % 256)
end
"""


def asked(certificate: x509.Certificate, issuer: x509.Certificate, nonce: bytes | None) -> bytes:
    """A request in DER; a nonce stands at its end."""
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA1())
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(Encoding.DER)


def script(folder: Path, requests: Iterable[bytes], path: str, pause: float = 0.0) -> Path:
    """A script for wrk that asks these in turn, each time with another nonce; ``pause`` in ms between two requests.

    What a nonce is made of is drawn once and then counted on: the server shares the cores with what draws it.
    """
    heads = " ".join(request[:-NONCE].hex() for request in requests)
    text = _SCRIPT.replace("HEADS", heads).replace("SIZE", str(NONCE)).replace("PATH", path)
    text = text.replace("SEED", str(secrets.randbits(31)))
    if pause:
        text += f"function delay() return math.random(0, {round(2 * pause)}) end\n"
    file = folder / f"load-{abs(hash((heads, path, pause)))}.lua"
    file.write_text(text)
    return file


def wrk(url: str, seconds: float, lua: Path | None = None, connections: int = CONNECTIONS) -> dict[str, float]:
    """Answers a second and the slowest of 99 in 100, in ms, and octets an answer; every answer is signed."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency"]
    said = subprocess.run(
        [*command, *(["-s", str(lua)] if lua else []), url], capture_output=True, text=True, check=True
    ).stdout
    rate = re.search(r"Requests/sec:\s+([0-9.]+)", said)
    total = re.search(r"([0-9]+) requests in .*, ([0-9.]+)(KB|MB|GB) read", said)
    slowest = re.search(r"99%\s+([0-9.]+)(us|ms|s)", said)
    assert rate is not None
    assert total is not None
    assert slowest is not None
    octets = float(total[2]) * {"KB": 2**10, "MB": 2**20, "GB": 2**30}[total[3]] / int(total[1])
    if "Non-2xx" in said or octets < 300:  # an unsigned error is shorter
        raise RuntimeError(said)
    milliseconds = float(slowest[1]) * {"us": 0.001, "ms": 1, "s": 1000}[slowest[2]]
    return {"rate": float(rate[1]), "p99": milliseconds, "octets": octets}


def closing(url: str, folder: Path, body: bytes, connections: int) -> float:
    """Answers a second that ``ab`` gets with a connection for each, as ``openssl ocsp`` wants it.

    A fixed number: each connection leaves a port behind for a minute, and there are but 28,000.
    """
    file = folder / "request.der"
    file.write_bytes(body)
    command = ["ab", "-q", "-l", "-s2", f"-c{connections}", "-n1500", "-p", str(file), "-T", _TYPE, url]
    for _ in range(TRIES):
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if ended.returncode == 0:
            break  # openssl forgets a connection now and then, and ab gives up
    said = ended.stdout
    rate = re.search(r"Requests per second:\s+([0-9.]+)", said)
    octets = re.search(r"HTML transferred:\s+([0-9]+)", said)
    done = re.search(r"Complete requests:\s+([0-9]+)", said)
    if rate is None or octets is None or done is None or int(octets[1]) < 300 * int(done[1]):
        raise RuntimeError(said)
    return float(rate[1])


def certificates_of(layout: Layout, count: int) -> list[x509.Certificate]:
    """Certificates that an instance has issued to devices, newest first."""
    with sqlite3.connect(layout.database) as database:
        rows = database.execute(
            "SELECT der FROM certificate WHERE template = 'device' AND state = 'issued' ORDER BY id DESC LIMIT ?",
            (count,),
        ).fetchall()
    return [x509.load_der_x509_certificate(row[0]) for row in rows]


def issuer_of(layout: Layout) -> x509.Certificate:
    """The issuing CA's certificate."""
    done = run_cli(layout, "ca", "export-chain", "issuing")
    return x509.load_pem_x509_certificates(done.encode())[0]


def run_cli(layout: Layout, *arguments: str) -> str:
    """What a command prints."""
    command = [str(PKISERVER), "--config", str(layout.config), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def add_software_ca(layout: Layout) -> tuple[x509.Certificate, x509.Certificate]:
    """A CA that is not ours, whose responder's P-256 key lies in a file here; the CA's and a leaf's certificate."""
    folder = layout.directory / "other"
    folder.mkdir()
    passphrase = folder / "passphrase"
    passphrase.write_text("bench\n")
    passphrase.chmod(0o600)
    with layout.config.open("a") as config:
        config.write(
            f'\n[[key_store]]\nname = "files"\ndirectory = "{folder}/keys"\npassphrase_source = "file:{passphrase}"\n'
        )
    ca = OtherCa()
    (folder / "list.crl").write_bytes(ca.crl())
    (folder / "other.toml").write_text(
        f'kind = "foreign-ca"\nname = "other"\nunlisted = "good"\nfeeds = ["file://{folder}/list.crl"]\n'
        f"certificate = '''\n{ca.certificate.public_bytes(Encoding.PEM).decode()}'''\n"
    )
    run_cli(layout, "apply", "--yes", str(folder / "other.toml"))
    run_cli(layout, "responder", "csr", "other", "--store", "files", "--out", str(folder / "csr.pem"))
    request = x509.load_pem_x509_csr((folder / "csr.pem").read_bytes())
    made = ca.sign(request.public_key(), "responder", 7, tuple(request.extensions))
    (folder / "responder.pem").write_bytes(made.public_bytes(Encoding.PEM))
    run_cli(layout, "responder", "install", "other", str(folder / "responder.pem"))
    return ca.certificate, ca.sign(ec.generate_private_key(ec.SECP256R1()).public_key(), "leaf", 4711)


class OtherCa:
    """A P-256 CA of the bench's own, also the peer's."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench other CA")])
        self.now = datetime.now(UTC).replace(microsecond=0)
        basic = x509.Extension(x509.BasicConstraints.oid, True, x509.BasicConstraints(True, None))
        self.certificate = self.sign(self.key.public_key(), "bench other CA", 1, (basic,))

    def sign(
        self,
        public_key: object,
        name: str,
        serial: int,
        extensions: tuple[x509.Extension[x509.ExtensionType], ...] = (),
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(self.name)
            .public_key(public_key)  # type: ignore[arg-type]
            .serial_number(serial)
            .not_valid_before(self.now - timedelta(days=1))
            .not_valid_after(self.now + timedelta(days=300))
        )
        for one in extensions:
            builder = builder.add_extension(one.value, one.critical)
        return builder.sign(self.key, hashes.SHA256())

    def crl(self) -> bytes:
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(self.now)
        builder = builder.next_update(self.now + timedelta(days=1)).add_extension(x509.CRLNumber(1), False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)


def openssl_responder(folder: Path, port: int, processes: int) -> tuple[list[str], x509.Certificate, x509.Certificate]:
    """The command of ``openssl ocsp`` as a responder with a P-256 key, and what to ask it about."""
    ca = OtherCa()
    leaf = ca.sign(ec.generate_private_key(ec.SECP256R1()).public_key(), "leaf", 4711)
    pem, private = Encoding.PEM, PrivateFormat.PKCS8
    (folder / "ca.pem").write_bytes(ca.certificate.public_bytes(pem))
    (folder / "ca.key").write_bytes(ca.key.private_bytes(pem, private, NoEncryption()))
    end = leaf.not_valid_after_utc.strftime("%y%m%d%H%M%SZ")
    (folder / "index.txt").write_text(f"V\t{end}\t\t1267\tunknown\t/CN=leaf\n")
    files = {"-index": "index.txt", "-CA": "ca.pem", "-rsigner": "ca.pem", "-rkey": "ca.key"}
    command = ["openssl", "ocsp", *(word for option, name in files.items() for word in (option, str(folder / name)))]
    multi = ["-multi", str(processes)] if processes > 1 else []
    return [*command, "-port", str(port), "-nmin", "60", *multi], leaf, ca.certificate


@contextlib.contextmanager
def responding(command: list[str]) -> Iterator[None]:
    """A peer and all its children, for as long as the block runs."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(1)  # it takes one connection at a time: a probe would be the first
        yield
    finally:
        left = children(process.pid)  # openssl's leave its process group, and outlive it
        process.kill()
        process.wait(5)
        for child in left:
            os.kill(child, signal.SIGKILL)


def revoking(layout: Layout, seconds: float, rate: float) -> subprocess.Popen[str]:
    """A process that changes the status of certificates through the authority; says ``ready`` when it begins."""
    command = [sys.executable, "-m", "bench.ocsp_worker", str(layout.config), str(seconds), str(rate)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def visible_after(layout: Layout, rounds: int) -> list[float]:
    """Milliseconds from the commit of a change of status, made by another process, until every connection is told."""
    certificates = certificates_of(layout, rounds)
    issuer = issuer_of(layout)
    command = [sys.executable, "-m", "bench.ocsp_worker", str(layout.config), "0", "0"]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert worker.stdin is not None
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    found = []
    for certificate in certificates:
        seen: list[float] = []
        threads = [
            threading.Thread(target=_poll, args=(layout.http_port, asked(certificate, issuer, None), seen))
            for _ in range(6)  # enough that every worker has some of them
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        worker.stdin.write(f"{certificate.serial_number:x}\n")
        worker.stdin.flush()
        committed = float(worker.stdout.readline())
        for thread in threads:
            thread.join()
        found.append((max(seen) - committed) * 1000)
    worker.stdin.close()
    worker.wait(30)
    return found


def _poll(port: int, body: bytes, seen: list[float]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    while True:
        connection.request("POST", "/ocsp", body, {"Content-Type": _TYPE})
        answer = ocsp.load_der_ocsp_response(connection.getresponse().read())
        if answer.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            time.sleep(0.0005)
            continue
        if answer.certificate_status is ocsp.OCSPCertStatus.REVOKED:
            seen.append(time.time())
            connection.close()
            return
        time.sleep(0.0005)


def token_rate(layout: Layout, key: str) -> float:
    """Signatures a second of one key in its token, one at a time."""
    [row] = json.loads(run_cli(layout, "hsm", "bench", key, "--seconds", "2", "--json"))
    return float(row["signatures_per_s"])


def have(*programs: str) -> list[str]:
    """Which of these are missing."""
    return [name for name in programs if shutil.which(name, path="/usr/local/bin:/usr/bin:/usr/sbin:/bin") is None]
