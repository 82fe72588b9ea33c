"""One-time passwords by mail for the accounts of this server.

Whoever sends a name and an empty password is told that a mail is on its way, whether or not the name exists: the mail
is written in the background, so that the answer is the same after the same work. The password then comes back where a
password goes, and is spent, like an enrolment code, in the transaction that makes the certificate's intent durable.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import timedelta
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime

import attrs
from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import PkiError, Refusal, Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.keys.secrets_by_reference import SecretUnreadable
from pkiserver.outbound.dial import Servers
from pkiserver.outbound.placeholders import fill, split
from pkiserver.outbound.problems import OutboundError
from pkiserver.outbound.smtp import Login, MailService, greet, send
from pkiserver.registration.codeform import ALPHABET
from pkiserver.registration.connectors.credentials import credential_problem, finding
from pkiserver.registration.connectors.mailsettings import PLACES, MailSettings, is_address
from pkiserver.registration.connectors.values import Challenge, Denied, Finding, Outcome, Shown, Step
from pkiserver.store import secrets as server_secrets
from pkiserver.store.database import Database
from pkiserver.store.registration import accounts, onetime
from pkiserver.store.registration.accounts import Account
from pkiserver.store.registration.onetime import OneTimePassword

HASH_KEY_NAME = "one-time-passwords"
TRIES = 5
"""Wrong guesses after which a one-time password is void."""
MOST_SENDING = 16
"""Mails that one process sends at the same time."""
SENT = "a one-time password is sent by mail if the account has an address: come again with it as the password"
_LETTERS, _GROUP = 10, 5
"""Of 32: 50 bits, in two groups."""
_LOOKALIKES = str.maketrans("OILU", "011V")
_log = Logger(namespace="pkiserver.connectors")


def _spelled(password: Secret) -> str:
    """One spelling of what a person typed."""
    return password.reveal_text().upper().replace("-", "").replace(" ", "").translate(_LOOKALIKES)


@attrs.frozen
class OneTimeClaim:
    """A one-time password, to be spent on one certificate."""

    number: int
    clock: Clock

    def take(self, connection: Connection, certificate_id: int) -> None:
        """Spend it by one conditional UPDATE; raises :class:`Rejected` where somebody was faster."""
        if not onetime.spend(connection, self.number, certificate_id, now=self.clock.now()):
            raise Rejected.because(Refusal.NOT_AUTHENTICATED, "the one-time password has been used or has expired")

    def give_back(self, connection: Connection, certificate_id: int) -> None:
        """Make it usable again where no certificate came of it."""
        onetime.give_back(connection, self.number, certificate_id)


class MailConnector:
    """Sends one-time passwords and knows them again."""

    def __init__(self, name: str, settings: MailSettings, database: Database, audit: AuditLog, clock: Clock) -> None:
        self.name = name
        self.settings = settings
        self._database = database
        self._audit = audit
        self._clock = clock
        self._servers = Servers(clock)
        self._key: Secret | None = None
        self._sending: set[Deferred[None]] = set()
        self._left = float(settings.per_minute)
        self._at = clock.monotonic()

    async def authenticate(self, name: str, password: Secret, answering: Challenge | None = None) -> Outcome:
        """Who it is; or, for an empty password, that one is on its way.

        Raises:
            Unavailable: the database is away.
        """
        del answering  # a one-time password needs no state: it says itself which one it is
        if not password.reveal():
            self._begin(name)
            return Challenge(self.name, SENT, b"")
        if problem := credential_problem(name, password):
            return problem
        account, candidates = await self._database.read(lambda connection: self._look(connection, name))
        digest = self._digest(await self._hash_key(), name, password)
        right = None
        for one in candidates:
            if hmac.compare_digest(one.keyed_hash, digest):
                right = one
        if account is None or account.disabled or right is None:
            if candidates:
                numbers = tuple(one.id for one in candidates)
                await self._database.write(lambda connection: onetime.guessed(connection, numbers))
            return Denied(Step.PASSWORD, "no such one-time password is open")
        claims = (OneTimeClaim(right.id, self._clock),)
        return Shown(account.name, account.groups, account.attributes, internal=True, claims=claims)

    async def check(self, name: str | None, password: Secret | None) -> tuple[Finding, ...]:
        """Talk to every server up to the login, and look whether the account has an address. Sends nothing."""
        del password
        findings = []
        for server in self.settings.servers:
            try:
                await greet(self._service(), server)
            except OutboundError as error:
                findings.append(finding(error))
            except SecretUnreadable as error:
                findings.append(Finding(Step.SETTINGS, str(server), str(error)))
            else:
                findings.append(Finding(Step.FINE, str(server), "answers and takes mail"))
        if name is not None:
            account = await self._database.read(lambda connection: accounts.get(connection, name))
            findings.append(self._account_finding(name, account))
        return tuple(findings)

    def close(self) -> None:
        """Mails under way are let go."""
        for one in tuple(self._sending):
            one.cancel()

    async def settled(self) -> None:
        """Wait until every mail under way has been sent or has failed."""
        for one in tuple(self._sending):
            await one

    def _account_finding(self, name: str, account: Account | None) -> Finding:
        if account is None or account.disabled:
            return Finding(Step.USER, "internal", f"there is no account {name!r}, or it is disabled")
        if self._address(account) is None:
            return Finding(Step.ATTRIBUTE, "internal", f"{name} has no {self.settings.attribute} that is an address")
        return Finding(Step.FINE, "internal", f"{name} gets them at {self._address(account)}")

    def _look(self, connection: Connection, name: str) -> tuple[Account | None, tuple[OneTimePassword, ...]]:
        found = accounts.get(connection, name)
        now = self._clock.now()
        return found, onetime.usable(connection, self.name, name, now=now, tries=TRIES)

    def _begin(self, name: str) -> None:
        """Write to somebody, in the background and within bounds."""
        if credential_problem(name, Secret("-")) is not None:
            return
        if len(self._sending) >= MOST_SENDING or not self._may_send():
            _log.warn("connector {connector}: too many one-time passwords are asked for", connector=self.name)
            return
        work: Deferred[None] = Deferred.fromCoroutine(self._write(name))
        if work.called:
            work.addErrback(self._log_failure)
            return
        self._sending.add(work)

        def done(result: Failure | None) -> None:
            self._sending.discard(work)
            if isinstance(result, Failure):
                self._log_failure(result)

        work.addBoth(done)

    def _log_failure(self, failure: Failure) -> None:
        text = "connector {connector}: a one-time password was not sent: {why}"
        _log.warn(text, connector=self.name, why=failure.getErrorMessage())

    def _may_send(self) -> bool:
        now = self._clock.monotonic()
        most = self.settings.per_minute
        self._left = min(float(most), self._left + (now - self._at) * most / 60)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    async def _write(self, name: str) -> None:
        account = await self._database.read(lambda connection: accounts.get(connection, name))
        address = self._address(account) if account is not None and not account.disabled else None
        if account is None or address is None:
            _log.info("connector {connector}: {name} has no account with an address", connector=self.name, name=name)
            return
        letters = "".join(secrets.choice(ALPHABET) for _ in range(_LETTERS))
        if not await self._record(account.name, Secret(letters)):
            _log.warn("connector {connector}: {name} has been sent enough for now", connector=self.name, name=name)
            return
        message = self._message(account.name, address, f"{letters[:_GROUP]}-{letters[_GROUP:]}")
        why = ""
        try:
            await send(self._service(), self._servers, message)
        except (OutboundError, SecretUnreadable, PkiError) as error:
            why = str(error)
            _log.warn("connector {connector}: mail to {name}: {why}", connector=self.name, name=name, why=why)
        details = (("change", "sent by mail"), ("to", address), ("why", why))
        outcome = "refused" if why else "ok"
        event = AuditEvent(
            AuditKind.CODE, f"connector {self.name}", f"one-time password of {account.name}", outcome, details=details
        )
        await self._audit.record(event)

    async def _record(self, name: str, password: Secret) -> bool:
        digest = self._digest(await self._hash_key(), name, password)
        now = self._clock.now()

        def store(connection: Connection) -> bool:
            return onetime.insert_bounded(
                connection,
                connector=self.name,
                account=name,
                keyed_hash=digest,
                created=now,
                expires=now + self.settings.lifetime,
                most=self.settings.per_hour,
                since=now - timedelta(hours=1),
            )

        return await self._database.write(store)

    def _message(self, name: str, address: str, password: str) -> EmailMessage:
        minutes = str(int(self.settings.lifetime.total_seconds() // 60))
        text = fill(split(self.settings.text.text, PLACES), {"password": password, "userid": name, "minutes": minutes})
        message = EmailMessage()
        message["From"] = Address(addr_spec=self.settings.sender)
        message["To"] = Address(addr_spec=address)
        message["Subject"] = self.settings.subject
        message["Date"] = format_datetime(self._clock.now())
        message["Message-ID"] = f"<{secrets.token_hex(16)}@{self._domain}>"
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation notices in return
        message.set_content(text)
        return message

    def _service(self) -> MailService:
        """Raises :class:`SecretUnreadable`."""
        given = self.settings
        login = None
        if given.user is not None and given.password is not None:
            login = Login(given.user, given.password.read())
        trust = given.tls.to_trust() if given.tls is not None else None
        return MailService(given.servers, trust, self._domain, login, given.timeouts)

    @property
    def _domain(self) -> str:
        return self.settings.sender.partition("@")[2]

    def _address(self, account: Account) -> str | None:
        values = (value for key, value in account.attributes if key == self.settings.attribute)
        return next((value for value in values if is_address(value)), None)

    def _digest(self, key: Secret, name: str, password: Secret) -> bytes:
        """A keyed hash over connector, account and password: what the store keeps."""
        octets = "\x00".join((self.name, name, _spelled(password))).encode()
        return hmac.new(key.reveal(), octets, hashlib.sha256).digest()

    async def _hash_key(self) -> Secret:
        if self._key is None:
            fresh, now = Secret(secrets.token_bytes(32)), self._clock.now()
            self._key = await self._database.write(
                lambda connection: server_secrets.get_or_put(connection, HASH_KEY_NAME, fresh, now=now)
            )
        return self._key
