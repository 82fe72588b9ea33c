"""A node's file, read: what its text says, where its paths lead, and whether others can read its secrets."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import attrs

from pkiserver.authority.delivery.settings import LdapTarget, PutTarget, SftpTarget
from pkiserver.foundation.tomlfile import ConfigurationError, Problem, TomlIndex, load
from pkiserver.foundation.tomlindex import Path as KeyPath
from pkiserver.foundation.tomlindex import format_path
from pkiserver.keys.settings import ProviderSettings, SoftwareStoreSettings, TokenSettings
from pkiserver.runtime.config import DatabaseSettings, NodeSettings
from pkiserver.runtime.paths import resolve_paths

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


def load_settings(path: Path) -> NodeSettings:
    """Read and check a node's file: its text, and the modes of the secret files that it names.

    A secret file that does not exist yet is not a problem here; what needs it will say so.

    Raises:
        ConfigurationError: with every problem, its line and what is allowed.
    """
    text = _read(path)
    settings = _checked(load(NodeSettings, text, str(path)), text, path)
    return attrs.evolve(settings, key_store=tuple(_remembering(one, settings.state_dir) for one in settings.key_store))


def _remembering(store: ProviderSettings, state_dir: Path) -> ProviderSettings:
    if not isinstance(store, TokenSettings) or store.refused_pin is not None:
        return store
    return attrs.evolve(store, refused_pin=state_dir / f"refused-pin-{store.name}")


@attrs.frozen
class _KeyStores:
    """A file of a machine that only has keys: no node, no database."""

    key_store: tuple[ProviderSettings, ...]


def load_key_stores(path: Path) -> tuple[ProviderSettings, ...]:
    """The key stores of a node's file, or of one that has nothing but key stores.

    Raises:
        ConfigurationError: as :func:`load_settings`.
    """
    text = _read(path)
    if _tables(text) != {"key_store"}:
        return load_settings(path).key_store
    stores = load(_KeyStores, text, str(path)).key_store
    nowhere = NodeSettings(DatabaseSettings("sqlite:///none.db"), Path(), key_store=stores)
    return _checked(nowhere, text, path).key_store


def _tables(text: str) -> set[str]:
    try:
        return set(tomllib.loads(text))
    except tomllib.TOMLDecodeError:  # which loading it as a node's will tell
        return set()


def _checked(settings: NodeSettings, text: str, path: Path) -> NodeSettings:
    index = TomlIndex(text)
    settings = resolve_paths(settings, path.absolute().parent)
    problems = [
        Problem(str(path), index.line(found.key), found.name, wrong, "mode 0600, or 0640 for a group of readers")
        for found in secret_files(settings)
        if (wrong := mode_problem(found.file)) is not None
    ]
    if problems:
        raise ConfigurationError(problems)
    return settings


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigurationError([Problem(str(path), 1, "", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigurationError([Problem(str(path), line, "", "is not UTF-8")]) from error


def mode_problem(file: Path) -> str | None:
    """What is wrong with the mode of a file that holds a secret; None when nothing is, or there is no such file."""
    try:
        mode = file.stat().st_mode & 0o777
    except OSError:
        return None
    if mode & FORBIDDEN_MODE:
        return f"{file} has mode {mode:04o}: others can read or change a secret (chmod 0600 {file})"
    return None


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
