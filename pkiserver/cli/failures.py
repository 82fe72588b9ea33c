"""Errors of a command as lines on stderr and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from pkiserver.foundation.errors import PkiError, Rejected, Unavailable

KEPT_LOG_LINES = 200
_kept_log: deque[str] = deque(maxlen=KEPT_LOG_LINES)

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

EXIT_REJECTED = 1
EXIT_DEFECT = 70
EXIT_UNAVAILABLE = 75
EXIT_INTERRUPTED = 130


class ReaderLeft(Exception):
    """Whoever read what the command prints went away."""


def exit_code_of(error: BaseException, *, as_json: bool) -> int:
    """Say on stderr what went wrong, one clean line per reason; or, ``as_json``, all of it as one JSON object."""
    if isinstance(error, ReaderLeft | BrokenPipeError):
        # not our failure (`pkiserver cert list | head`), and stdout must not be flushed again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else EXIT_REJECTED
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.Abort | KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    if isinstance(error, click.ClickException) and not as_json:
        error.show()
        return error.exit_code
    return _report(error, as_json=as_json)


@contextmanager
def readers_may_leave() -> Iterator[None]:
    """Say of a reader that went away what it is, before click makes an exit code of its own of it, as rich does.

    Raises:
        ReaderLeft: it went away.
    """
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderLeft from error
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):
            raise ReaderLeft from error
        raise


def _report(error: BaseException, *, as_json: bool) -> int:
    if isinstance(error, Rejected):
        lines = [reason.text for reason in error.reasons]
        codes = [str(reason.code) for reason in error.reasons]
        code = EXIT_REJECTED
    elif isinstance(error, Unavailable):
        from pkiserver.store.failures import told_in_full

        lines, codes, code = [f"not available now: {told_in_full(error)}"], ["unavailable"], EXIT_UNAVAILABLE
    elif isinstance(error, click.ClickException):
        kind = "command-line" if isinstance(error, click.UsageError) else "refused"
        lines, codes, code = [error.format_message()], [kind], error.exit_code
    elif isinstance(error, OSError) and (error.filename is not None or error.errno in _NO_ROOM):
        # a file that cannot be read or written, or standard output on a disk that is full
        lines = [f"{error.filename or 'the output'}: {error.strerror}"]
        codes, code = ["file"], EXIT_REJECTED
    else:
        kind = f": {error}" if isinstance(error, PkiError) else ""
        lines = [f"internal error{kind}; the report is in {_write_report(error)}"]
        codes, code = ["internal-error"], EXIT_DEFECT
    if as_json:
        import json

        reasons = [{"code": name, "text": text} for name, text in zip(codes, lines, strict=True)]
        click.echo(json.dumps({"error": reasons, "exit_code": code}), err=True)
    else:
        from pkiserver.cli.output import printable

        for line in lines:
            click.echo(click.style("error: ", fg="red") + printable(line), err=True)
    return code


def keep_log() -> None:
    """Keep what the reactor logs out of the terminal; its last lines go into the report if the command fails."""
    from twisted.logger import ILogObserver, LogEvent, eventAsText, globalLogBeginner
    from zope.interface import provider

    @provider(ILogObserver)
    def keep(event: LogEvent) -> None:
        _kept_log.append(eventAsText(event))

    globalLogBeginner.beginLoggingTo([keep], discardBuffer=False, redirectStandardIO=False)


def _write_report(error: BaseException) -> Path:
    """The traceback in a private file of its own: it may name things that do not belong on a shared screen."""
    handle, name = tempfile.mkstemp(prefix="pkiserver-report-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write("".join(traceback.format_exception(error)))
        file.write("\nThe log before it:\n" + "\n".join(_kept_log) + "\n")
    return Path(name)
