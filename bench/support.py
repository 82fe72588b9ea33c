"""Instances and requests for the benches: a server of its own in a temporary folder, and distinct enrolments."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pkiserver.cli.setup.layout import Layout

CHECKOUT = Path(__file__).parent.parent
PKISERVER = Path(sys.executable).parent / "pkiserver"
START_SECONDS = 30


def free_port() -> int:
    """A port of 127.0.0.1 that is free now."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        number: int = held.getsockname()[1]
        return number


@contextlib.contextmanager
def listening(command: list[str], port: int, folder: Path = CHECKOUT) -> Iterator[None]:
    """Another server's process, run in ``folder``, once it listens on ``port``; ended afterwards."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    try:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        else:
            raise RuntimeError(f"{command[0]} does not listen")
        yield
    finally:
        process.terminate()
        process.wait(20)


def free_port_base() -> int:
    """A base whose ports are free now."""
    bases = range(11000, 32000, 700)
    start = os.getpid() % len(bases)  # so that benches and tests beside one another seldom meet
    for base in (*bases[start:], *bases[:start]):
        with contextlib.ExitStack() as stack:
            try:
                for offset in (80, 90, 91, 389, 443, 636):
                    probe = stack.enter_context(contextlib.closing(socket.socket()))
                    probe.bind(("127.0.0.1", base + offset))
            except OSError:
                continue
            return base
    raise RuntimeError("no free ports")


@contextlib.contextmanager
def set_up(workers: int = 1) -> Iterator[Layout]:
    """An instance that is set up and not started; gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="pkiserver-bench-"))
    layout = Layout(folder / "instance", free_port_base())
    try:
        command = [PKISERVER, "quickstart", "--dir", layout.directory, "--port-base", str(layout.port_base)]
        subprocess.run(
            [*command, "--workers", str(workers), "--setup-only"], check=True, capture_output=True, text=True
        )
        yield layout
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def running(layout: Layout) -> Iterator[int]:
    """The instance's server, ready, by its process ID; stopped afterwards."""
    log = layout.directory / "bench.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [PKISERVER, "quickstart", "--dir", layout.directory], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_ready(layout, process)
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def children(parent: int) -> list[int]:
    """The processes that a process has started and that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(_fields(stat)[1]) == parent:
                found.append(int(stat.parent.name))
    return found


def processor_seconds(server: int) -> float:
    """What a server, with the processes that it has started and theirs, has used of the processors."""
    user, system = _fields(Path(f"/proc/{server}/stat"))[11:13]
    own = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return own + sum(processor_seconds(child) for child in children(server))


def _fields(stat: Path) -> list[str]:
    """From the state on (proc(5)): the name before it may hold anything."""
    return stat.read_text().rpartition(")")[2].split()


def wait_ready(layout: Layout, process: subprocess.Popen[bytes]) -> None:
    """Until the server says that it is ready."""
    url = f"http://127.0.0.1:{layout.management_port}/health/ready"
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise RuntimeError((layout.directory / "bench.log").read_text())


def make_csrs(count: int, prefix: str = "bench", *, common_name: str | None = None) -> list[bytes]:
    """DER PKCS#10 requests for distinct P-256 keys and names; with ``common_name`` all for that one."""
    made = []
    for number in range(count):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name or f"{prefix}-{number}")])
        request = x509.CertificateSigningRequestBuilder(name).sign(key, hashes.SHA256())
        made.append(request.public_bytes(serialization.Encoding.DER))
    return made
