"""CRL numbers are remembered beside the database, by all processes of a node, through whatever happens to the file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from pkiserver.authority.status.knownnumbers import KnownNumbers

ROOT, ISSUING = b"root", b"issuing"
FULL = "full"


async def test_what_one_process_saw_the_next_one_knows(tmp_path: Path) -> None:
    file = tmp_path / "numbers"
    one, two = KnownNumbers(file), KnownNumbers(file)
    one.note(ISSUING, FULL, 7)
    one.note(ISSUING, FULL, 5)
    two.note(ROOT, FULL, 3)
    await one.share_news()
    await two.share_news()
    assert (two.highest(ISSUING, FULL), two.highest(ROOT, FULL)) == (7, 3)
    two.note(ISSUING, FULL, 6)
    await two.share()
    await one.share()
    assert (one.highest(ISSUING, FULL), one.highest(ROOT, FULL), one.highest(b"another", FULL)) == (7, 3, 0)
    assert file.stat().st_mode & 0o777 == 0o600


async def test_what_is_seen_while_the_file_is_written_is_written_next(tmp_path: Path) -> None:
    one, two = KnownNumbers(tmp_path / "numbers"), KnownNumbers(tmp_path / "numbers")
    one.note(ISSUING, FULL, 7)
    writing = Deferred.fromCoroutine(one.share_news())
    one.note(ISSUING, FULL, 8)
    await writing
    await one.share_news()
    await two.share()
    assert two.highest(ISSUING, FULL) == 8


@pytest.mark.parametrize("left", ['{"ab": 1', "[1]", '{"ab": "x", "cd": -1}', "", "\x00" * 9])
async def test_half_a_file_is_written_anew(tmp_path: Path, left: str) -> None:
    file = tmp_path / "numbers"
    file.write_text(left)
    one, two = KnownNumbers(file), KnownNumbers(file)
    one.note(ISSUING, FULL, 7)
    await one.share_news()
    await two.share()
    assert two.highest(ISSUING, FULL) == 7


async def test_a_place_that_cannot_be_written_holds_nothing_up(tmp_path: Path) -> None:
    one = KnownNumbers(tmp_path / "nowhere" / "numbers")
    one.note(ISSUING, FULL, 7)
    await one.share_news()
    assert one.highest(ISSUING, FULL) == 7


async def test_each_scope_has_a_sequence_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "numbers"
    one, two = KnownNumbers(file), KnownNumbers(file)
    one.note(ISSUING, FULL, 900)
    await one.share_news()
    two.note(ISSUING, "users", 41)
    await two.share()
    assert two.beyond(ISSUING, {FULL: 900, "users": 41}, 0) == 0
    assert two.beyond(ISSUING, {FULL: 900, "users": 40}, 0) == 41
    assert two.beyond(ISSUING, {FULL: 900}, 0) == 41, "a list that began after the backup"
    assert two.beyond(ISSUING, {FULL: 899, "users": 40}, 0) == 900
    assert two.beyond(ISSUING, {FULL: 899, "users": 40}, 900) == 0
    assert two.beyond(ROOT, {}, 0) == 0


async def test_a_file_of_an_earlier_version_counts(tmp_path: Path) -> None:
    """It has one number for each name."""
    file = tmp_path / "numbers"
    file.write_text(json.dumps({hashlib.sha256(ISSUING).hexdigest(): 7}))
    one = KnownNumbers(file)
    one.note(ISSUING, FULL, 3)
    await one.share()
    assert one.beyond(ISSUING, {FULL: 3, "users": 6}, 0) == 7
    assert one.beyond(ISSUING, {FULL: 3, "users": 7}, 0) == 0
