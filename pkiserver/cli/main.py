"""The ``pkiserver`` command: finds the sub-command's module, loads only that, and turns errors into exit codes.

A room adds a command by a module ``pkiserver/cli/<name>.py`` with a click object named ``command`` (or ``group``) and
a line in :data:`REGISTRY`. The registry knows each name's help line, so that ``--help`` and completion load nothing.

Exit codes: 0 done; 1 refused, every reason on a line of its own; 2 wrong usage; 70 an internal error (written to a
report file, which the message names); 75 something needed is away, try again later; 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Mapping
from io import TextIOWrapper
from typing import NoReturn

import attrs
import click

from pkiserver.cli.context import Session, add_common_options, common_options
from pkiserver.cli.failures import exit_code_of, readers_may_leave
from pkiserver.runtime.garbage import leave, settle


@attrs.frozen
class Entry:
    """Where a command lives (a module of :mod:`pkiserver.cli`) and its line in the help."""

    module: str
    help: str


REGISTRY: Mapping[str, Entry] = {
    "account": Entry("account", "Accounts that may enrol with a password."),
    "addressbook": Entry("addressbook", "The S/MIME address book: what mail clients find."),
    "admin": Entry("admin", "Administrators of the management API."),
    "apply": Entry("apply", "Make the database as these TOML files say, after showing the difference."),
    "audit": Entry("audit", "Verify, export and follow the audit log."),
    "ca": Entry("ca", "Certification authorities: create, import, renew, rekey, sign offline."),
    "cert": Entry("cert", "Certificates: search, show, revoke, hold, release."),
    "completion": Entry("completion", "Print the completion script of a shell."),
    "connector": Entry("connector", "Connectors to directories and the like: list, show, check."),
    "config": Entry("config", "Check a node configuration, or print a commented one."),
    "crl": Entry("crl", "Certificate revocation lists: issue, list, show, sign, import."),
    "database": Entry("database", "Create, upgrade, look at or back up the database."),
    "doctor": Entry("doctor", "Check the whole installation and say what to do."),
    "enroll-code": Entry("enroll_code", "One-time enrolment codes."),
    "export": Entry("export", "Write the database's configuration objects as TOML."),
    "hsm": Entry("hsm", "Tokens: what they are and how fast they sign."),
    "key": Entry("key", "Keys: generate, list, show, test, delete, import."),
    "operation": Entry("operation", "What nobody does alone: ask, approve, deny."),
    "quickstart": Entry("quickstart", "Set up a token, two CAs and a configuration, and start the server."),
    "request": Entry("request", "Enrolment requests that wait for a decision."),
    "responder": Entry("responder", "OCSP responders for CAs that are not ours: csr, install, feeds."),
    "timestamp": Entry("timestamp", "Time-stamps: units, requests, tokens, the log of tokens."),
    "scep": Entry("scep", "SCEP: templates, registration authorities, static challenges."),
    "seat": Entry("seat", "Seats: one identity under one template, its devices and certificates."),
    "template": Entry("template", "Certificate templates: list, show, test."),
}


class LazyGroup(click.Group):
    """A group whose members are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """The names of all commands."""
        return sorted(REGISTRY)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's signature
        """Import the module of ``cmd_name`` and take its command."""
        if cmd_name not in REGISTRY:
            return None
        module = importlib.import_module(f"pkiserver.cli.{REGISTRY[cmd_name].module}")
        command = getattr(module, "command", None) or module.group
        assert isinstance(command, click.Command)
        add_common_options(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, which looks for what may be meant among the commands that are loaded."""
        if args[0] not in REGISTRY and not ctx.resilient_parsing:
            from difflib import get_close_matches

            if near := get_close_matches(args[0], REGISTRY, n=1):
                raise click.UsageError(f"No such command {args[0]!r}. Did you mean {near[0]!r}?", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        with readers_may_leave():
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command list, from the registry alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, REGISTRY[name].help) for name in self.list_commands(ctx)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[click.shell_completion.CompletionItem]:
        """Complete a command name or option, from the registry alone."""
        from click.shell_completion import CompletionItem

        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        items = [CompletionItem(name, help=REGISTRY[name].help) for name in names]
        return items + click.Command.shell_complete(self, ctx, incomplete)


def _show_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"pkiserver {version('pkiserver')}")
    ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="The version.")
@common_options
@click.pass_context
def cli(ctx: click.Context) -> None:
    """One certificate server: EST, OCSP, CRL and more over one signing core.

    Every command takes --config FILE and --json. Without --config, $PKISERVER_CONFIG names the configuration; else
    instance/pkiserver.toml under the current directory; else /etc/pkiserver/pkiserver.toml.
    """
    ctx.ensure_object(Session)


def run(arguments: list[str] | None = None) -> int:
    """Run one command line; returns the exit code, never raises."""
    session = Session()
    try:
        _refuse_no_text(sys.argv[1:] if arguments is None else arguments)
        result = cli.main(arguments, prog_name="pkiserver", standalone_mode=False, obj=session)
        sys.stdout.flush()  # here, where it can be told that there is no room for it
    except BaseException as error:  # noqa: BLE001  # the outermost frame: everything becomes an exit code
        return exit_code_of(error, as_json=session.json)
    return result if isinstance(result, int) else 0


def _refuse_no_text(arguments: list[str]) -> None:
    """Octets of the command line that are no UTF-8 can be written to no database, log or file of ours."""
    for one in arguments:
        try:
            one.encode()
        except UnicodeEncodeError:
            raise click.UsageError(f"{one!a} is no UTF-8 text") from None


def _fill_standard_streams() -> None:
    """Give descriptors 0, 1 and 2 to nothing where whoever started us closed them.

    The next file that is opened would get the number: what is printed would go into the database.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)
    sys.stdin, sys.stdout, sys.stderr = (
        stream if stream is not None else open(number, mode, closefd=False, encoding="utf-8")  # noqa: SIM115 - for the whole process
        for number, (stream, mode) in enumerate(((sys.stdin, "r"), (sys.stdout, "w"), (sys.stderr, "w")))
    )


def main() -> NoReturn:
    """The console script."""
    _fill_standard_streams()
    if isinstance(sys.stdout, TextIOWrapper):  # where the locale lacks a letter of somebody's name
        sys.stdout.reconfigure(errors="backslashreplace")
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # from here on it is an exception like others
        signal.signal(signal.SIGINT, signal.default_int_handler)
    settle()  # a command mostly loads modules, and looking for garbage meanwhile takes a seventh of its time
    code = run()
    leave()
    sys.exit(code)
