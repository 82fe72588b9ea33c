"""The directories that the address book publishes to: how they stand, what differs, full resynchronisation."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from pkiserver.cli.context import Session

if TYPE_CHECKING:
    from pkiserver.publication.outward.comparing import DirectoryComparison, Progress
    from pkiserver.publication.outward.entries import Comparison
    from pkiserver.runtime.engine import Engine

_EVERY = 1000
"""Addresses or entries from one word about the progress to the next."""
_SHOWN = 20


async def show_targets(session: Session, engine: Engine) -> None:
    """How every target stands, and for some subjects why it did not take them."""
    from pkiserver.store.publication import outward

    keys = [one.key for one in engine.directories.list()] + [one.key for one in engine.copies.bearers()]
    now = engine.clock.now()
    rows = []
    for key in keys:
        standing, refused = await engine.database.read(
            lambda connection, key=key: (  # type: ignore[misc]
                outward.standing(connection, key, now=now),
                outward.problems(connection, key, after="", limit=_SHOWN),
            )
        )
        rows.append(
            {
                "target": key,
                "waiting": standing.waiting,
                "refused": standing.refused,
                "failed": standing.attempts,
                "problem": standing.problem,
                "examples": tuple(f"{subject}: {why}" for subject, why in refused),
            }
        )
    for problem in engine.directories.problems():
        session.output.note(f"not usable: {problem.text}")
    session.output.table(rows, empty="nothing is published outwards; pkiserver apply adds directories")


async def compare_directory(session: Session, engine: Engine, name: str) -> None:
    """The difference report; exit code 1 where there is a difference."""
    comparison = _comparison(session, engine, name)
    with _reachable(name):
        rows = [_row(one) async for one in comparison.differences()]
    session.output.table(rows, empty="no differences")
    _say(session, comparison.progress)
    if rows:
        raise click.exceptions.Exit(1)


async def resync_directory(session: Session, engine: Engine, name: str) -> None:
    """Make the whole directory as it should be; exit code 1 where something could not be."""
    from pkiserver.authority.status.turns import Turns

    comparison = _comparison(session, engine, name)
    turns = Turns(engine.database, engine.clock, f"{engine.settings.node}/resync/{os.getpid()}")
    with _reachable(name):
        failed = [_row(one) async for one in comparison.resync(turns)]
    done = comparison.progress
    for one in failed:
        session.output.note(f"{one['address'] or one['entry']}: {one['problem']}")
    session.output.done(
        f"{done.addresses} addresses and {done.entries} entries looked at, {done.mended} mended, {len(failed)} not",
        addresses=done.addresses,
        entries=done.entries,
        mended=done.mended,
        failed=failed,
    )
    if failed:
        raise click.exceptions.Exit(1)


@contextmanager
def _reachable(name: str) -> Iterator[None]:
    from pkiserver.authority.delivery.queue import TargetDown
    from pkiserver.foundation.errors import Unavailable

    try:
        yield
    except TargetDown as error:
        raise Unavailable(f"directory {name}: {error}", retry_after=60) from error


def _comparison(session: Session, engine: Engine, name: str) -> DirectoryComparison:
    from pkiserver.publication.outward.comparing import DirectoryComparison

    last = 0

    def seen(progress: Progress) -> None:
        nonlocal last
        count = progress.addresses + progress.entries
        if count // _EVERY > last // _EVERY:
            _say(session, progress)
        last = count

    return DirectoryComparison(engine.directories.get(name), engine.database, seen=seen)


def _say(session: Session, progress: Progress) -> None:
    session.output.note(
        f"{progress.addresses} addresses, {progress.entries} entries looked at; {progress.differences} differences"
    )


def _row(one: Comparison) -> dict[str, object]:
    return {
        "address": one.address,
        "entry": one.dn,
        "missing": _digests(one.missing),
        "surplus": _digests(one.wanted.surplus),
        "smime_missing": len(one.missing_smime),
        "smime_surplus": len(one.wanted.smime_surplus),
        "problem": one.problem,
    }


def _digests(ders: tuple[bytes, ...]) -> tuple[str, ...]:
    return tuple(hashlib.sha256(der).hexdigest() for der in ders)
