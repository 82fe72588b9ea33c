"""A real mail server, aiosmtpd, on loopback, in a thread of its own: STARTTLS or TLS from the start, with a login."""

from __future__ import annotations

import email
import email.policy
import ssl
from email.message import EmailMessage
from pathlib import Path

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.support.ports import free_port

USER, PASSWORD = "pki", "mail secret"


class MailServer:
    """Keeps what it is given in ``mails``; ``refuse`` is an answer to every recipient."""

    def __init__(self, *, tls: tuple[Path, Path] | None = None, from_the_start: bool = False) -> None:
        self.mails: list[EmailMessage] = []
        self.envelopes: list[Envelope] = []
        self.refuse: str | None = None
        self.secured: list[bool] = []
        self.port = free_port()
        context = None
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
        more = {"tls_context": context, "require_starttls": True} if context and not from_the_start else {}
        self._controller = Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            ssl_context=context if from_the_start else None,
            authenticator=self._login,
            auth_required=context is not None,
            auth_require_tls=not from_the_start,
            **more,
        )
        self._controller.start()

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        del server, session, options
        if self.refuse is not None:
            return self.refuse
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        del session
        self.envelopes.append(envelope)
        self.secured.append(server.transport is not None and server.transport.get_extra_info("sslcontext") is not None)
        content = envelope.content
        assert isinstance(content, bytes)
        message = email.message_from_bytes(content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.mails.append(message)
        return "250 taken"

    def _login(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword
    ) -> AuthResult:
        del server, session, envelope, mechanism
        right = (data.login, data.password) == (USER.encode(), PASSWORD.encode())
        return AuthResult(success=right, handled=False)

    def close(self) -> None:
        self._controller.stop()
