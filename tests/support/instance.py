"""A whole server as a new user gets it: set up by quickstart in a folder, started as processes of its own."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pkiserver.cli.setup.layout import Layout
from tests.support.forked import completed
from tests.support.ports import free_port_base

PKISERVER = Path(sys.executable).parent / "pkiserver"
START_SECONDS = 60


class Instance:
    """An instance that :meth:`start` and :meth:`stop` run; ``workers`` processes serve."""

    def __init__(self, folder: Path, *, workers: int = 1, database: str | None = None) -> None:
        self.layout = Layout(folder / "instance", free_port_base())
        self.log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        more = ["--database", database] if database else []
        done = subprocess.run(
            [*self._quickstart(), "--setup-only", "--workers", str(workers), *more],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self.printed = done.stdout
        atexit.register(self._end)

    def _end(self) -> None:
        """A test that failed may have left it running."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)

    @property
    def pid(self) -> int:
        """The process to send signals to."""
        assert self._process is not None
        return self._process.pid

    def start(self, *, until_logged: str = "") -> float:
        """Start the server as a user would; returns after how many seconds it was ready.

        ``until_logged``: it will never be, and is waited for until its log says this.
        """
        begun = time.monotonic()
        since = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(self._quickstart(), stdout=output, stderr=subprocess.STDOUT)
        url = f"http://127.0.0.1:{self.layout.management_port}/health/ready"
        while time.monotonic() < begun + START_SECONDS and self._process.poll() is None:
            if until_logged and until_logged in self.log.read_text(errors="replace")[since:]:
                return time.monotonic() - begun
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return time.monotonic() - begun
            time.sleep(0.05)
        raise AssertionError(self.log.read_text(errors="replace")[-4000:])

    def stop(self, by: signal.Signals = signal.SIGINT) -> int:
        """Stop it as Ctrl-C does; returns the exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(by)
        try:
            return process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(self.log.read_text(errors="replace")[-4000:]) from None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Meanwhile the server and its workers do nothing; for less than the 30 s after which they count as dead."""
        tree = _tree(str(self.pid))
        subprocess.run(["kill", "-STOP", *tree], check=True)
        try:
            yield
        finally:
            subprocess.run(["kill", "-CONT", *tree], check=True)

    def ended(self) -> int:
        """Wait until it has ended by itself; returns the exit code."""
        process, self._process = self._process, None
        assert process is not None
        return process.wait(60)

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a ``pkiserver`` command on this instance."""
        done = completed(("--config", str(self.layout.config), *arguments), dict(os.environ), seconds=120)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def shell(self, script: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run shell commands, with pipes that fail as a whole."""
        return subprocess.run(
            ["bash", "-o", "pipefail", "-e", "-c", script],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def _quickstart(self) -> list[str]:
        directory, base = str(self.layout.directory), str(self.layout.port_base)
        return [str(PKISERVER), "quickstart", "--dir", directory, "--port-base", base]


def _tree(pid: str) -> list[str]:
    """A process and all below it."""
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in below for one in _tree(child))]
