"""What is known of a key outside its token: the registered public half and the doors it is bound to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import attrs

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.keys.algorithms import KeyType
from pkiserver.keys.doors import Door
from pkiserver.keys.faults import KeyProblem

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

NO_RECORD = ", of which no record of that name tells: see `pkiserver key list --unregistered`"
"""What is added where a store has a key already under a name that is free."""


def is_key_name(name: str) -> bool:
    """Whether a key can have this name here."""
    return _NAME.fullmatch(name) is not None


def require_key_name(name: str) -> None:
    """Raise :class:`Rejected` (CONFIGURATION) where a key cannot have this name."""
    if not is_key_name(name):
        text = f"{name!r} is not a key name: 1 to 64 letters, digits, '.', '_' and '-', a letter or digit first"
        raise Rejected.because(Refusal.CONFIGURATION, text)


@attrs.frozen
class KeyObject:
    """A key as it lies in a store, of the form that keys made here have. ``parts``: which halves of it are there."""

    name: str
    location: str
    parts: tuple[str, ...]


@attrs.frozen
class KeyRecord:
    """A registered key. ``uri`` is RFC 7512 ``pkcs11:`` or ``file:``; ``spki`` is SubjectPublicKeyInfo DER."""

    name: str
    uri: str
    spki: bytes
    doors: frozenset[Door]
    created: datetime


@attrs.frozen
class KeyInfo:
    """A registered key and how it fares now. ``in_place``: signs on the reactor's thread (under 0.2 ms)."""

    record: KeyRecord
    key_type: KeyType
    provider: str | None
    in_place: bool
    problem: KeyProblem | None

    @property
    def name(self) -> str:
        """The key's name."""
        return self.record.name

    @property
    def ready(self) -> bool:
        """Whether the key can sign now."""
        return self.problem is None


class KeyRegistry(Protocol):
    """Where key records live. Every change is audited together with it, or does not happen."""

    async def list(self) -> Sequence[KeyRecord]:
        """All records, by name."""

    async def add(self, record: KeyRecord, *, actor: str, operation: str) -> None:
        """Keep a new record; raises ``Rejected(CONFLICT)`` when the name is taken."""

    async def delete(self, name: str, *, actor: str) -> None:
        """Forget a record; raises ``Rejected(UNKNOWN...)`` when there is none."""

    async def note(self, name: str, *, actor: str, operation: str, outcome: str, detail: str) -> None:
        """Put a key operation that changes no record into the audit log."""
