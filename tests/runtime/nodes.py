"""Start and stop whole nodes (twistd in a process of its own) for the tests beside this file."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.standin import tac

ROOT = Path(__file__).parents[2]
TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="]


def certificate(folder: Path, name: str) -> None:
    """``chain.pem`` and ``key.pem`` of a self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "chain.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").touch(mode=0o600)
    (folder / "key.pem").write_bytes(pem)


class Node:
    """A node in a folder, started with twistd from another directory."""

    def __init__(self, folder: Path, *, workers: int = 1, more: str = "", top: str = "", listen: str = "") -> None:
        self.folder = folder
        self.state = folder / "state"
        self.state.mkdir()
        self.config = folder / "node.toml"
        self.log = folder / "log"
        self.write(workers=workers, more=more, top=top, listen=listen or '"127.0.0.1:0"')
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, *, workers: int = 1, more: str = "", top: str = "", listen: str = '"127.0.0.1:0"') -> None:
        self.config.write_text(
            f'state_dir = "state"\nworkers = {workers}\n{top}\n'
            '[database]\nurl = "sqlite:///db"\n'
            f'[http]\nlisten = [{listen}]\n[management]\nlisten = ["127.0.0.1:0"]\n{more}\n'
        )

    def start(
        self, *prefix: str, environment: Mapping[str, str] | None = None, wait: bool = True, stderr: int | None = None
    ) -> Node:
        tac_file = self.folder / "node.tac"
        tac_file.write_text(tac(self.config))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, *TWISTD, "-y", str(tac_file)],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log if stderr is None else stderr,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            )
        if wait:
            self.wait_for(": ready: ")
        return self

    def wait_for(self, text: str, times: int = 1) -> str:
        return self.until(lambda: (t := self.log.read_text()).count(text) >= times and t, f"{text!r} in the log")

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if result := condition():
                return result
            time.sleep(0.02)
        raise AssertionError(f"waited in vain for {what}; the log:\n{self.log.read_text()}")

    def port(self, listener: str) -> int:
        found = re.search(rf"{listener} is bound to .*:(\d+)", self.log.read_text())
        assert found, self.log.read_text()
        return int(found[1])

    def get(self, path: str, listener: str = "http", timeout: float = 10) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.port(listener)}{path}"
        try:
            with urllib.request.urlopen(url, timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def ready(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.get("/health/ready", "management")[1])
        return answer

    def pids(self, tries: int = 40) -> set[int]:
        """The processes that answer."""
        return {int(self.get("/who")[1].split()[0]) for _ in range(tries)}

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def reachable_python(uid: int, scratch: Path) -> list[str]:
    """A command prefix that lets an unprivileged user run this interpreter, which may live in root's home.

    Where it does, that home is covered, in a mount namespace of the command's own, by one that shows nothing else.
    """
    python = Path(sys.executable).resolve()
    with contextlib.suppress(PermissionError):
        subprocess.run([python, "-c", ""], user=uid, cwd="/", capture_output=True, check=True)
        return []
    kept = scratch / "kept"
    kept.mkdir()
    home = Path("/", *python.parts[1:2])
    part = Path(home, *python.parts[2:3])
    script = (
        'set -e; mount --bind "$2" "$1"; mount -t tmpfs -o mode=755 none "$0"; '
        'mkdir "$2"; mount --bind "$1" "$2"; shift 2; exec "$@"'
    )
    return ["unshare", "--mount", "sh", "-c", script, str(home), str(kept), str(part)]
