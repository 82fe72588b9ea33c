"""The connectors in force, read from the database and kept open; each in a bulkhead of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from twisted.logger import Logger

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Refusal, Rejected, Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.registration.connectors.challenges import (
    ChallengeQuestion,
    ChallengeService,
    ChallengeValidator,
    Issued,
    PollQuestion,
    Refused,
)
from pkiserver.registration.connectors.names import prepared
from pkiserver.registration.connectors.settings import Connector, load_connector
from pkiserver.registration.connectors.values import (
    CertificateConnector,
    Challenge,
    ChangesPasswords,
    Denied,
    Finding,
    LooksUp,
    Outcome,
    PasswordConnector,
    Publishes,
    Shown,
    Step,
    Undecided,
)
from pkiserver.store.authority import templates as rows
from pkiserver.store.authority.templates import ConfigObject
from pkiserver.store.database import Database

KIND = "connector"
_log = Logger(namespace="pkiserver.connectors")
T = TypeVar("T")


@attrs.define
class LiveConnector:
    """A connector that is ready to be asked; ``busy`` counts who is asking."""

    settings: Connector
    row: ConfigObject
    passwords: PasswordConnector | None
    certificates: CertificateConnector | None
    challenges: ChallengeService | None = None
    busy: int = 0

    async def ask(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run one question, unless too many wait already; raises :class:`Unavailable`."""
        if self.busy >= self.settings.at_once:
            raise Unavailable(f"connector {self.settings.name}: too many credentials are being checked", retry_after=5)
        self.busy += 1
        try:
            return await work()
        finally:
            self.busy -= 1

    @property
    def backend(self) -> PasswordConnector | CertificateConnector | ChallengeService:
        """What answers."""
        found = self.passwords or self.certificates or self.challenges
        assert found is not None
        return found


@attrs.frozen
class ConnectorProblem:
    """Why a connector in the database cannot be used, for readiness and ``doctor``."""

    connector: str
    text: str


class Connectors:
    """All connectors, as of the last :meth:`refresh`."""

    def __init__(self, database: Database, audit: AuditLog, clock: Clock) -> None:
        self._database = database
        self._audit = audit
        self._clock = clock
        self._all: dict[str, LiveConnector] = {}
        self._problems: tuple[ConnectorProblem, ...] = ()
        self._answers: Counter[tuple[str, str]] = Counter()

    async def refresh(self) -> None:
        """Read all connectors; those that did not change stay open. One that cannot be used stops no other."""
        found = await self._database.read(lambda connection: rows.list_all(connection, kind=KIND))
        live: dict[str, LiveConnector] = {}
        problems = []
        for row in found:
            known = self._all.get(row.name)
            if known is not None and known.row == row:
                live[row.name] = known
                continue
            try:
                settings = load_connector(row.toml, f"connector {row.name}")
                live[row.name] = open_connector(settings, row, self._clock, self._database, self._audit)
            except Rejected as error:
                problems.append(ConnectorProblem(row.name, str(error)))
        before = self._all
        self._all = live
        self._problems = tuple(problems)
        for name, old in before.items():
            if live.get(name) is not old:
                old.backend.close()

    def close(self) -> None:
        """Let go of everything that the connectors hold."""
        for one in self._all.values():
            one.backend.close()
        self._all = {}

    def list(self) -> tuple[Connector, ...]:
        """Every usable connector's settings, by name."""
        return tuple(self._all[name].settings for name in sorted(self._all))

    def problems(self) -> tuple[ConnectorProblem, ...]:
        """Connectors in the database that cannot be used, and why."""
        return self._problems

    def get(self, name: str) -> LiveConnector:
        """The connector of that name; raises :class:`Rejected`."""
        found = self._all.get(name)
        if found is None:
            known = f"there are: {', '.join(sorted(self._all))}" if self._all else "there is none at all"
            text = f"there is no usable connector named {name!r} ({known})"
            why = [one.text for one in self._problems if one.connector == name]
            raise Rejected.because(Refusal.CONFIGURATION, "; ".join([text, *why]))
        return found

    def answers(self) -> Mapping[tuple[str, str], int]:
        """How often each connector, by name, gave each kind of answer, in the words of a check, since the start."""
        return self._answers

    def busy(self) -> Mapping[str, int]:
        """How many questions each connector has before it."""
        return {name: one.busy for name, one in self._all.items()}

    async def check(self, name: str, user: str | None, password: Secret | None) -> tuple[Finding, ...]:
        """Try out a connector; raises :class:`Rejected` where there is none."""
        return await self.get(name).backend.check(None if user is None else prepared(user), password)

    async def authenticate(
        self, connector: str, name: str, password: Secret, answering: Challenge | None = None
    ) -> Outcome | None:
        """What a connector says of a name and password; None where it does not deal with passwords.

        Raises:
            Unavailable: it cannot be asked now.
        """
        live = self._usable(connector)
        backend = live.passwords
        if backend is None:
            return None
        if not live.settings.enabled:
            return _switched_off(connector, prepared(name))
        name = prepared(name)
        outcome = await self._ask(live, lambda: backend.authenticate(name, password, answering))
        note(connector, name, outcome)
        return outcome

    async def identify(
        self, connector: str, certificate: x509.Certificate, chain: tuple[x509.Certificate, ...]
    ) -> Outcome | None:
        """Whom a certificate shows; None where the connector does not deal with certificates.

        Raises:
            Unavailable: it cannot be asked now.
        """
        live = self._usable(connector)
        backend = live.certificates
        if backend is None:
            return None
        if not live.settings.enabled:
            return _switched_off(connector, _of_certificate(certificate))
        outcome = await self._ask(live, lambda: backend.identify(certificate, chain))
        note(connector, _of_certificate(certificate), outcome)
        return outcome

    async def validate(self, connector: str, question: ChallengeQuestion) -> Outcome | None:
        """Whether a service gave this challenge out for this request; None where it gives out none.

        Raises:
            Unavailable: it cannot be asked now.
        """
        live = self._usable(connector)
        backend = live.backend
        if not isinstance(backend, ChallengeValidator):
            return None
        if not live.settings.enabled:
            return _switched_off(connector, question.transaction)
        outcome = await self._ask(live, lambda: backend.validate(question))
        note(connector, question.transaction, outcome)
        return outcome

    async def resume(self, connector: str, question: PollQuestion) -> Outcome | None:
        """What a service says now of a request whose challenge it has seen; None where it gives out no challenges.

        Raises:
            Unavailable: it cannot be asked now.
        """
        live = self._all.get(connector)
        backend = None if live is None else live.backend
        if live is None or not isinstance(backend, ChallengeValidator):
            return None
        if not live.settings.enabled:
            return _switched_off(connector, question.transaction)
        outcome = await self._ask(live, lambda: backend.resume(question))
        note(connector, question.transaction, outcome)
        return outcome

    def wants_reports(self, connector: str) -> bool:
        """Whether a connector is told what came of the requests that it let in."""
        live = self._all.get(connector)
        backend = live.backend if live is not None and live.settings.enabled else None
        return isinstance(backend, ChallengeValidator) and backend.wants_reports

    async def report(self, connector: str, question: ChallengeQuestion, result: Issued | Refused) -> None:
        """Tell a service what came of its challenge; raises :class:`Unavailable`."""
        live = self._usable(connector)
        backend = live.backend
        if isinstance(backend, ChallengeValidator):
            await live.ask(lambda: backend.report(question, result))

    async def change_password(self, connector: str, name: str, old: Secret, new: Secret, *, by: str) -> None:
        """Change a user's password where it is kept; audited.

        Raises:
            Rejected: the connector keeps no passwords that can be changed, or refuses.
            Unavailable: it cannot be asked now.
        """
        live = self.get(connector)
        backend = live.passwords
        if not isinstance(backend, ChangesPasswords):
            text = f"connector {connector} cannot change passwords"
            raise Rejected.because(Refusal.UNSUPPORTED, text)
        name = prepared(name)
        denied = await live.ask(lambda: backend.change_password(name, old, new))
        details = (("change", "password set"), ("why", "" if denied is None else denied.text))
        outcome = "ok" if denied is None else "refused"
        await self._audit.record(
            AuditEvent(AuditKind.ACCOUNT, by, f"user {connector}:{name}", outcome=outcome, details=details)
        )
        if denied is not None:
            raise Rejected.because(Refusal.NOT_AUTHENTICATED, denied.text)

    def publishes(self, connector: str) -> bool:
        """Whether certificates of this connector's users are written to where they are kept."""
        live = self._all.get(connector)
        backend = live.passwords if live is not None and live.settings.enabled else None
        return backend is not None and isinstance(backend, Publishes) and backend.publishes

    async def publish(self, connector: str, name: str, certificate: bytes, replaced: tuple[bytes, ...]) -> None:
        """Write a DER certificate to where the user is kept; raises :class:`Rejected` or :class:`Unavailable`."""
        live = self._usable(connector)
        backend = live.passwords
        if isinstance(backend, Publishes):
            await live.ask(lambda: backend.publish(name, certificate, replaced))

    async def current(self, requester: str, *, needed: bool) -> Outcome | None:
        """Who a requester (``connector:user``) is today; None where nobody can say without a password.

        ``needed``: the connector must be there and switched on, else nobody says anything.

        Raises:
            Unavailable: the connector cannot be asked now, or is needed and not there.
        """
        connector, _, name = requester.partition(":")
        live = self._usable(connector) if needed else self._all.get(connector)
        if live is None or not live.settings.enabled:
            return _switched_off(connector, name) if needed else None
        backend = live.passwords
        if not isinstance(backend, LooksUp) or not backend.can_look_up:
            return None
        return await self._ask(live, lambda: backend.lookup(name))

    async def _ask(self, live: LiveConnector, work: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """One question about somebody, counted by what comes of it."""
        answer = "unavailable"
        try:
            outcome = await live.ask(work)
            answer = _word(outcome)
        finally:
            self._answers[live.settings.name, answer] += 1
        return outcome

    def _usable(self, name: str) -> LiveConnector:
        """As :meth:`get` for a client, who may come again, and is not told which others there are."""
        found = self._all.get(name)
        if found is None:
            raise Unavailable(f"connector {name}: there is no usable one of that name", retry_after=60)
        return found


def _switched_off(connector: str, name: str) -> Denied:
    denied = Denied(Step.SETTINGS, f"connector {connector} is switched off")
    note(connector, name, denied)
    return denied


def _of_certificate(certificate: x509.Certificate) -> str:
    return f"the certificate {certificate.fingerprint(hashes.SHA256()).hex()}"


def _word(outcome: Outcome) -> str:
    match outcome:
        case Denied():
            return str(outcome.step)
        case Challenge():
            return "asks for more"
        case Undecided():
            return "undecided"
        case Shown():
            return "shown"


def note(connector: str, name: str, outcome: Outcome) -> None:
    """Say in the log whom a connector does not show, and why; the client is told less."""
    if isinstance(outcome, Denied):
        _log.info(
            "connector {connector} does not show {name}: {step}: {text}",
            connector=connector,
            name=name,
            step=str(outcome.step),
            text=outcome.text,
        )


def open_connector(
    settings: Connector, row: ConfigObject, clock: Clock, database: Database, audit: AuditLog
) -> LiveConnector:
    """A connector ready to be asked; what a kind needs is imported only where there is one of the kind."""
    if settings.mail is not None:
        from pkiserver.registration.connectors.mail import MailConnector

        return LiveConnector(settings, row, MailConnector(settings.name, settings.mail, database, audit, clock), None)
    name = settings.name
    passwords: PasswordConnector | None = None
    certificates: CertificateConnector | None = None
    challenges: ChallengeService | None = None
    if settings.ldap is not None:
        from pkiserver.registration.connectors.ldap import LdapConnector

        passwords = LdapConnector(name, settings.ldap, clock)
    elif settings.radius is not None:
        from pkiserver.registration.connectors.radius import RadiusConnector

        passwords = RadiusConnector(name, settings.radius, clock)
    elif settings.sql is not None:
        from pkiserver.registration.connectors.sql import SqlConnector

        passwords = SqlConnector(name, settings.sql)
    elif settings.webhook is not None:
        from pkiserver.registration.connectors.webhook import WebhookConnector

        passwords = WebhookConnector(name, settings.webhook, clock)
    elif settings.certificate is not None:
        from pkiserver.registration.connectors.certificate import ForeignCertificates

        certificates = ForeignCertificates(name, settings.certificate, clock)
    elif settings.intune is not None:
        from pkiserver.registration.connectors.intune import IntuneValidator

        challenges = IntuneValidator(name, settings.intune, clock)
    return LiveConnector(settings, row, passwords, certificates, challenges)
