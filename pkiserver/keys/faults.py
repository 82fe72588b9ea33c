"""Each thing that can be wrong with a token or a key, by its own name and with its own words."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager

import attrs

from pkiserver.foundation.errors import Defect, Refusal, Rejected, Unavailable


class FaultKind(enum.StrEnum):
    """Why a token or a key cannot be used."""

    MODULE_NOT_LOADED = "module-not-loaded"
    START_LOCK = "start-lock-busy"
    TOKEN_ABSENT = "token-absent"  # noqa: S105
    TOKEN_AMBIGUOUS = "token-ambiguous"  # noqa: S105
    TOKEN_LOST = "token-lost"  # noqa: S105
    TOKEN_BUSY = "token-busy"  # noqa: S105
    PIN_UNREADABLE = "pin-unreadable"
    PIN_WRONG = "pin-wrong"
    PIN_LAST_TRY = "pin-last-try"
    PIN_LOCKED = "pin-locked"
    PIN_EXPIRED = "pin-expired"
    PIN_NOT_SET = "pin-not-set"
    KEY_MISSING = "key-missing"
    KEY_AMBIGUOUS = "key-ambiguous"
    KEY_MISMATCH = "key-mismatch"
    KEY_UNUSABLE = "key-unusable"
    NO_PROVIDER = "no-provider"
    PASSPHRASE_WRONG = "passphrase-wrong"  # noqa: S105


@attrs.frozen
class KeyProblem:
    """A fault by name: ``name`` is the key's or the provider's, ``text`` one line for the administrator."""

    name: str
    kind: FaultKind
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


class KeyUnavailable(Unavailable):
    """The key or its token cannot be used now; ``problem`` says which and why."""

    def __init__(self, problem: KeyProblem, *, retry_after: int = 10) -> None:
        super().__init__(str(problem), retry_after=retry_after)
        self.problem = problem

    @classmethod
    def because(cls, name: str, kind: FaultKind, text: str) -> KeyUnavailable:
        """The error for one fault."""
        return cls(KeyProblem(name, kind, text))


_NAMED_WRONGLY = frozenset(
    {FaultKind.NO_PROVIDER, FaultKind.KEY_MISSING, FaultKind.KEY_AMBIGUOUS, FaultKind.KEY_MISMATCH}
)


@contextmanager
def naming() -> Iterator[None]:
    """Within it somebody names a location: where that means no key or another one, it is no use to come again.

    Raises:
        Rejected: in the place of a :class:`KeyUnavailable` that says so.
    """
    try:
        yield
    except KeyUnavailable as error:
        if error.problem.kind in _NAMED_WRONGLY:
            raise Rejected.because(Refusal.CONFIGURATION, str(error)) from error
        raise


class WrongDoor(Defect):
    """Octets were brought to a door that are not the door's structure. Nothing was signed."""
