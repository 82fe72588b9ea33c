"""``pkiserver doctor``: look at the whole installation and say what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pkiserver.cli.context import Session, run_on_reactor
from pkiserver.cli.diagnosis import Result, bad, check_disk, check_files, check_node, check_tls, is_green
from pkiserver.foundation.errors import PkiError, Rejected
from pkiserver.foundation.tomlfile import ConfigurationError

if TYPE_CHECKING:
    from pkiserver.runtime.config import NodeSettings

_STATES = {"ok": "ok", "warning": "LOOK", "failed": "BAD"}


@click.command("doctor")
@click.pass_obj
def command(session: Session) -> None:
    """Check configuration, files, disk, TLS, database, keys, authorities, CRLs and URLs.

    Exit code 0 only when nothing needs anybody; every other line says what to do.
    """
    path = session.config_path()
    try:
        settings = session.settings()
    except ConfigurationError as error:
        _show(session, [bad("configuration", str(problem), "correct this line") for problem in error.problems])
        raise click.exceptions.Exit(1) from None
    from pkiserver.foundation.clock import SystemClock

    results = [*check_files(path, settings), *check_disk(settings), *check_tls(settings, SystemClock().now())]
    with session.output.progress("asking the engine"):
        results += run_on_reactor(lambda: _ask_engine(settings))
    _show(session, results)
    if not is_green(results):
        raise click.exceptions.Exit(1)


async def _ask_engine(settings: NodeSettings) -> list[Result]:
    from twisted.internet.threads import deferToThread

    from pkiserver.cli.diagnosis_engine import check_engine
    from pkiserver.runtime.engine import open_engine

    results: list[Result] = list(await deferToThread(lambda: list(check_node(settings))))
    try:
        async with open_engine(settings, worker="doctor") as engine:
            results += [result async for result in check_engine(engine)]
    except Rejected as error:
        results += [bad("engine", reason.text, "see `pkiserver database upgrade`") for reason in error.reasons]
    except PkiError as error:
        results.append(bad("engine", str(error), "is the database running, and can this account reach it?"))
    return results


def _show(session: Session, results: list[Result]) -> None:
    if session.json:
        session.output.record(
            {
                "green": is_green(results),
                "results": [{"name": r.name, "health": r.health, "text": r.text, "advice": r.advice} for r in results],
            }
        )
        return
    session.output.table(
        {
            "": _STATES[result.health.value],
            "what": result.name,
            "found": result.text if result.advice is None else f"{result.text}\n-> {result.advice}",
        }
        for result in results
    )
    wrong = [result for result in results if result.advice is not None]
    session.output.message("\nAll is well." if is_green(results) else f"\n{len(wrong)} thing(s) need you.")
