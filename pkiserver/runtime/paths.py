"""Paths in the node's settings: relative ones are resolved, and those of secrets are found."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import attrs

from pkiserver.authority.delivery.settings import LdapTarget, PutTarget, SftpTarget
from pkiserver.foundation.tomlindex import Path as KeyPath
from pkiserver.foundation.tomlindex import format_path
from pkiserver.keys.settings import SoftwareStoreSettings, TokenSettings

if typing.TYPE_CHECKING:
    from pkiserver.runtime.config import NodeSettings

T = TypeVar("T")

FORBIDDEN_MODE = 0o027
"""Mode bits that the file of a secret must not have: a group may read it, which is how several services share one."""


@attrs.frozen
class FoundSecret:
    """A file with a secret in it, and the key of the configuration that names it."""

    key: KeyPath
    file: Path

    @property
    def name(self) -> str:
        """The dotted key."""
        return format_path(self.key)


def resolve_paths(settings: T, base: Path) -> T:
    """The same settings with every relative path (and SQLite file) taken from ``base``."""
    return typing.cast("T", _resolve(settings, base))


def _resolve(value: Any, base: Path) -> Any:
    if isinstance(value, Path):
        return base / value
    if isinstance(value, tuple):
        return tuple(_resolve(item, base) for item in value)
    if isinstance(value, str) and value.startswith("sqlite:///"):
        return f"sqlite:///{base / value.removeprefix('sqlite:///')}"
    if attrs.has(type(value)):
        changes = {}
        for attribute in attrs.fields(type(value)):
            old = getattr(value, attribute.name)
            new = _resolve(old, base)
            if new is not old and new != old:
                changes[attribute.alias] = new
        return attrs.evolve(value, **changes) if changes else value
    return value


def secret_files(settings: NodeSettings) -> Iterator[FoundSecret]:
    """Every file that the settings name and that holds a secret."""
    if settings.https.tls is not None:
        yield FoundSecret(("https", "tls", "key"), settings.https.tls.key)
    if settings.ldap.tls is not None:
        yield FoundSecret(("ldap", "tls", "key"), settings.ldap.tls.key)
    if settings.api.tls is not None:
        yield FoundSecret(("api", "tls", "key"), settings.api.tls.key)
    if settings.approvals.marks_source is not None:
        yield from _of_reference(("approvals", "marks_source"), settings.approvals.marks_source)
    if (source := settings.database.password_source) is not None:
        yield from _of_reference(("database", "password_source"), source)
    for position, store in enumerate(settings.key_store):
        if isinstance(store, TokenSettings):
            yield from _of_reference(("key_store", position, "pin_source"), store.pin_source)
        elif isinstance(store, SoftwareStoreSettings):
            yield from _of_reference(("key_store", position, "passphrase_source"), store.passphrase_source)

    yield from _target_secrets(settings)


def _target_secrets(settings: NodeSettings) -> Iterator[FoundSecret]:
    for position, target in enumerate(settings.crl_target):
        if isinstance(target, SftpTarget):
            yield FoundSecret(("crl_target", position, "key"), target.key)
        elif isinstance(target, PutTarget | LdapTarget) and target.password_source is not None:
            yield from _of_reference(("crl_target", position, "password_source"), target.password_source)


def _of_reference(key: KeyPath, reference: str) -> Iterator[FoundSecret]:
    if reference.startswith("file:"):
        yield FoundSecret(key, Path(reference.removeprefix("file:")))
