"""Where a node brings the CRLs besides serving them: ``[[crl_target]]`` in its file."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import attrs

from pkiserver.foundation.bounds import lasting, node_like_name
from pkiserver.foundation.tomlfile import Invalid
from pkiserver.keys.secrets_by_reference import check_reference
from pkiserver.outbound.addresses import LdapServer, WebAddress, is_loopback

_LAST_PORT = 65535
_SFTP = re.compile(r"(?P<user>[^@:\s]+)@(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?")


def _reference(_instance: object, _attribute: object, value: str | None) -> None:
    if value is not None:
        check_reference(value)


def _needed_reference(_instance: object, _attribute: object, value: str) -> None:
    check_reference(value)


def _sftp(_instance: object, _attribute: object, value: str) -> None:
    found = _SFTP.fullmatch(value)
    if found is None or not 1 <= int(found["port"] or 22) <= _LAST_PORT:
        raise Invalid(f'"{value}" is no account at an SFTP server', allowed="USER@HOST[:PORT]")


def _put(_instance: object, _attribute: object, value: str) -> None:
    allowed = "http(s)://HOST[:PORT][/PATH], no slash at the end; user and password have settings of their own"
    refused = Invalid("is no URL to put below", allowed=allowed)
    if not re.fullmatch(r"[!-~]+", value) or value.endswith("/") or "?" in value:
        raise refused
    try:
        WebAddress.parse(value)
    except Invalid:
        raise refused from None  # whose text would repeat a password


def _servers(_instance: object, _attribute: object, value: tuple[str, ...]) -> None:
    if not value:
        raise Invalid("names no server", allowed=LdapServer.ALLOWED)
    for text in value:
        if LdapServer.parse(text).read_only:
            raise Invalid(f'"{text}" is a Global Catalog, which takes no changes', allowed="another port")


def _entry(_instance: object, _attribute: object, value: str) -> None:
    if "{name}" not in value:
        raise Invalid("does not say where the name of the list goes", allowed="a DN with {name} in it")


_within_a_turn = lasting(timedelta(seconds=1), timedelta(seconds=50))
"""A target's turn lasts a minute."""


@attrs.frozen(kw_only=True)
class Target:
    """What all targets have.

    Attributes:
        name: In health, metrics and logs. Nodes that share a target call it the same; directories are each node's own.
        authorities: Whose lists; empty for all.
        timeout: For one list.
    """

    name: str = attrs.field(validator=node_like_name)
    authorities: tuple[str, ...] = ()
    timeout: timedelta = attrs.field(default=timedelta(seconds=30), validator=_within_a_turn)


@attrs.frozen(kw_only=True)
class DirectoryTarget(Target):
    """A directory of this node. Each file is written beside its place and then put there at once."""

    directory: Path

    @property
    def place(self) -> str:
        """Where the lists go: of a target that is moved, the new place lacks all of them."""
        return str(self.directory)


@attrs.frozen(kw_only=True)
class SftpTarget(Target):
    """A folder at an SFTP server, which must be in ``known_hosts``; ``key`` is an OpenSSH private key of our own."""

    sftp: str = attrs.field(validator=_sftp)
    key: Path
    known_hosts: Path
    folder: str = "."

    @property
    def place(self) -> str:
        """As that of a :class:`DirectoryTarget`."""
        return f"{self.sftp} {self.folder}"

    @property
    def address(self) -> tuple[str, str, int]:
        """User, host and port."""
        found = _SFTP.fullmatch(self.sftp)
        assert found is not None  # the validator has seen it
        return found["user"], found["host"].strip("[]"), int(found["port"] or 22)


@attrs.frozen(kw_only=True)
class PutTarget(Target):
    """A web server that takes PUT below a URL. ``trust`` is a PEM file: whom to trust for https."""

    put: str = attrs.field(validator=_put)
    trust: Path | None = None
    user: str | None = None
    password_source: str | None = attrs.field(default=None, validator=_reference)

    @property
    def place(self) -> str:
        """As that of a :class:`DirectoryTarget`."""
        return self.put

    def __attrs_post_init__(self) -> None:
        if self.put.startswith("https:") and self.trust is None:
            raise Invalid("https needs to know whom to trust", key="trust", allowed="a PEM file")
        if (self.user is None) != (self.password_source is None):
            raise Invalid("user and password_source go together", key="user")
        address = WebAddress.parse(self.put)
        if self.user is not None and address.scheme == "http" and not address.is_local:
            raise Invalid("the password would be in the clear", key="put", allowed="https, or this very machine")


@attrs.frozen(kw_only=True)
class LdapTarget(Target):
    """An LDAP directory (RFC 4523): one entry for each list; ``{name}`` in its DN stands for the list's path.

    ``trust`` is a PEM file; without it there is no TLS, for a server on this machine. Missing entries are made.
    ``active_directory``: attributes are called as there, without ``;binary``.
    """

    ldap: tuple[str, ...] = attrs.field(validator=_servers)
    entry: str = attrs.field(validator=_entry)
    bind_dn: str
    password_source: str = attrs.field(validator=_needed_reference)
    trust: Path | None = None
    start_tls: bool = False
    active_directory: bool = False

    @property
    def place(self) -> str:
        """As that of a :class:`DirectoryTarget`; nodes may name the same servers in another order."""
        return " ".join((*sorted(self.ldap), self.entry, str(self.active_directory)))

    def __attrs_post_init__(self) -> None:
        servers = [LdapServer.parse(text) for text in self.ldap]
        plain = [one for one in servers if one.scheme == "ldap"]
        if self.start_tls and not plain:
            raise Invalid("goes with an ldap:// server", key="start_tls")
        if self.trust is None and (self.start_tls or len(plain) < len(servers)):
            raise Invalid("TLS needs to know whom to trust", key="trust", allowed="a PEM file")
        if not self.start_tls and any(not is_loopback(one.host) for one in plain):
            text = "the password would be in the clear"
            raise Invalid(text, key="ldap", allowed="ldaps://, ldap:// with start_tls, or this very machine")


CrlTarget = DirectoryTarget | SftpTarget | PutTarget | LdapTarget
