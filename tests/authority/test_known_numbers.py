"""CRL numbers are remembered beside the database, by all processes of a node, through whatever happens to the file."""

from __future__ import annotations

import fcntl
import hashlib
import json
import resource
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from pkiserver.authority.status import knownnumbers
from pkiserver.authority.status.knownnumbers import KnownNumbers
from pkiserver.runtime.health import Health
from pkiserver.runtime.services.checks import numbers_check
from tests.authority.status_world import StatusWorld, build

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


async def test_a_place_that_cannot_be_written_holds_nothing_up_and_is_told(tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "numbers"
    one, two = KnownNumbers(file), KnownNumbers(file)
    one.note(ISSUING, FULL, 7)
    await one.share_news()
    assert one.highest(ISSUING, FULL) == 7
    assert one.problem == f"{file}: No such file or directory"
    file.parent.mkdir()
    await one.share_news()
    assert one.problem == ""
    await two.share()
    assert two.highest(ISSUING, FULL) == 7, "written once it could be, though nothing new was seen"


async def test_a_process_that_stands_still_with_the_file_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knownnumbers, "LOCK_SECONDS", 0.05)
    file = tmp_path / "numbers"
    one = KnownNumbers(file)
    one.note(ISSUING, FULL, 7)
    with file.open("wb") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        await one.share_news()
        assert one.problem == f"{file}: Resource temporarily unavailable"
    await one.share_news()
    assert one.problem == ""


async def test_a_full_disk_leaves_what_the_file_had(tmp_path: Path) -> None:
    file = tmp_path / "numbers"
    one, two = KnownNumbers(file), KnownNumbers(file)
    one.note(ISSUING, FULL, 7)
    await one.share_news()
    before, usual = file.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    one.note(ISSUING, FULL, 8)
    one.note(ROOT, FULL, 8)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, usual[1]))
    try:
        await one.share_news()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert one.problem == f"{file}: File too large"
    assert file.read_bytes() == before
    await two.share()
    assert two.highest(ISSUING, FULL) == 7


async def test_numbers_in_a_file_that_cannot_be_read_at_first_are_passed_later(at: StatusWorld, tmp_path: Path) -> None:
    file = tmp_path / "numbers"
    seen = KnownNumbers(file)
    seen.note(at.issuing.subject_der, FULL, 40)
    await seen.share()
    file.rename(tmp_path / "away")
    file.mkdir()
    status = build(at.world, at.clock, "restored", numbers=file)
    assert {one.number for one in await status.schedule.run_due()} == {1}
    [found] = await numbers_check(status.numbers).run()
    assert (found.health, found.text) == (Health.WARNING, f"not kept beside the database: {file}: Is a directory")
    file.rmdir()
    (tmp_path / "away").rename(file)
    await status.schedule.run_due()
    [found] = await numbers_check(status.numbers).run()
    assert found.health is Health.OK
    made = await status.schedule.issue_now(at.issuing, at.issuing.current, actor="tester")
    assert made.number > 40


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
