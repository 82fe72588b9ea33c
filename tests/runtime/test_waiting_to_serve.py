"""What clients meet while a server waits for its database."""

from __future__ import annotations

import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.nodes import Node


@pytest.fixture(params=[1, 2])
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    made = Node(tmp_path, workers=request.param)
    yield made
    if made.process is not None:
        made.stop()


@pytest.mark.parametrize("node", [1], indirect=True)
def test_who_comes_while_the_database_is_away_is_told_to_come_again(node: Node) -> None:
    (node.state / "away").touch()
    node.start(wait=False)
    node.wait_for("not ready: the database is away")
    url = f"http://127.0.0.1:{node.port('http')}/who"
    for data in (None, b"x" * 5000):
        with pytest.raises(urllib.error.HTTPError) as told:
            urllib.request.urlopen(url, data, timeout=10)
        assert (told.value.code, told.value.headers["Retry-After"]) == (503, "15")
        assert b"database" not in told.value.read()
    (node.state / "away").unlink()
    node.wait_for(": ready: ")
    assert node.get("/who")[0] == 200
    assert node.get("/else")[0] == 404


@pytest.mark.parametrize("node", [2], indirect=True)
def test_a_process_that_cannot_serve_yet_leaves_connections_to_one_that_can(node: Node) -> None:
    node.start()
    (node.state / "away").touch()
    os.kill(node.pids().pop(), signal.SIGKILL)
    node.wait_for("not ready: the database is away")
    assert {node.get("/who")[0] for _ in range(20)} == {200}
