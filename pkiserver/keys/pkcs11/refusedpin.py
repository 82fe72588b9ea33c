"""The PIN that a token refused, remembered by all processes of a node: each more try brings the token nearer its lock.

A node is several workers, which are started again when they end, and commands beside them. What is kept is a salted,
slow digest of the PIN, in a file that is also the lock under which they log in one by one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pkcs11 import TokenFlag

from pkiserver.foundation.secret import Secret
from pkiserver.keys.pkcs11.library import START_LOCK_SECONDS, take_lock
from pkiserver.keys.settings import TokenSettings

_FAILED_SINCE = TokenFlag.USER_PIN_COUNT_LOW | TokenFlag.USER_PIN_FINAL_TRY | TokenFlag.USER_PIN_LOCKED
"""What a token says of itself from a wrong PIN on until the next right one (PKCS#11 v2.40 base, table 6)."""
_MOST_OCTETS = 4096


class RefusedPin:
    """Whether a token has refused a PIN before."""

    def __init__(self, settings: TokenSettings) -> None:
        self.file: Path | None = settings.refused_pin
        self._name = settings.name
        self._own: Secret | None = None
        self._shown = False
        """The token showed that a PIN was wrong; when it shows that no more, somebody has logged in since."""

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other process of this node log in meanwhile. Blocking.

        Raises:
            KeyUnavailable: START_LOCK; another process keeps the file for too long.
        """
        if self.file is None:
            yield
            return
        try:
            descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            yield  # a place that cannot be written remembers nothing; that must not keep keys away
            return
        try:
            take_lock(descriptor, self._name, self.file, time.monotonic() + START_LOCK_SECONDS)
            yield
        finally:
            os.close(descriptor)

    def stands(self, pin: Secret, token: Any) -> bool:
        """Whether ``pin`` was refused and nothing has changed since: neither the PIN nor, as it shows, the token."""
        kept = self._read()
        known = kept is not None and kept["serial"] == _serial(token) and _matches(kept, pin)
        if not known and pin != self._own:
            return False
        shown = self._shown or (known and kept is not None and kept["shown"] is True)
        return not shown or bool(token.flags & _FAILED_SINCE)

    def note(self, pin: Secret, token: Any) -> None:
        """Remember that ``pin`` was refused; ``token`` as it shows itself afterwards."""
        self._own, self._shown = pin, bool(token.flags & _FAILED_SINCE)
        salt = secrets.token_bytes(16)
        self._write(
            {"serial": _serial(token), "salt": salt.hex(), "digest": _digest(salt, pin).hex(), "shown": self._shown}
        )

    def forget(self) -> None:
        """A PIN was taken."""
        self._own, self._shown = None, False
        self._write(None)

    def _read(self) -> dict[str, object] | None:
        if self.file is None:
            return None
        try:
            with self.file.open("rb") as stream:
                found = json.loads(stream.read(_MOST_OCTETS))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and {"serial", "salt", "digest", "shown"} <= found.keys() else None

    def _write(self, content: dict[str, object] | None) -> None:
        if self.file is None:
            return
        with suppress(OSError):
            if content is not None or self.file.stat().st_size:
                self.file.write_text("" if content is None else json.dumps(content))


def _serial(token: Any) -> str:
    return str(token.serial.decode(errors="replace"))


def _digest(salt: bytes, pin: Secret) -> bytes:
    return hashlib.scrypt(pin.reveal_text().encode(), salt=salt, n=2**14, r=8, p=1, dklen=32)


def _matches(kept: dict[str, object], pin: Secret) -> bool:
    try:
        salt, digest = (bytes.fromhex(str(kept[name])) for name in ("salt", "digest"))
    except ValueError:
        return False
    return hmac.compare_digest(_digest(salt, pin), digest)
