"""What somebody types: secrets, and yes. Where nobody is there, the option that would have said it is named."""

from __future__ import annotations

import sys

import click


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
    click.confirm(question, abort=True, err=True)
