"""A directory that certificates are published to, as its TOML file says it; see ``docs/protocols/addressbook.md``."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import attrs

from pkiserver.foundation.bounds import SITE_NAME
from pkiserver.foundation.tomlfile import Invalid, load
from pkiserver.keys.secretref import SecretReference
from pkiserver.outbound.addresses import LdapServer, Timeouts
from pkiserver.outbound.ldapattributes import certificate_attribute
from pkiserver.outbound.ldapfilter import Filter, filled
from pkiserver.outbound.tlsrules import TlsRules

if TYPE_CHECKING:
    from pkiserver.outbound.ldap import LdapService

_ATTRIBUTE = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,62}(;binary)?")
_PLACE = "mail"


def _short(_instance: object, _attribute: object, value: timedelta) -> None:
    if not timedelta() < value <= timedelta(seconds=20):
        raise Invalid("is out of range", allowed="more than 0s, at most 20s")


@attrs.frozen
class MailFilter:
    """A search filter with a place for the address."""

    text: str
    tree: Filter

    ALLOWED = "an LDAP filter such as (mail=$(mail))"

    @classmethod
    def parse(cls, text: str) -> MailFilter:
        """From a setting; raises :class:`Invalid`."""
        if f"$({_PLACE})" not in text:
            raise Invalid("does not name the address", allowed=cls.ALLOWED)
        return cls(text, Filter.parse(text, (_PLACE,)))

    def of(self, address: str) -> Filter:
        """The filter for one address, which can only be a value in it."""
        return filled(self.tree, {_PLACE: address})

    def __str__(self) -> str:
        return self.text


@attrs.frozen
class Directory:
    """One directory. Entries below ``base`` are found by mail address with ``filter``; they are never made or removed.

    Attributes:
        name: In commands, health, metrics and logs.
        templates: Whose certificates; empty for all templates that publish.
        enabled: Whether it is brought anything now. Changes are gathered in any case.
        mail_attributes: Where an entry's addresses stand; a ``smtp:`` before one (proxyAddresses) is no part of it.
        active_directory: Attributes are called as there: without ``;binary``.
        certificate_attribute: Where certificates go; by default ``userCertificate``, with ``;binary`` or without.
        smime_attribute: Where people's own SignedData goes (``userSMIMECertificate;binary``); not published without it.
    """

    name: str
    servers: tuple[LdapServer, ...]
    base: str
    bind_name: str
    bind_password: SecretReference
    kind: Literal["directory"] = "directory"
    description: str = ""
    enabled: bool = True
    templates: tuple[str, ...] = ()
    filter: MailFilter = attrs.field(factory=lambda: MailFilter.parse("(mail=$(mail))"))
    mail_attributes: tuple[str, ...] = ("mail",)
    active_directory: bool = False
    certificate_attribute: str | None = None
    smime_attribute: str | None = None
    tls: TlsRules | None = None
    start_tls: bool = False
    insecure: bool = False
    connect_timeout: timedelta = attrs.field(default=timedelta(seconds=3), validator=_short)
    answer_timeout: timedelta = attrs.field(default=timedelta(seconds=10), validator=_short)

    def __attrs_post_init__(self) -> None:
        problems = [*self._transport_problems()]
        if not SITE_NAME.fullmatch(self.name):
            problems.append(Invalid("is not 1 to 63 letters, digits, dots, hyphens and underscores", key="name"))
        if not self.bind_name:
            problems.append(Invalid("is empty: nobody writes to a directory anonymously", key="bind_name"))
        for key, names in (
            ("mail_attributes", self.mail_attributes),
            ("certificate_attribute", (self.user_certificate,)),
            ("smime_attribute", (self.smime_attribute or "unset",)),
        ):
            if not names or not all(map(_ATTRIBUTE.fullmatch, names)):
                problems.append(Invalid("is no attribute", key=key, allowed="names such as userCertificate;binary"))
            elif self.active_directory and any(";" in name for name in names):
                problems.append(Invalid("has an option, and Active Directory takes none", key=key, allowed="the name"))
        if problems:
            raise ExceptionGroup("directory", problems)

    @property
    def user_certificate(self) -> str:
        """The attribute that certificates go to, as it is written."""
        default = certificate_attribute("userCertificate", active_directory=self.active_directory)
        return self.certificate_attribute or default

    def _transport_problems(self) -> list[Invalid]:
        problems = []
        plain = any(server.scheme == "ldap" for server in self.servers)
        if not self.servers:
            problems.append(Invalid("names no server", key="servers"))
        if self.start_tls and not plain:
            problems.append(Invalid("goes with an ldap:// server", key="start_tls"))
        if plain and not self.start_tls and not self.insecure:
            text = "the password would be in the clear over ldap://; use ldaps:// or start_tls, or say insecure = true"
            problems.append(Invalid(text, key="servers"))
        if self.tls is None and (self.start_tls or any(server.scheme == "ldaps" for server in self.servers)):
            problems.append(Invalid("TLS needs [tls] with trust anchors; none are built in", key="servers"))
        return problems

    def service(self) -> LdapService:
        """How the directory is reached."""
        from pkiserver.outbound.ldap import LdapService

        trust = None if self.tls is None else self.tls.to_trust()
        return LdapService(self.servers, trust, self.start_tls, Timeouts(self.connect_timeout, self.answer_timeout))


def load_directory(text: str, filename: str) -> Directory:
    """A directory from TOML text; raises :class:`ConfigurationError` with every problem, each at its line."""
    return load(Directory, text, filename)
