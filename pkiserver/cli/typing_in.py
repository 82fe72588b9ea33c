"""What somebody types: secrets, and yes. Where nobody is there, the option that would have said it is named."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end a question: the reactor, which hears of it otherwise, stands still until it is answered."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    usual = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, usual, strict=True):
            signal.signal(number, handler)


def typed(what: str, *, option: str, confirm: bool = False) -> str:
    """A secret from the terminal, not shown; twice where ``confirm``.

    Args:
        what: The prompt.
        option: What gives it without a terminal, for whoever runs this from a script.
        confirm: Ask twice and compare.

    Raises:
        click.UsageError: the input ended, and is no terminal.
    """
    try:
        with interruptible():
            answer = click.prompt(what, hide_input=True, confirmation_prompt=confirm, err=True)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        raise click.UsageError(f"nobody is there to be asked: give {option}") from None
    return str(answer)


def require_yes(question: str, *, yes: bool) -> None:
    """Go on only with consent: ``yes``, given on the command line, or at the terminal.

    Raises:
        click.UsageError: nobody is there to be asked.
        click.Abort: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("nobody is there to be asked: say --yes")
    with interruptible():
        click.confirm(question, abort=True, err=True)
