"""Where keys live, as it stands in the node's settings."""

from __future__ import annotations

import enum
import re
from pathlib import Path

import attrs

from pkiserver.foundation.bounds import seconds, spelled
from pkiserver.foundation.tomlfile import Invalid
from pkiserver.keys.secrets_by_reference import check_reference

MOST_THREADS = 256
_name = spelled("[a-z0-9][a-z0-9._-]{0,63}", "1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit")
_threads = attrs.validators.in_(range(1, MOST_THREADS + 1))


class InPlace(enum.StrEnum):
    """Whether a key signs where it stands (on the reactor's thread) instead of in its token's thread."""

    AUTO = "auto"
    """When the module works inside this process and the key was measured to sign in under 0.2 ms."""
    NEVER = "never"


def _reference(_instance: object, _attribute: object, value: str) -> None:
    check_reference(value)


def _assignments(_instance: object, _attribute: object, value: tuple[str, ...]) -> None:
    for line in value:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=.*", line):
            raise Invalid(f"{line!r} sets nothing", allowed="NAME=VALUE")


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
    operation_timeout: float = attrs.field(default=20.0, validator=seconds)
    """Seconds that a signature may take, waiting included, before its request is answered "try later"."""
    retry_longest: float = attrs.field(default=30.0, validator=seconds)
    """Seconds between two tries to get back a lost token, at most (they begin at 0.25 s and double)."""
    softhsm_config: Path | None = None
    """Exported as SOFTHSM2_CONF before the module is loaded."""
    environment: tuple[str, ...] = attrs.field(default=(), validator=_assignments)
    """More ``NAME=VALUE`` for the module, exported before it is loaded."""
    start_lock: Path | None = None
    """Held from loading the module to the end of login. Default on SoftHSM: beside its configuration; else none."""

    refused_pin: Path | None = None
    """Where a digest of a refused PIN is kept, so that no process of the node tries it again. Default: in state_dir."""

    def __attrs_post_init__(self) -> None:
        if self.token_label is None and self.token_serial is None:
            raise Invalid("says of no token which", allowed="token_label, token_serial or both")
        if self.threads > 1 and not self.os_locking and "p11-kit-proxy" not in self.module.name:
            text = "threads above 1 need os_locking = true or the module p11-kit-proxy.so"
            raise Invalid(text, key="threads", allowed="1")

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
