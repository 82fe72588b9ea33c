"""Where keys live, as it stands in the node's settings."""

from __future__ import annotations

import enum
import re
from pathlib import Path

import attrs

from pkiserver.keys.secrets_by_reference import check_reference

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
MOST_THREADS = 256


class InPlace(enum.StrEnum):
    """Whether a key signs where it stands (on the reactor's thread) instead of in its token's thread."""

    AUTO = "auto"
    """When the module works inside this process and the key was measured to sign in under 0.2 ms."""
    NEVER = "never"


def _name(_instance: object, _attribute: object, value: str) -> None:
    if not _NAME.fullmatch(value):
        raise ValueError("must be 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit")


def _reference(_instance: object, _attribute: object, value: str) -> None:
    check_reference(value)


def _threads(_instance: object, _attribute: object, value: int) -> None:
    if not 1 <= value <= MOST_THREADS:
        raise ValueError(f"must be 1 to {MOST_THREADS}")


def _positive(_instance: object, _attribute: object, value: float) -> None:
    if value <= 0:
        raise ValueError("must be more than 0 seconds")


def _assignments(_instance: object, _attribute: object, value: tuple[str, ...]) -> None:
    for line in value:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=.*", line):
            raise ValueError(f"{line!r} must be NAME=VALUE")


@attrs.frozen
class TokenSettings:
    """One PKCS#11 token. ``token_label`` or ``token_serial`` (or both) choose it among the module's tokens.

    ``threads`` above 1 needs a module that may be used by several threads at once: either ``os_locking`` (the module is
    initialised with CKF_OS_LOCKING_OK) or ``p11-kit-proxy.so``, which does so itself.
    """

    name: str = attrs.field(validator=_name)
    module: Path
    pin_source: str = attrs.field(validator=_reference)
    token_label: str | None = None
    token_serial: str | None = None
    threads: int = attrs.field(default=1, validator=_threads)
    os_locking: bool = False
    in_place: InPlace = InPlace.AUTO
    operation_timeout: float = attrs.field(default=20.0, validator=_positive)
    """Seconds that a signature may take, waiting included, before its request is answered "try later"."""
    retry_longest: float = attrs.field(default=30.0, validator=_positive)
    """Seconds between two tries to get back a lost token, at most (they begin at 0.25 s and double)."""
    softhsm_config: Path | None = None
    """Exported as SOFTHSM2_CONF before the module is loaded."""
    environment: tuple[str, ...] = attrs.field(default=(), validator=_assignments)
    """More ``NAME=VALUE`` for the module, exported before it is loaded."""
    start_lock: Path | None = None
    """Held from loading the module to the end of login. Default on SoftHSM: beside its configuration; else none."""

    def __attrs_post_init__(self) -> None:
        if self.token_label is None and self.token_serial is None:
            raise ValueError("one of token_label and token_serial must be given")
        if self.threads > 1 and not self.os_locking and "p11-kit-proxy" not in self.module.name:
            raise ValueError("threads above 1 need os_locking = true or the module p11-kit-proxy.so")

    @property
    def exported(self) -> tuple[tuple[str, str], ...]:
        """The environment that the module must find when it is initialised."""
        pairs = [(line.partition("=")[0], line.partition("=")[2]) for line in self.environment]
        if self.softhsm_config is not None:
            pairs.append(("SOFTHSM2_CONF", str(self.softhsm_config)))
        return tuple(sorted(pairs))


@attrs.frozen
class SoftwareStoreSettings:
    """A directory of encrypted PKCS#8 files (RFC 5958), mode 0600, all under one passphrase."""

    name: str = attrs.field(validator=_name)
    directory: Path
    passphrase_source: str = attrs.field(validator=_reference)
    threads: int = attrs.field(default=2, validator=_threads)


ProviderSettings = TokenSettings | SoftwareStoreSettings
