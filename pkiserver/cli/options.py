"""Arguments and options that several commands have: the same thing has the same name and limit everywhere."""

from __future__ import annotations

from pathlib import Path

import click

IN_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
OUT_FILE = click.Path(path_type=Path, dir_okay=False)

file_argument = click.argument("file", type=IN_FILE)
NUMBER = click.IntRange(0, 2**63 - 1)
"""What the database numbers: requests, operations, seats, codes."""

number_argument = click.argument("number", type=NUMBER)
password_option = click.option("--password-file", type=IN_FILE, help="Read the password from here.")

after_option = click.option("--after", default="", metavar="NAME", help="Go on after this name.")
before_option = click.option("--before", type=NUMBER, metavar="NUMBER", help="Go on below this number.")
limit_option = click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="Rows.")
