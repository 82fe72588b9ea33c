"""Ctrl-C at a command: what it says then is what became of its work."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.commands import PKISERVER, configured, run_json
from tests.support.forked import ROOT

PEOPLE = "name,groups\n" + "".join(f"device-{number},devices\n" for number in range(200))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "people.csv").write_text(PEOPLE)
    return configured(tmp_path)


def accounts(config: Path) -> int:
    return len(run_json(config, "account", "list", "--limit", "1000"))


def test_what_was_being_written_when_it_came_is_told_as_done(config: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.cli.interrupted_command", "account", "import", "--yes"),
            *(config.parent / "people.csv", "--config", config),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert accounts(config) == 200
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "200 changed (0 as they should be)"), done.stderr
    assert done.stderr.endswith("finishing what is being written; Ctrl-C once more gives it up\n")


def _read_until(terminal: int, wanted: str) -> None:
    said = ""
    while wanted not in said:
        assert select.select([terminal], [], [], 60)[0], said
        said += os.read(terminal, 65536).decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_question_ends_with_it(config: Path, number: signal.Signals) -> None:
    ours, theirs = pty.openpty()
    command = ["setsid", "--ctty", *PKISERVER, "account", "import", config.parent / "people.csv", "--config", config]
    asking = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    end = time.monotonic() + 60
    try:
        _read_until(ours, "[y/N]")
        said = ""
        while "interrupted\r\n" not in said:
            # once more where it came in the moment before Python's line editor began to wait, which overlooks it
            assert time.monotonic() < end, said
            if number is signal.SIGINT:
                os.write(ours, b"\x03")
            else:
                asking.send_signal(number)
            while "interrupted\r\n" not in said and select.select([ours], [], [], 10)[0]:
                said += os.read(ours, 65536).decode()
        assert asking.wait(60) == 130
    finally:
        asking.kill()
        asking.wait()
    os.close(ours)
    assert accounts(config) == 0
