"""A command that is killed while it does what was agreed on: the approval is spent and the deed done, or neither."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.support.commands import configured, run, run_json
from tests.support.engines import template_text
from tests.support.forked import completed
from tests.support.keys import software_store

pytestmark = pytest.mark.crash
DUAL = "[passwords]\nmemory_kib = 8192\npasses = 1\n[approvals.dual_control]\nadministrators = true\n"
MOST = 12
"""Transactions of a command; none has more."""


@attrs.frozen
class Node:
    """A node's configuration with what ``ada``, who configures, and ``ruth`` show themselves by."""

    config: Path

    @property
    def folder(self) -> Path:
        return self.config.parent

    def by(self, name: str) -> tuple[str, ...]:
        return ("--as-admin", f"{self.folder}/{name}.p12", "--password-file", f"{self.folder}/{name}.password")

    def row(self, statement: str, *values: object) -> Any:
        with sqlite3.connect(f"file:{self.folder}/pkiserver.db?mode=ro", uri=True) as connection:
            return connection.execute(statement, values).fetchone()

    def state(self, number: str) -> str:
        return str(self.row("SELECT state FROM operation WHERE id = ?", number)[0])

    def dying(self, transactions: int, *arguments: str) -> int:
        """Run a command that is killed after so many transactions; its exit code."""
        command = (str(transactions), *arguments, "--config", str(self.config))
        done = completed(command, dict(os.environ), 60, module="tests.cli.dying_command")
        assert done.returncode in {0, -signal.SIGKILL}, done.stdout + done.stderr
        return done.returncode


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    folder = tmp_path_factory.mktemp("node")
    config = configured(folder, software_store(folder))
    run(config, "ca", "create", "root", "--subject", "CN=Root", "--key-type", "ec-p256")
    run(config, "ca", "create", "issuing", "--issuer", "root", "--subject", "CN=Issuing", "--key-type", "ec-p256")
    (folder / "open.toml").write_text(template_text("open", '[[evidence]]\nall = ["password"]\n'))
    run(config, "apply", folder / "open.toml", "--yes")
    for name, role in (("ada", "administrator"), ("ruth", "ra-officer")):
        out = folder / f"{name}.p12"
        made = run_json(config, "admin", "create", name, "--role", role, "--authority", "root", "--out", out)
        (folder / f"{name}.password").write_text(made["password"])
    config.write_text(config.read_text() + DUAL)
    return Node(config)


def _template(node: Node) -> bool:
    return '"30d"' in node.row("SELECT toml FROM config_object WHERE name = 'open'")[0]


def _revoked(node: Node) -> bool:
    return bool(node.row("SELECT count(*) FROM certificate WHERE state = 'revoked'")[0])


def _made(node: Node) -> bool:
    return bool(node.row("SELECT count(*) FROM administrator_certificate WHERE administrator = 'mallory'")[0])


def _certified(node: Node) -> bool:
    known = node.row("SELECT count(*) FROM administrator_certificate WHERE administrator = 'ruth'")[0]
    assert known <= 2, "no approval yields two files"
    return bool(known == 2)


def _set(node: Node) -> bool:
    return "desk" in node.row("SELECT groups FROM administrator WHERE name = 'ruth'")[0]


APPROVED = (
    (("operation", "change-template", "changed.toml"), _template, "template open"),
    (("operation", "revoke-authority", "issuing"), _revoked, "certificate %"),
)
REPEATED = (
    (("admin", "create", "mallory", "--role", "operator", "--authority", "root", "--out", "OUT"), _made,
     "administrator mallory"),
    (("admin", "certify", "ruth", "--authority", "root", "--out", "OUT"), _certified, "administrator ruth"),
    (("admin", "set", "ruth", "--group", "desk"), _set, "administrator ruth"),
)  # fmt: skip


def until_done(node: Node, number: str, is_done: Callable[[Node], bool], command: tuple[str, ...]) -> int:
    """Kill the command after its first transaction, then after its second, ... until what was agreed on is done.

    Returns how often it was killed. Each time the approval is spent and the deed done, or neither is.
    """
    for killed in range(MOST):
        ended = node.dying(killed + 1, *(one.replace("OUT", f"{node.folder}/{number}-{killed}.p12") for one in command))
        assert (node.state(number) == "done") == is_done(node), f"after {killed + 1} transactions"
        if is_done(node):
            return killed + (ended != 0)
    raise AssertionError("it never came to be done")


def told(node: Node, number: str, what: str) -> int:
    """How many events say that something became of it by this operation."""
    statement = "SELECT count(*) FROM audit_event WHERE object LIKE ? AND details LIKE ? AND outcome = 'ok'"
    found: int = node.row(statement, what, f"%operation {number}%")[0]
    return found


@pytest.mark.parametrize(("command", "is_done", "what"), APPROVED)
def test_killed_while_the_last_approval_is_carried_out(
    node: Node, command: tuple[str, ...], is_done: Callable[[Node], bool], what: str
) -> None:
    text = (node.folder / "open.toml").read_text()
    (node.folder / "changed.toml").write_text(text.replace('"90d"', '"30d"'))
    asked = (one.replace("changed.toml", f"{node.folder}/changed.toml") for one in command)
    number = str(run_json(node.config, *asked, "--reason", "agreed", *node.by("ada"))["number"])
    approve = ("operation", "approve", number, *node.by("ruth"))
    assert until_done(node, number, is_done, approve) >= 1
    assert "is not pending any more" in run(node.config, *approve, code=1)
    assert told(node, number, what) == 1


@pytest.mark.parametrize(("command", "is_done", "what"), REPEATED)
def test_killed_while_an_administrators_change_is_made_that_was_approved(
    node: Node, command: tuple[str, ...], is_done: Callable[[Node], bool], what: str
) -> None:
    out = f"{node.folder}/asked.p12"
    asked = (one.replace("OUT", out) for one in command)
    number = str(run_json(node.config, *asked, "--reason", "needed", *node.by("ada"))["operation"])
    run(node.config, "operation", "approve", number, *node.by("ruth"))
    again = (*command, "--operation", number)
    assert until_done(node, number, is_done, again) >= 1
    assert told(node, number, what) == (2 if "create" in command else 1), "made, and bound to the certificate"
    refused = run(node.config, *(one.replace("OUT", out) for one in again), code=1)
    assert "is done" in refused or "exists already" in refused or "approves something else" in refused
    assert json.loads(run(node.config, "audit", "verify", "--json"))
