"""Sending one mail (RFC 5321) by Twisted's SMTP client: TLS with trust anchors of one's own, AUTH, every wait ends."""

from __future__ import annotations

from email.message import EmailMessage
from io import BytesIO
from typing import Any, cast

import attrs
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, ITLSTransport
from twisted.internet.protocol import connectionDone
from twisted.mail.smtp import (
    AUTHDeclinedError,
    CramMD5ClientAuthenticator,
    ESMTPClient,
    LOGINAuthenticator,
    PLAINAuthenticator,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from pkiserver.foundation.secret import Secret
from pkiserver.foundation.tomlfile import Invalid
from pkiserver.outbound.addresses import SmtpServer, Timeouts
from pkiserver.outbound.dial import Servers, connect, once, within
from pkiserver.outbound.problems import OutboundError, Trouble
from pkiserver.outbound.trust import TlsClient, TlsTrust, unusable

MAX_LINES = 200
"""Lines of all answers in one conversation."""


@attrs.frozen
class Login:
    """How this server shows itself (RFC 4954); only ever sent under TLS or to this very machine."""

    user: str
    password: Secret


@attrs.frozen
class MailService:
    """Mail servers that serve alike. ``trust`` None: without TLS (this machine only); ``helo`` is our name in EHLO."""

    servers: tuple[SmtpServer, ...]
    trust: TlsTrust | None
    helo: str
    login: Login | None = None
    timeouts: Timeouts = attrs.field(factory=Timeouts)


@implementer(IHandshakeListener)
class _Sender(ESMTPClient):
    """Sends one mail, or none, and says what came of it."""

    debug = False  # its log of the conversation would keep the password
    heloFallback = False  # noqa: N815 - Twisted's name

    def __init__(self, service: MailService, server: SmtpServer, tls: TlsClient | None, mail: _Mail | None) -> None:
        login = service.login
        super().__init__(login.password.reveal() if login is not None else None, tls, service.helo)  # type: ignore[no-untyped-call]
        self.requireAuthentication = login is not None
        self.requireTransportSecurity = tls is not None
        if login is not None:
            for kind in (CramMD5ClientAuthenticator, PLAINAuthenticator, LOGINAuthenticator):
                self.registerAuthenticator(kind(login.user.encode()))  # type: ignore[no-untyped-call]
        self.done: Deferred[None] = Deferred()
        self._server = server
        self._tls = tls
        self._mail = mail
        self._lines = 0
        self._shaken = False

    def connectionMade(self) -> None:  # noqa: N802
        """Begin; ``smtps`` is TLS from the first octet."""
        if self._server.scheme == "smtps" and self._tls is not None:
            cast("ITLSTransport", self.transport).startTLS(self._tls)
        super().connectionMade()  # type: ignore[no-untyped-call]
        self._tlsMode = self._server.scheme == "smtps"

    def handshakeCompleted(self) -> None:  # noqa: N802
        """Twisted's interface."""
        self._shaken = True

    def lineReceived(self, line: bytes) -> None:  # noqa: N802
        """One line of an answer; so many and no more."""
        self._lines += 1
        if self._lines > MAX_LINES:
            self._fail(Trouble.ANSWER, "the server's answers do not end")
            transport: Any = self.transport
            transport.abortConnection()
            return
        super().lineReceived(line)  # type: ignore[no-untyped-call]

    def esmtpState_starttls(self, code: int, resp: bytes) -> None:  # noqa: N802
        """What came before the handshake, in the clear, is nobody's answer to what is sent under it."""
        self.clearLineBuffer()  # type: ignore[no-untyped-call]
        super().esmtpState_starttls(code, resp)  # type: ignore[no-untyped-call]

    def getMailFrom(self) -> bytes | None:  # noqa: N802
        """The sender; None when there is nothing (more) to send."""
        if self._mail is None:
            self._succeed()
            return None
        return self._mail.sender.encode()

    def getMailTo(self) -> list[bytes]:  # noqa: N802
        """The recipient."""
        assert self._mail is not None
        return [self._mail.recipient.encode()]

    def getMailData(self) -> BytesIO:  # noqa: N802
        """The message."""
        assert self._mail is not None
        return BytesIO(self._mail.octets)

    def sentMail(self, code: int, resp: bytes | str, numOk: int, *_more: object) -> None:  # noqa: N802, N803
        """The server has taken the mail, or not."""
        self._mail = None
        if numOk == 1 and 200 <= code < 300:
            self._succeed()
        else:
            self._fail(Trouble.ANSWER, f"the mail is refused: {_plain(resp)}")

    def sendError(self, exc: Exception) -> None:  # noqa: N802
        """Something before the mail went wrong."""
        text = _plain(getattr(exc, "resp", None) or str(exc))
        if isinstance(exc, AUTHDeclinedError):
            self._fail(Trouble.BIND, f"the login is refused: {text}")
        self._fail(Trouble.TLS if "TLS" in type(exc).__name__ else Trouble.ANSWER, text)
        super().sendError(exc)  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        """Wake up whoever waits."""
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        secured = self._tls is not None and self._tlsMode
        if secured and not self._shaken:
            assert self._tls is not None
            self._fail(Trouble.TLS, self._tls.check.problem or f"the handshake failed: {reason.getErrorMessage()}")
        self._fail(Trouble.ANSWER, "the server ended the conversation")

    def _succeed(self) -> None:
        if not self.done.called:
            self.done.callback(None)

    def _fail(self, trouble: Trouble, text: str) -> None:
        if not self.done.called:
            self.done.errback(OutboundError(trouble, str(self._server), text))


@attrs.frozen
class _Mail:
    sender: str
    recipient: str
    octets: bytes = attrs.field(repr=False)


async def send(service: MailService, servers: Servers, message: EmailMessage) -> None:
    """Hand a mail, with one sender and one recipient, to the first server that can be talked to.

    Raises:
        OutboundError: told apart by its ``trouble``; a refused mail is ``ANSWER``, a refused login ``BIND``.
    """
    mail = _Mail(message["From"].addresses[0].addr_spec, message["To"].addresses[0].addr_spec, message.as_bytes())
    await servers.first(service.servers, lambda server: _talk(service, server, mail))


async def greet(service: MailService, server: SmtpServer) -> None:
    """Everything but a mail: connect, TLS, log in. Raises :class:`OutboundError`."""
    await _talk(service, server, None)


async def _talk(service: MailService, server: SmtpServer, mail: _Mail | None) -> None:
    tls = None
    if service.trust is not None:
        try:
            tls = service.trust.creator(server.host)
        except (Invalid, OSError, SSL.Error) as error:
            raise unusable(str(server), error) from error
    sender = _Sender(service, server, tls, mail)
    await connect(once(lambda: sender), server.host, server.port, service.timeouts.connect)
    silent = OutboundError(Trouble.SILENT, str(server), "the conversation does not end")
    try:
        await within(sender.done, service.timeouts.answer.total_seconds(), lambda: silent)
    except BaseException:
        transport: Any = sender.transport
        transport.abortConnection()
        raise


def _plain(answer: bytes | str | None) -> str:
    text = answer.decode("ascii", "replace") if isinstance(answer, bytes) else str(answer)
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:200]
