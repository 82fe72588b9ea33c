"""CRL numbers are remembered beside the database, by all processes of a node, through whatever happens to the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from pkiserver.authority.status.knownnumbers import KnownNumbers

ROOT, ISSUING = b"root", b"issuing"


async def test_what_one_process_saw_the_next_one_knows(tmp_path: Path) -> None:
    file = tmp_path / "numbers"
    one, two = KnownNumbers(file), KnownNumbers(file)
    one.note(ISSUING, 7)
    one.note(ISSUING, 5)
    two.note(ROOT, 3)
    await one.share_news()
    await two.share_news()
    assert (two.highest(ISSUING), two.highest(ROOT)) == (7, 3)
    two.note(ISSUING, 6)
    await two.share()
    await one.share()
    assert (one.highest(ISSUING), one.highest(ROOT), one.highest(b"another")) == (7, 3, 0)
    assert file.stat().st_mode & 0o777 == 0o600


async def test_what_is_seen_while_the_file_is_written_is_written_next(tmp_path: Path) -> None:
    one, two = KnownNumbers(tmp_path / "numbers"), KnownNumbers(tmp_path / "numbers")
    one.note(ISSUING, 7)
    writing = Deferred.fromCoroutine(one.share_news())
    one.note(ISSUING, 8)
    await writing
    await one.share_news()
    await two.share()
    assert two.highest(ISSUING) == 8


@pytest.mark.parametrize("left", ['{"ab": 1', "[1]", '{"ab": "x", "cd": -1}', "", "\x00" * 9])
async def test_half_a_file_is_written_anew(tmp_path: Path, left: str) -> None:
    file = tmp_path / "numbers"
    file.write_text(left)
    one, two = KnownNumbers(file), KnownNumbers(file)
    one.note(ISSUING, 7)
    await one.share_news()
    await two.share()
    assert two.highest(ISSUING) == 7


async def test_a_place_that_cannot_be_written_holds_nothing_up(tmp_path: Path) -> None:
    one = KnownNumbers(tmp_path / "nowhere" / "numbers")
    one.note(ISSUING, 7)
    await one.share_news()
    assert one.highest(ISSUING) == 7
