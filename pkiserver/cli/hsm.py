"""``pkiserver hsm``: what the tokens are, and how fast they sign."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pkiserver.cli.context import Session, async_command, reactor_command

if TYPE_CHECKING:
    from pkiserver.runtime.engine import Engine


@click.group()
def group() -> None:
    """Tokens: what they are and how fast they sign."""


@group.command()
@click.option("--mechanisms", is_flag=True, help="List what each token can do.")
@reactor_command
async def info(session: Session, mechanisms: bool) -> None:
    """Each configured token: module, label, state. Needs no database; logs in once, as the server does."""
    from pkiserver.keys.providers import Providers

    providers = Providers()
    try:
        await providers.open(session.settings().key_store)
        tokens, problems = await providers.tokens(), providers.problems()
    finally:
        await providers.close()
    rows = [
        {
            "name": token.name,
            "label": token.label,
            "serial": token.serial,
            "model": f"{token.manufacturer} {token.model}",
            "module": token.module,
            "library": token.library,
            "threads": token.threads,
            "state": "ready" if token.problem is None else token.problem.text,
            **({"mechanisms": token.mechanisms} if mechanisms else {}),
        }
        for token in tokens
    ]
    session.output.table(rows, empty="no token is configured")
    for problem in problems:
        if problem.name not in {token.name for token in tokens}:
            session.output.note(str(problem))


@group.command()
@click.argument("names", metavar="[KEY]...", nargs=-1)
@click.option("--seconds", type=click.FloatRange(0.1, 600), default=2.0, show_default=True, help="For each key.")
@async_command
async def bench(session: Session, engine: Engine, names: tuple[str, ...], seconds: float) -> None:
    """Sign in a loop, one after the other, with the given keys (all that are ready by default)."""
    chosen = names or tuple(info.name for info in engine.keys.list() if info.ready)
    rows = []
    with session.output.progress("signing", total=len(chosen)) as advance:
        for name in chosen:
            result = await engine.keys.bench(name, seconds)
            rows.append(
                {
                    "key": name,
                    "type": str(result.key_type),
                    "signatures_per_s": round(result.per_second),
                    "median_ms": round(result.median * 1000, 3),
                    "p99_ms": round(result.p99 * 1000, 3),
                    "signs_in_place": result.in_place,
                }
            )
            advance()
    session.output.table(rows, empty="no key is ready")
