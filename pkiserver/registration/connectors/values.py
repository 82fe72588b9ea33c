"""What a connector answers, and what it finds out about itself: frozen values only."""

from __future__ import annotations

from collections.abc import Awaitable
from enum import StrEnum
from typing import Protocol, runtime_checkable

import attrs
from cryptography import x509

from pkiserver.authority.requests import Claim
from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.foundation.secret import Secret

MAX_NAME = 256
MAX_PASSWORD = 1024


class Step(StrEnum):
    """How far a credential or a check came."""

    SETTINGS = "settings"
    RESOLVE = "cannot resolve"
    CONNECT = "cannot connect"
    TLS = "TLS not trusted"
    SILENT = "no answer"
    ANSWER = "bad answer"
    BIND = "bind refused"
    USER = "user not found"
    PASSWORD = "password refused"  # noqa: S105 - the name of a step
    EXPIRED = "password expired"
    GROUP = "group missing"
    ATTRIBUTE = "attribute missing"
    FINE = "fine"


@attrs.frozen
class Shown:
    """Somebody. ``name`` is the plain user name; ``notes`` are for the person (a password that expires soon).

    ``internal``: it is an account of this server that was shown; ``claims`` are spent on the certificate.
    """

    name: str
    groups: frozenset[str] = frozenset()
    attributes: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    internal: bool = False
    claims: tuple[Claim, ...] = ()


@attrs.frozen
class Denied:
    """Nobody, or somebody who does not count. ``proved``: the credential was right, so that saying why is fair.

    ``decided_on``: whom a service that may decide later has decided against; empty where there was nothing to decide.
    """

    step: Step
    text: str
    proved: bool = False
    decided_on: str = ""


@attrs.frozen
class Challenge:
    """The other side asks for more (RFC 2865 section 4.4): show ``prompt``, send the answer with it.

    Without ``state`` the answer is a password that needs nothing beside it, so that every protocol can carry it.
    """

    connector: str
    prompt: str
    state: bytes = attrs.field(repr=False)

    @property
    def reason(self) -> Reason:
        """What a protocol says that cannot show the question to anybody."""
        if not self.state:
            return Reason(Refusal.NOT_AUTHENTICATED, self.prompt)
        asks = f'connector {self.connector} asks for more than a password ("{self.prompt}")'
        return Reason(Refusal.NOT_AUTHENTICATED, f"{asks}, which this protocol can neither show nor answer")

    @property
    def token(self) -> bytes:
        """What the client brings back with its answer (``PasswordEvidence.challenge``)."""
        return self.connector.encode() + b":" + self.state

    @classmethod
    def of_token(cls, token: bytes) -> Challenge:
        """The challenge that a client answers; the prompt is not kept."""
        connector, _, state = token.partition(b":")
        return cls(connector.decode(errors="replace"), "", state)


@attrs.frozen
class Undecided:
    """The other side will say later; ask again in ``retry_after`` seconds."""

    shown: Shown
    retry_after: int = 60


class Challenged(Rejected):
    """Refused for now: a connector asks for more. Protocols that can ask a person show ``challenges``."""

    def __init__(self, reasons: tuple[Reason, ...], challenges: tuple[Challenge, ...]) -> None:
        super().__init__(reasons)
        self.challenges = challenges


Outcome = Shown | Denied | Challenge | Undecided


def who(outcome: Shown | Undecided) -> Shown:
    """Whom an outcome shows, decided or not."""
    return outcome.shown if isinstance(outcome, Undecided) else outcome


@attrs.frozen
class Finding:
    """One line of a check."""

    step: Step
    server: str
    text: str

    @property
    def fine(self) -> bool:
        """Whether there is nothing to repair."""
        return self.step is Step.FINE


class PasswordConnector(Protocol):
    """Answers for names and passwords."""

    def authenticate(self, name: str, password: Secret, answering: Challenge | None = None) -> Awaitable[Outcome]:
        """Who it is.

        Raises:
            Unavailable: nobody can be asked now.
        """

    def check(self, name: str | None, password: Secret | None) -> Awaitable[tuple[Finding, ...]]:
        """Try everything that can be tried: servers, and with a name (and password) that user. Never raises."""

    def close(self) -> None:
        """Let go of threads and sockets."""


@runtime_checkable
class ChangesPasswords(Protocol):
    """A connector that can also change passwords."""

    def change_password(self, name: str, old: Secret, new: Secret) -> Awaitable[Denied | None]:
        """Change a password; None when it is done. Raises :class:`Unavailable`."""


@runtime_checkable
class Publishes(Protocol):
    """A connector that can write certificates to where users are kept."""

    @property
    def publishes(self) -> bool:
        """Whether it is told to."""

    def publish(self, name: str, certificate: bytes, replaced: tuple[bytes, ...]) -> Awaitable[None]:
        """Write a DER certificate, take others away; raises :class:`Rejected`, :class:`Unavailable`."""


@runtime_checkable
class LooksUp(Protocol):
    """A connector that can find users without their passwords."""

    @property
    def can_look_up(self) -> bool:
        """Whether its settings allow it."""

    def lookup(self, name: str) -> Awaitable[Outcome]:
        """Who it is today; raises :class:`Unavailable`."""


class CertificateConnector(Protocol):
    """Answers for client certificates of other authorities."""

    def identify(self, certificate: x509.Certificate, chain: tuple[x509.Certificate, ...]) -> Awaitable[Outcome]:
        """Whose it is; raises :class:`Unavailable`."""

    def check(self, name: str | None, password: Secret | None) -> Awaitable[tuple[Finding, ...]]:
        """Try what can be tried."""

    def close(self) -> None:
        """Let go of what is held."""
