"""Secrets that somebody types; where nobody is there, the option that would have given them is named."""

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
