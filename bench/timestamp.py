"""Time-stamps a second over HTTP, every imprint and nonce another, beside openssl ts -reply and certomancer."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import subprocess
from pathlib import Path

from bench.peers import Missing, python_with
from bench.report import RUNS, Report
from bench.support import PKISERVER, running, set_up
from pkiserver.cli.setup.layout import Layout
from pkiserver.timestamping.unit import ImprintHash
from protocols.timestamp.messages import encode_request

CONNECTIONS = 32
TARGET_LATENCY = 20.0
_LOAD = """
local n, salt, pause = 0, "", {delay}
function init(args)
  math.randomseed({seed})
  for i = 1, 24 do salt = salt .. string.char(math.random(0, 255)) end
end
local head = "{head}"
local fields = {{["Content-Type"] = "application/timestamp-query"}}
function request()
  n = n + 1
  local c = string.char(math.floor(n / 16777216) % 256, math.floor(n / 65536) % 256, math.floor(n / 256) % 256, n % 256)
  local body = head .. salt .. "____" .. c .. "\\2\\8A" .. salt:sub(1, 3) .. c .. "\\1\\1\\255"
  return wrk.format("POST", "/tsa/{unit}", fields, body)
end
if pause > 0 then delay = function() return math.floor(pause * (0.5 + math.random())) end end
"""
_CERTOMANCER = """
import sys, time
from asn1crypto import keys, pem, tsp, x509
from certomancer.services import TimeStamper
folder, seconds = sys.argv[1], float(sys.argv[2])
read = lambda name: pem.unarmor(open(f"{folder}/{name}", "rb").read())[2]
stamper = TimeStamper(x509.Certificate.load(read("cert.pem")), keys.PrivateKeyInfo.load(read("key.pem")))
query = bytearray(open(f"{folder}/query", "rb").read())
count, begun = 0, time.perf_counter()
while time.perf_counter() - begun < seconds:
    query[30:34] = count.to_bytes(4, "big")
    stamper.request_tsa_response(tsp.TimeStampReq.load(bytes(query))).dump()
    count += 1
print(count / (time.perf_counter() - begun))
"""
_OPENSSL = """
[tsa]
default_tsa = t
[t]
serial = serial
signer_cert = cert.pem
signer_key = key.pem
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256
accuracy = secs:1
ess_cert_id_alg = sha256
[req]
distinguished_name = dn
x509_extensions = ext
[dn]
[ext]
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, timeStamping
"""


def load(layout: Layout, unit: str, seconds: float, *, delay_ms: float = 0.0) -> tuple[float, float]:
    """Tokens a second and the 99th percentile of their latency in milliseconds; every answer a token."""
    script = layout.directory / "load.lua"
    query = encode_request(ImprintHash.SHA256, bytes(32), nonce=0x41 << 56)
    head = "".join(f"\\{octet:03d}" for octet in query[: query.index(bytes(32))])
    script.write_text(_LOAD.format(head=head, unit=unit, delay=delay_ms, seed=secrets.randbits(31)))
    url = f"http://127.0.0.1:{layout.http_port}/tsa/{unit}"
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "--latency", "-s", script, url]
    before = granted(layout, unit)
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(said)
    rate, latency = re.search(r"Requests/sec:\s+([0-9.]+)", said), re.search(r"99%\s+([0-9.]+)(us|ms|s)", said)
    total = re.search(r"([0-9]+) requests in", said)
    assert rate is not None
    assert latency is not None
    assert total is not None
    if granted(layout, unit) - before < int(total[1]):
        raise RuntimeError("not every answer was a token")
    return float(rate[1]), float(latency[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[latency[2]]


def granted(layout: Layout, unit: str) -> int:
    """How many tokens all workers say they have made."""
    url = f"http://127.0.0.1:{layout.management_port}/metrics"
    said = subprocess.run(["curl", "-fsS", url], capture_output=True, text=True, check=True).stdout
    lines = [line for line in said.splitlines() if line.startswith("pkiserver_timestamp_answers_total")]
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if 'outcome="granted"' in line and unit in line)


def cli(layout: Layout, *arguments: str) -> str:
    command = [PKISERVER, "--config", layout.config, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def make_units(layout: Layout) -> None:
    """RSA-2048 units, in the token and in encrypted key files, beside the P-256 one of quickstart."""
    folder, passphrase = layout.directory / "files", layout.directory / "secrets" / "files"
    folder.mkdir()
    passphrase.write_text("bench\n")
    passphrase.chmod(0o600)
    place = f'directory = "{folder}"\npassphrase_source = "file:{passphrase}"'
    with layout.config.open("a", encoding="utf-8") as config:
        config.write(f'\n[[key_store]]\nname = "files"\n{place}\nthreads = 2\n')
    common = ("--issuer", "issuing", "--policy", "1.2.3.4", "--key-type", "rsa-2048")
    cli(layout, "timestamp", "unit", "create", "rsa", *common)
    cli(layout, "timestamp", "unit", "create", "rsafiles", *common, "--key-store", "files")


def signatures(layout: Layout, unit: str, seconds: float) -> float:
    """Signatures a second that the unit's key makes, one after the other, with nothing around them."""
    keys = json.loads(cli(layout, "--json", "key", "list"))
    name = next(one["name"] for one in keys if one["name"].startswith(f"tsu-{unit}_"))
    [found] = json.loads(cli(layout, "--json", "hsm", "bench", name, "--seconds", str(seconds)))
    return float(found["signatures_per_s"])


def make_peer(folder: Path) -> None:
    """A P-256 signer of time-stamps for the peers, and a request."""
    (folder / "tsa.cnf").write_text(_OPENSSL)
    (folder / "serial").write_text("01\n")
    (folder / "query").write_bytes(encode_request(ImprintHash.SHA256, bytes(32), nonce=0x41 << 56))
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -subj /CN=t"
    )
    subprocess.run([*command.split(), "-config", "tsa.cnf"], cwd=folder, check=True, capture_output=True)


def openssl_replies(folder: Path, seconds: float) -> float:
    """Answers a second of ``openssl ts -reply``, started for each."""
    script = (
        f"n=0; end=$((SECONDS+{max(1, round(seconds))})); while [ $SECONDS -lt $end ]; do "
        "openssl ts -reply -config tsa.cnf -queryfile query -out answer 2>/dev/null || exit 1; n=$((n+1)); done; "
        "echo $n"
    )
    said = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=True).stdout
    return int(said) / max(1, round(seconds))


def certomancer(folder: Path, seconds: float) -> float:
    """Answers a second of certomancer's time-stamper in one process, without HTTP."""
    python = python_with("certomancer")
    command = [python, "-c", _CERTOMANCER, folder, str(seconds)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peers(report: Report, folder: Path, seconds: float) -> None:
    make_peer(folder)
    report.measure("openssl_ts_reply_per_s", "1/s", lambda: openssl_replies(folder, seconds))
    report.compare("openssl ts -reply, a process each", "tsa_p256_per_s", "openssl_ts_reply_per_s")
    try:
        report.measure("certomancer_p256_per_s", "1/s", lambda: certomancer(folder, min(seconds, 2.0)))
        report.compare("certomancer, without HTTP", "tsa_p256_per_s", "certomancer_p256_per_s")
    except (Missing, subprocess.CalledProcessError) as error:
        report.missing["certomancer"] = str(error)


def run(seconds: float) -> Report:
    """All figures of one process and of two, and those of the peers within the same minutes."""
    report = Report()
    if shutil.which("wrk") is None:
        report.missing["wrk"] = "the load generator: apt-get install wrk"
        return report
    with set_up(workers=1) as layout:
        make_units(layout)
        with running(layout):
            peak = report.measure("tsa_p256_per_s", "1/s", lambda: load(layout, "demo", seconds)[0]).median
            pause = CONNECTIONS * 1000 / (peak / 2)
            report.measure(
                "tsa_p256_half_load_per_s", "1/s", lambda: load(layout, "demo", seconds, delay_ms=pause)[0], 1
            )
            report.measure("tsa_p256_half_load_p99_ms", "ms", lambda: load(layout, "demo", seconds, delay_ms=pause)[1])
            report.measure("tsa_rsa2048_per_s", "1/s", lambda: load(layout, "rsa", seconds)[0])
            report.measure("tsa_rsa2048_files_per_s", "1/s", lambda: load(layout, "rsafiles", seconds)[0])
        report.measure(
            "token_rsa2048_signatures_per_s", "1/s", lambda: signatures(layout, "rsa", min(seconds, 2.0)), RUNS
        )
        report.compare("the token's bare RSA-2048 signatures", "tsa_rsa2048_per_s", "token_rsa2048_signatures_per_s")
        folder = layout.directory / "peers"
        folder.mkdir()
        peers(report, folder, seconds)
    with set_up(workers=2) as layout, running(layout):
        report.measure("tsa_p256_per_s_2", "1/s", lambda: load(layout, "demo", seconds)[0])
        report.compare("one process (two processes)", "tsa_p256_per_s_2", "tsa_p256_per_s")
    report.notes.append(
        f"P-256 and RSA-2048 in SoftHSM, RSA-2048 also in key files; certificates asked for; {CONNECTIONS} kept"
        " connections, wrk on the same machine"
    )
    return report
