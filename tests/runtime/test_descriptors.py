"""Clients that hold connections open do not take the descriptors that the server itself needs."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from tests.runtime.nodes import Node

LIMIT = 400
ADDRESSES = [f"127.0.0.{number}" for number in range(2, 6)]


def limits_of(pid: int) -> list[str]:
    """Soft and hard limit of open files."""
    [line] = [one for one in Path(f"/proc/{pid}/limits").read_text().splitlines() if one.startswith("Max open files")]
    return line.split()[3:5]


def children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_limit_is_raised_as_far_as_it_may_be(tmp_path: Path, workers: int) -> None:
    node = Node(tmp_path, workers=workers).start("prlimit", "--nofile=256:4096", "--")
    try:
        assert node.process is not None
        for pid in (node.process.pid, *children_of(node.process.pid)):
            assert limits_of(pid) == ["4096", "4096"]
    finally:
        node.stop()


def test_a_crowd_leaves_descriptors_to_the_server_and_to_who_looks_after_it(tmp_path: Path) -> None:
    node = Node(tmp_path).start("prlimit", f"--nofile={LIMIT}:{LIMIT}", "--")
    assert node.process is not None
    open_files = Path(f"/proc/{node.process.pid}/fd")
    try:
        with contextlib.ExitStack() as crowd:
            for number in range(2 * LIMIT):
                one = crowd.enter_context(contextlib.closing(socket.socket()))
                one.bind((ADDRESSES[number % len(ADDRESSES)], 0))
                one.connect(("127.0.0.1", node.port("http")))
            node.wait_for("hardly a file descriptor is left")
            assert LIMIT // 2 < len(list(open_files.iterdir())) < LIMIT * 7 // 8
            assert node.get("/health/live", "management")[0] == 200
        node.until(lambda: len(list(open_files.iterdir())) < LIMIT // 2, "the end of the crowd")
        assert node.get("/who")[0] == 200
        assert node.log.read_text().count("hardly a file descriptor is left") == 1
    finally:
        node.stop()
