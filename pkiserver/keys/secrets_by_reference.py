"""PINs and passphrases are named in settings, never written there: ``file:``, ``env:`` or ``credential:`` (systemd)."""

from __future__ import annotations

import os
from pathlib import Path

from pkiserver.foundation.secret import Secret

SCHEMES = ("file:/absolute/path", "env:NAME", "credential:NAME")


class SecretUnreadable(Exception):
    """The reference leads nowhere; the text names the reference, never the secret."""


def check_reference(reference: str) -> None:
    """Raise :class:`ValueError` when ``reference`` has none of the allowed forms."""
    scheme, _, rest = reference.partition(":")
    well_formed = bool(rest) and (
        (scheme == "file" and Path(rest).is_absolute())
        or (scheme == "env" and rest.replace("_", "a").isalnum())
        or (scheme == "credential" and "/" not in rest and rest not in {".", ".."})
    )
    if not well_formed:
        raise ValueError(f"must be one of {', '.join(SCHEMES)} (a PIN or passphrase itself is never a setting)")


def read_secret(reference: str) -> Secret:
    """The secret that ``reference`` names, without the one line end that editors add.

    Raises:
        SecretUnreadable: there is no such file, variable or credential, or it is empty.
    """
    check_reference(reference)
    scheme, _, rest = reference.partition(":")
    if scheme == "env":
        value = os.environ.get(rest, "").encode()
        if not value:
            raise SecretUnreadable(f"environment variable {rest} is not set")
        return Secret(value)
    if scheme == "credential":
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if folder is None:
            text = "systemd gave this process no credentials; a command gets them by systemd-run, see operations.md"
            raise SecretUnreadable(f"credential {rest}: {text}")
        path = Path(folder) / rest
    else:
        path = Path(rest)
    try:
        value = path.read_bytes()
    except OSError as error:
        raise SecretUnreadable(f"{path}: {error.strerror}") from error
    value = value.removesuffix(b"\n").removesuffix(b"\r")
    if not value:
        raise SecretUnreadable(f"{path}: is empty")
    return Secret(value)
