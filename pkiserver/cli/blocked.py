"""``pkiserver key block | unblock | blocked``: the list of public keys that nobody may have certified."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import click

from pkiserver.cli.context import Session, async_command
from pkiserver.cli.selectors import parse_digest

if TYPE_CHECKING:
    from pkiserver.authority.checks.blocking import Blocking
    from pkiserver.runtime.engine import Engine


def _blocking(engine: Engine) -> Blocking:
    from pkiserver.authority.checks.blocking import Blocking

    return Blocking(engine.database, engine.audit, engine.clock)


@click.command()
@click.argument("file", type=click.File("rb"))
@click.option("--why", required=True, help="Why, for whoever wonders later.")
@async_command
async def block(session: Session, engine: Engine, *, file: BinaryIO, why: str) -> None:
    """Block public keys: a list of SHA-256 digests of SubjectPublicKeyInfo, or PEM keys or certificates."""
    from pkiserver.authority.checks.blocking import read_list
    from pkiserver.cli.voting import who

    digests = read_list(file.read())
    with session.output.progress(f"blocking {len(digests)} keys"):
        count = await _blocking(engine).block(digests, why=why, actor=who())
    session.output.done(f"{count} keys are blocked", count=count)


@click.command()
@click.argument("digest")
@async_command
async def unblock(session: Session, engine: Engine, digest: str) -> None:
    """Take a key off the list, by its SHA-256 digest."""
    from pkiserver.cli.voting import who

    octets = parse_digest(digest)
    await _blocking(engine).unblock(octets, actor=who())
    session.output.done(f"key {octets.hex()} may be certified again", key=octets.hex())


@click.command()
@click.option("--after", default="", metavar="DIGEST", help="Go on after this one.")
@click.option("--limit", type=click.IntRange(1, 10000), default=100, show_default=True, help="Rows.")
@async_command
async def blocked(session: Session, engine: Engine, *, after: str, limit: int) -> None:
    """List blocked keys, by digest."""
    from pkiserver.store.certificates import blocked_keys

    start = parse_digest(after) if after else b""
    found = await engine.database.read(lambda connection: blocked_keys.list_page(connection, after=start, limit=limit))
    rows = [{"key": one.spki_sha256.hex(), "why": one.why, "added": one.added} for one in found]
    session.output.table(rows, empty="no blocked keys")
