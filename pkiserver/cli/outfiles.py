"""Files that commands write: in one step, never over what must stay, and with a word about what is gone."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click

from pkiserver.cli.output import Output


def write_file(output: Output, path: Path, octets: bytes) -> None:
    """Write a file that everybody may read, in one step: readers see the old one or the new one.

    A link stays, and what it leads to is written; so does a device or a pipe, such as ``/dev/stdout``.

    Args:
        output: Where it is said that something else was there.
        path: The file.
        octets: All of it.

    Raises:
        OSError: it cannot be written; what was there is there still.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(octets)
        return
    target = path.resolve()
    other = target.exists() and target.read_bytes() != octets
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            file.write(octets)
        beside.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        # whoever reads this has never heard of the file beside
        raise OSError(error.errno, error.strerror, str(path)) from error
    if other:
        output.note(f"{path} was there already and has been replaced")


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that only its owner reads and that was not there before; none is left where nothing was written.

    Raises:
        click.ClickException: it exists, or cannot be made.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise click.ClickException(f"{path} exists already") from None
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from error
    whole = False
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            whole = file.tell() > 0
    finally:
        if not whole:
            path.unlink(missing_ok=True)
