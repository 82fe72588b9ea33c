"""Where other servers are and how long to wait for them: settings, without what it takes to talk to them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from datetime import timedelta
from typing import Literal
from urllib.parse import urlsplit

import attrs

from pkiserver.foundation.tomlfile import Invalid


@attrs.frozen
class Timeouts:
    """How long to wait for a connection (names, TCP, TLS) and for one answer."""

    connect: timedelta = timedelta(seconds=3)
    answer: timedelta = timedelta(seconds=5)


@attrs.frozen
class LdapServer:
    """``ldap://host:389`` or ``ldaps://host:636``."""

    scheme: Literal["ldap", "ldaps"]
    host: str
    port: int

    ALLOWED = "ldap://HOST[:PORT] or ldaps://HOST[:PORT]"

    @classmethod
    def parse(cls, text: str) -> LdapServer:
        """From a URL without a path; raises :class:`Invalid`."""
        found, host, port = _server(text, {"ldap": 389, "ldaps": 636}, what="LDAP server", allowed=cls.ALLOWED)
        scheme: Literal["ldap", "ldaps"] = "ldaps" if found == "ldaps" else "ldap"
        return cls(scheme, host, port)

    @property
    def read_only(self) -> bool:
        """Whether the port is that of an Active Directory's Global Catalog, which takes no changes."""
        return self.port in {3268, 3269}

    def __str__(self) -> str:
        return _written(self.scheme, self.host, self.port)


@attrs.frozen
class SmtpServer:
    """``smtp://host:587`` (made safe by STARTTLS) or ``smtps://host:465``."""

    scheme: Literal["smtp", "smtps"]
    host: str
    port: int

    ALLOWED = "smtp://HOST[:PORT] or smtps://HOST[:PORT]"

    @classmethod
    def parse(cls, text: str) -> SmtpServer:
        """From a URL without a path; raises :class:`Invalid`."""
        found, host, port = _server(text, {"smtp": 587, "smtps": 465}, what="mail server", allowed=cls.ALLOWED)
        scheme: Literal["smtp", "smtps"] = "smtps" if found == "smtps" else "smtp"
        return cls(scheme, host, port)

    @property
    def is_local(self) -> bool:
        """Whether it is this very machine."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        return _written(self.scheme, self.host, self.port)


@attrs.frozen
class WebAddress:
    """An ``https://`` or ``http://`` URL."""

    text: str
    scheme: Literal["http", "https"]
    host: str

    ALLOWED = "https://HOST[:PORT]/PATH"

    @classmethod
    def parse(cls, text: str) -> WebAddress:
        """From a setting; raises :class:`Invalid`."""
        try:
            parts = urlsplit(text)
            port_is_fine = parts.port is None or parts.port > 0
        except ValueError:
            raise Invalid(f'"{text}" is no URL', allowed=cls.ALLOWED) from None
        good = parts.scheme in {"http", "https"} and parts.hostname and not parts.username and not parts.fragment
        if not good or not port_is_fine or not text.isascii() or any(char.isspace() for char in text):
            raise Invalid(f'"{text}" is no URL of a web service', allowed=cls.ALLOWED)
        scheme: Literal["http", "https"] = "https" if parts.scheme == "https" else "http"
        return cls(text, scheme, parts.hostname or "")

    @property
    def is_local(self) -> bool:
        """Whether it is this very machine."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        return self.text


def _server(text: str, ports: Mapping[str, int], *, what: str, allowed: str) -> tuple[str, str, int]:
    """Scheme, host and port of a URL without a path; ``ports`` are those of the schemes that may be."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise Invalid(f'"{text}" is no URL', allowed=allowed) from None
    if parts.scheme not in ports or not parts.hostname or parts.path or parts.query or parts.username:
        raise Invalid(f'"{text}" names no {what}', allowed=allowed)
    return parts.scheme, parts.hostname, port or ports[parts.scheme]


def _written(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def is_loopback(host: str | None) -> bool:
    """Whether a host's name or address is this very machine; None, as URLs of local sockets have it, is."""
    if host is None:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
