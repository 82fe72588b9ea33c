"""A machine's clock that is set back or ahead while nodes run: what waits goes on waiting as long as it was to."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.nodes import ROOT, Node

HOUR = 3600
_CLOCK = """
import time

_true = time.time

def _told() -> float:
    with open({offset!r}) as file:
        return _true() + float(file.read() or 0)

time.time = _told
"""
"""Loaded by each Python before anything of ours: it tells the time as a file says that the clock was set."""


class Machine:
    """A node on a machine whose clock can be set."""

    def __init__(self, folder: Path, *, workers: int) -> None:
        self._offset = folder / "offset"
        self._offset.write_text("0")
        site = folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(_CLOCK.format(offset=str(self._offset)))
        self.node = Node(folder, workers=workers, top='drain = "1s"')
        self.node.start(environment={"PYTHONPATH": f"{site}:{ROOT}"})

    def set_clock(self, offset: int) -> None:
        """Set it to so many seconds ahead of the true time."""
        part = self._offset.with_suffix(".part")
        part.write_text(str(offset))
        part.replace(self._offset)

    def runs(self) -> int:
        """How often the job has run, in all processes."""
        return (self.node.state / "job").stat().st_size

    def wait_for_runs(self, count: int) -> None:
        since = self.runs()
        self.node.until(lambda: self.runs() >= since + count, f"{count} more runs of the job")


@pytest.fixture(params=[1, 2])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path, workers=request.param)
    yield machine
    machine.node.stop()


def test_work_goes_on_though_the_clock_is_set_back(machine: Machine) -> None:
    machine.wait_for_runs(2)
    machine.set_clock(-HOUR)
    machine.wait_for_runs(6)


def test_nothing_is_over_too_early_though_the_clock_is_set_ahead(machine: Machine) -> None:
    with socket.create_connection(("127.0.0.1", machine.node.port("http"))) as waiting:
        waiting.sendall(b"GET /slow?300 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        machine.wait_for_runs(2)
        machine.set_clock(HOUR)
        machine.wait_for_runs(6)
        waiting.setblocking(False)
        with pytest.raises(BlockingIOError):
            waiting.recv(1)
