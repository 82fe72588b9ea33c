"""What every command is given: the session (which configuration, how to print) and, where wanted, an open engine."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import attrs
import click

from pkiserver.cli.failures import keep_log
from pkiserver.cli.options import OUT_FILE
from pkiserver.cli.output import Output

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from pkiserver.keys.settings import ProviderSettings
    from pkiserver.runtime.config import NodeSettings
    from pkiserver.runtime.engine import Engine
    from pkiserver.store.database import Database

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

CONFIG_VARIABLE = "PKISERVER_CONFIG"
WORKER = "command line"
"""What commands are called where processes are told apart, as in the audit log."""
CONFIG_PLACES = (Path("instance/pkiserver.toml"), Path("/etc/pkiserver/pkiserver.toml"))


@attrs.define
class Session:
    """One run of the command line.

    ``config`` is what ``--config`` said. ``actor`` is who acts, where an administrator showed a file; ``matter`` is
    what a vote is on.
    """

    config: Path | None = None
    json: bool = False
    actor: str | None = None
    matter: str | None = None

    @property
    def output(self) -> Output:
        """Where results go: tables for people, or JSON."""
        return Output(json=self.json)

    def config_path(self) -> Path:
        """The configuration file to use: ``--config``, ``$PKISERVER_CONFIG``, or the first usual place that exists.

        Raises:
            click.UsageError: there is none.
        """
        if self.config is not None:
            return self.config
        if named := os.environ.get(CONFIG_VARIABLE):
            return Path(named)
        for place in CONFIG_PLACES:
            if place.exists():
                return place
        places = " and ".join(str(place) for place in CONFIG_PLACES)
        raise click.UsageError(f"no configuration: give --config FILE or set {CONFIG_VARIABLE} ({places} do not exist)")

    def settings(self) -> NodeSettings:
        """The checked node settings.

        Raises:
            ConfigurationError: with every problem of the file.
        """
        from pkiserver.runtime.configfile import load_settings

        return load_settings(self.config_path())

    def key_stores(self) -> tuple[ProviderSettings, ...]:
        """The key stores alone, of a file that may have nothing else.

        Raises:
            ConfigurationError: with every problem of the file.
        """
        from pkiserver.runtime.configfile import load_key_stores

        return load_key_stores(self.config_path())


def _set_config(ctx: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
    if value is not None:
        ctx.ensure_object(Session).config = value


def _set_json(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Session).json = True


def _common() -> list[click.Option]:
    return [
        click.Option(
            ["--config"],
            type=OUT_FILE,
            metavar="FILE",
            expose_value=False,
            is_eager=True,
            callback=_set_config,
            help="The node configuration (TOML).",
        ),
        click.Option(
            ["--json"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_set_json,
            help="Print JSON instead of tables.",
        ),
    ]


def common_options(function: F) -> F:
    """Decorator for a click callback: ``--config`` and ``--json``."""
    parameters: list[click.Parameter] = getattr(function, "__click_params__", [])
    parameters.extend(reversed(_common()))
    function.__click_params__ = parameters  # type: ignore[attr-defined]  # how click itself keeps them
    return function


def add_common_options(command: click.Command) -> None:
    """Give ``--config`` and ``--json`` to a command and all below it, so that they may stand anywhere on the line."""
    taken = {option for parameter in command.params for option in parameter.opts}
    command.params.extend(option for option in _common() if not taken.intersection(option.opts))
    if isinstance(command, click.Group):
        for name in command.commands:
            add_common_options(command.commands[name])


@attrs.define
class _Progress:
    """How far a command is: what it writes into, and whether all that is left is to close it."""

    database: Database | None = None
    done: bool = False

    @property
    def is_writing(self) -> bool:
        return self.database is not None and self.database.is_writing

    async def written(self) -> None:
        if self.database is not None:
            await self.database.written()


def run_on_reactor(main: Callable[[], Coroutine[Any, Any, T]], progress: _Progress | None = None) -> T:
    """Run a coroutine on the reactor, which can be done once in a process, and return its result.

    Ctrl-C and SIGTERM cancel it: it closes what it opened, whose threads would keep the process for ever. Not in the
    middle of a write to the database, which would be done all the same, nor once it is ``done``. A second one ends the
    process at once.

    Raises:
        click.Abort: that happened before the coroutine ended.
    """
    from twisted.internet.defer import CancelledError
    from twisted.internet.task import react

    results: list[T] = []
    errors: list[BaseException] = []

    async def guarded() -> None:
        try:
            results.append(await main())
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001  # raised again below, outside the reactor
            errors.append(error)

    keep_log()
    # react always ends in SystemExit; the outcome is in the lists
    with contextlib.suppress(SystemExit):
        react(lambda reactor: _cancelled_by_signals(reactor, guarded(), progress or _Progress()))
    if errors and isinstance(errors[0], CancelledError):
        raise click.Abort
    if errors:
        raise errors[0]
    if not results:
        raise click.Abort
    return results[0]


def _cancelled_by_signals(reactor: Any, work: Coroutine[Any, Any, None], progress: _Progress) -> Deferred[None]:
    """Run a coroutine; where the reactor is to stop before its end, cancel it, and let the reactor wait for the end."""
    from twisted.internet.defer import Deferred

    task, ended = Deferred.fromCoroutine(work), Deferred[None]()
    task.addBoth(lambda _: ended.callback(None))

    def interrupted() -> Deferred[None]:
        if not ended.called:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            Deferred.fromCoroutine(cancel())
        return ended

    async def cancel() -> None:
        if progress.is_writing:
            click.echo("finishing what is being written; Ctrl-C once more gives it up", err=True)
        await progress.written()
        if not progress.done:
            task.cancel()

    reactor.addSystemEventTrigger("before", "shutdown", interrupted)
    return task


async def sleep(seconds: float) -> None:
    """Return after that time."""
    from twisted.internet import reactor
    from twisted.internet.task import deferLater

    await deferLater(reactor, seconds)


def reactor_command(function: Callable[Concatenate[Session, P], Awaitable[None]]) -> Callable[P, None]:
    """Decorator (below click's): the coroutine function is called as ``f(session, **options)`` on the reactor."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        session = click.get_current_context().ensure_object(Session)

        async def main() -> None:
            await function(session, *args, **kwargs)

        run_on_reactor(main)

    return wrapper


def async_command(function: Callable[Concatenate[Session, Engine, P], Awaitable[None]]) -> Callable[P, None]:
    """Decorator (below click's): as :func:`reactor_command`, with the engine that the configuration describes opened.

    The coroutine function is called as ``f(session, engine, **options)``; the engine is closed after it. Where somebody
    wanted what they may not, the audit log has it::

        @group.command("list")
        @click.option("--state")
        @async_command
        async def list_(session: Session, engine: Engine, state: str | None) -> None:
            session.output.table([{"name": ...}])
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        session = click.get_current_context().ensure_object(Session)
        settings, progress = session.settings(), _Progress()

        async def main() -> None:
            from pkiserver.cli.voting import refusals_audited
            from pkiserver.runtime.engine import open_engine

            async with open_engine(settings, worker=WORKER, serving=False) as engine, refusals_audited(session, engine):
                progress.database = engine.database
                await function(session, engine, *args, **kwargs)
                progress.done = True

        run_on_reactor(main, progress)

    return wrapper
