"""Standard error in the field: pipes, sockets and terminals that take no more, and what a daemon makes of it."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import tty
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from twisted.logger import Logger

from pkiserver.runtime.logging import NodeLog
from pkiserver.runtime.logsettings import LogSettings, LogTarget
from tests.runtime.nodes import Node

MORE_THAN_FITS = 20_000


@attrs.frozen
class Ends:
    """What the server writes to, and the other end."""

    written: int
    read: int

    def take(self) -> bytes:
        """Everything that has arrived."""
        os.set_blocking(self.read, False)
        arrived = b""
        while True:
            try:
                more = os.read(self.read, 1 << 20)
            except BlockingIOError:
                return arrived
            if not more:
                return arrived
            arrived += more


def _pipe() -> tuple[int, int]:
    read, written = os.pipe()
    return written, read


def _terminal() -> tuple[int, int]:
    read, written = pty.openpty()
    tty.setraw(written)
    return written, read


def _socket() -> tuple[int, int]:
    written, read = socket.socketpair()
    return written.detach(), read.detach()


@pytest.fixture(params=[_pipe, _terminal, _socket])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    both = Ends(*request.param())
    yield both
    os.close(both.written)
    os.close(both.read)


def test_what_the_other_end_does_not_take_is_counted_and_told_later(ends: Ends) -> None:
    log = NodeLog(LogSettings(), "0", stderr=ends.written)
    own = Logger(namespace="pkiserver.test", observer=log)
    for number in range(MORE_THAN_FITS):
        own.info("line {number} is a line", number=number)
    assert log.lost > 0
    arrived = ends.take()
    while True:  # a terminal hands on what it holds bit by bit
        own.info("here again")
        arrived += (more := ends.take())
        if b"could not be written" in more:
            break
    log.close()
    lines = arrived.decode().splitlines()
    whole = r"\S+Z (info|warn)  ?\[0\] pkiserver\.(test|log): (line \d+ is a line|here again|\d+ log events before .*)"
    assert [line for line in lines if not re.fullmatch(whole, line)] == []
    told = sum(int(line.split(": ")[1].split()[0]) for line in lines if "log events before" in line)
    assert told == log.lost
    assert sum("is a line" in line for line in lines) + told >= MORE_THAN_FITS


def test_others_who_have_the_same_pipe_go_on_waiting(ends: Ends) -> None:
    log = NodeLog(LogSettings(), "0", stderr=ends.written)
    Logger(namespace="pkiserver.test", observer=log).info("said")
    assert os.get_blocking(ends.written)
    log.close()
    os.write(ends.written, b"still open\n")
    assert b"still open" in ends.take()


def test_a_daemon_lets_go_of_its_terminal(ends: Ends, tmp_path: Path) -> None:
    """twistd opens the log first and lets standard error be another file afterwards."""
    stderr = os.dup(ends.written)
    log = NodeLog(LogSettings(), "0", stderr=stderr)
    own = Logger(namespace="pkiserver.test", observer=log)
    own.info("before")
    with (tmp_path / "other").open("wb") as other:
        os.dup2(other.fileno(), stderr)
    own.info("after")
    assert b"after" not in ends.take()
    assert (tmp_path / "other").read_text().endswith(": after\n")
    log.close()
    os.close(stderr)


def test_a_named_pipe_that_nobody_reads_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="No such device or address"):
        NodeLog(LogSettings(LogTarget("file", tmp_path / "fifo")), "0")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_whose_log_nobody_reads_serves_and_stops(tmp_path: Path, workers: int) -> None:
    read, written = os.pipe()
    node = Node(tmp_path, workers=workers).start(wait=False, stderr=written)
    os.close(written)
    try:
        with node.log.open("ab") as log:
            while b": ready: " not in node.log.read_bytes():
                log.write(os.read(read, 1 << 16))
                log.flush()
        for _ in range(1500):
            assert node.get("/nothing")[0] == 404
        assert node.get("/health/ready", "management")[0] == 200
        node.signal(signal.SIGHUP)
    finally:
        code = node.stop()
        os.close(read)
    assert code == -signal.SIGTERM  # how twistd ends once all is closed
