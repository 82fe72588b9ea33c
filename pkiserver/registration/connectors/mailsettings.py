"""Settings of a connector that sends one-time passwords by mail."""

from __future__ import annotations

import re
from datetime import timedelta

import attrs

from pkiserver.foundation.tomlfile import Invalid
from pkiserver.keys.secretref import SecretReference
from pkiserver.outbound.addresses import SmtpServer, Timeouts
from pkiserver.outbound.placeholders import Place, split
from pkiserver.outbound.tlsrules import TlsRules, positive

PLACES = ("password", "userid", "minutes")
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_TEXT = """\
$(password)

is the one-time password that was asked for with the name $(userid).
It is good for one certificate, and for $(minutes) minutes.

If you did not ask for it, somebody else wrote your name: nothing has been issued, and you need not do anything.
"""


def is_address(text: str) -> bool:
    """Whether mail can be sent there: LOCAL@DOMAIN of ASCII, without comments, quotes or routes."""
    return _ADDRESS.fullmatch(text) is not None and len(text) <= 254


@attrs.frozen
class MailText:
    """A text with places for values."""

    text: str

    ALLOWED = "$(password), $(userid), $(minutes)"

    @classmethod
    def parse(cls, text: str) -> MailText:
        """From a setting; raises :class:`Invalid`."""
        if Place("password") not in split(text, PLACES):
            raise Invalid("does not say $(password)", allowed=cls.ALLOWED)
        return cls(text)

    def __str__(self) -> str:
        return self.text


@attrs.frozen
class MailSettings:
    """One-time passwords for the accounts of this server, sent to their mail address.

    Attributes:
        servers: Mail servers, asked in this order.
        sender: The address that the mails come from.
        tls: The authorities of the servers' certificates.
        user: For servers that want a login, with ``password``.
        attribute: The account's attribute with the address.
        lifetime: How long a one-time password is good for.
        per_hour: One-time passwords of one account in an hour.
        per_minute: Mails of one process in a minute.
    """

    servers: tuple[SmtpServer, ...]
    sender: str
    tls: TlsRules | None = None
    user: str | None = None
    password: SecretReference | None = None
    attribute: str = "mail"
    lifetime: timedelta = timedelta(minutes=10)
    per_hour: int = attrs.field(default=5, validator=attrs.validators.in_(range(1, 61)))
    per_minute: int = attrs.field(default=60, validator=attrs.validators.in_(range(1, 6001)))
    subject: str = "Your one-time password"
    text: MailText = attrs.field(factory=lambda: MailText.parse(_TEXT))
    connect_timeout: timedelta = attrs.field(default=timedelta(seconds=5), validator=positive)
    answer_timeout: timedelta = attrs.field(default=timedelta(seconds=30), validator=positive)

    def __attrs_post_init__(self) -> None:
        problems = []
        if not self.servers:
            problems.append(Invalid("names no server", key="servers"))
        if self.tls is None and not all(one.scheme == "smtp" and one.is_local for one in self.servers):
            problems.append(Invalid("needs [mail.tls] with trust anchors: passwords travel to it", key="servers"))
        if not is_address(self.sender):
            problems.append(Invalid("is no mail address", key="sender", allowed="LOCAL@DOMAIN"))
        if (self.user is None) != (self.password is None):
            problems.append(Invalid("user and password go together", key="user"))
        if not timedelta(minutes=1) <= self.lifetime <= timedelta(days=1):
            problems.append(Invalid("is out of range", key="lifetime", allowed="1m to 1d"))
        if not self.subject.isprintable() or not 0 < len(self.subject) <= 200:
            problems.append(Invalid("is not one line of up to 200 characters", key="subject"))
        if problems:
            raise ExceptionGroup("mail", problems)

    @property
    def timeouts(self) -> Timeouts:
        """How long to wait."""
        return Timeouts(self.connect_timeout, self.answer_timeout)
