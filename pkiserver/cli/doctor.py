"""``pkiserver doctor``: look at the whole installation and say what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pkiserver.cli.context import Session, run_on_reactor
from pkiserver.cli.diagnosis import Result, bad, check_disk, check_files, check_node, check_tls, is_green
from pkiserver.foundation.errors import PkiError, Rejected
from pkiserver.foundation.tomlfile import ConfigurationError
from pkiserver.runtime.health import Health

if TYPE_CHECKING:
    from pkiserver.runtime.config import NodeSettings

_STATES = {"ok": "ok", "warning": "LOOK", "failed": "BAD"}


@click.command("doctor")
@click.option("--strict", is_flag=True, help="Exit code 1 also for what works but should be looked at.")
@click.pass_obj
def command(session: Session, strict: bool) -> None:
    """Check configuration, files, disk, TLS, database, keys, authorities, CRLs and URLs.

    Exit code 0 when everything works; every line that is not "ok" says what to do.
    """
    path = session.config_path()
    try:
        settings = session.settings()
    except ConfigurationError as error:
        _show(session, [bad("configuration", str(problem), "correct this line") for problem in error.problems], strict)
        raise click.exceptions.Exit(1) from None
    from pkiserver.foundation.clock import SystemClock

    results = [*check_files(path, settings), *check_disk(settings), *check_tls(settings, SystemClock().now())]
    with session.output.progress("asking the engine"):
        results += run_on_reactor(lambda: _ask_engine(settings))
    _show(session, results, strict)
    if not is_green(results, strict=strict):
        raise click.exceptions.Exit(1)


async def _ask_engine(settings: NodeSettings) -> list[Result]:
    from twisted.internet.threads import deferToThread

    from pkiserver.cli.diagnosis_engine import check_engine
    from pkiserver.runtime.engine import open_engine
    from pkiserver.store.failures import told_in_full

    results: list[Result] = list(await deferToThread(lambda: list(check_node(settings))))
    try:
        async with open_engine(settings, worker="doctor", serving=False) as engine:
            results += [result async for result in check_engine(engine)]
    except Rejected as error:
        advice = "see `pkiserver database show`, and docs/operations.md, Restore and Upgrade"
        results += [bad("engine", reason.text, advice) for reason in error.reasons]
    except PkiError as error:
        results.append(bad("engine", told_in_full(error), "is the database running, and can this account reach it?"))
    return results


def _show(session: Session, results: list[Result], strict: bool) -> None:
    if session.json:
        session.output.record(
            {
                "green": is_green(results, strict=strict),
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
    session.output.message(f"\n{_verdict(results)}")


def _verdict(results: list[Result]) -> str:
    broken = sum(result.health is Health.FAILED for result in results)
    doubtful = sum(result.health is Health.WARNING for result in results)
    if broken:
        return f"{broken} thing(s) need you."
    return f"All works; {doubtful} thing(s) should be looked at." if doubtful else "All is well."
