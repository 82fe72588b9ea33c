"""Settings of an LDAP or Active Directory connector."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import attrs

from pkiserver.foundation.tomlfile import Invalid
from pkiserver.keys.secretref import SecretReference
from pkiserver.outbound import ldapnames
from pkiserver.outbound.addresses import LdapServer, Timeouts
from pkiserver.outbound.ldapfilter import Filter
from pkiserver.outbound.placeholders import split
from pkiserver.outbound.tlsrules import TlsRules, positive
from pkiserver.registration.connectors.mapping import AttributeMap

if TYPE_CHECKING:
    from pkiserver.outbound.ldap import LdapService

USER_PLACES = ("userid",)


@attrs.frozen
class FilterText:
    """A search filter with places for values."""

    text: str
    tree: Filter

    ALLOWED = "an LDAP filter such as (uid=$(userid))"

    @classmethod
    def parse(cls, text: str) -> FilterText:
        """From a setting; raises :class:`Invalid`."""
        return cls(text, Filter.parse(text, ("userid", "dn")))

    def __str__(self) -> str:
        return self.text


@attrs.frozen
class LdapGroups:
    """Where groups come from.

    Without ``base`` they are the values of the user's ``attribute`` (DNs). With it, groups are searched below ``base``
    with ``filter``, upwards through groups of groups where ``nested``. A group's name is its first RDN's value.
    ``required``: DNs of groups of which the user must be in one.
    """

    attribute: str = "memberOf"
    base: str | None = None
    filter: FilterText = attrs.field(factory=lambda: FilterText.parse("(|(member=$(dn))(uniqueMember=$(dn)))"))
    nested: bool = False
    required: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        if self.nested and self.base is None:
            raise Invalid("nested groups are searched: say where", key="base")
        for one in self.required:
            try:
                ldapnames.normal(one)
            except ValueError:
                allowed = "DNs, such as cn=Certificates,ou=Groups,dc=example,dc=org"
                raise Invalid(f'"{one}" is no DN', key="required", allowed=allowed) from None


class AltSecurity(StrEnum):
    """Active Directory's mapping of certificates to accounts; ``issuer_subject`` is the weak form."""

    NONE = "none"
    ISSUER_SERIAL = "issuer_serial"
    ISSUER_SUBJECT = "issuer_subject"


@attrs.frozen
class LdapPublish:
    """What is written to the user's entry when a certificate was issued, with the service's rights.

    ``remove_replaced`` takes away the certificate that a new one renews or supersedes.
    """

    user_certificate: bool = True
    alt_security_identities: AltSecurity = AltSecurity.NONE
    remove_replaced: bool = True


@attrs.frozen
class LdapSettings:
    """A directory. ``bind_name`` binds as the user by a template; without it the user is searched first."""

    servers: tuple[LdapServer, ...]
    base: str
    tls: TlsRules | None = None
    start_tls: bool = False
    insecure: bool = False
    connect_timeout: timedelta = attrs.field(default=timedelta(seconds=3), validator=positive)
    answer_timeout: timedelta = attrs.field(default=timedelta(seconds=5), validator=positive)
    bind_name: str | None = None
    user_filter: FilterText = attrs.field(factory=lambda: FilterText.parse("(uid=$(userid))"))
    service_name: str | None = None
    service_password: SecretReference | None = None
    active_directory: bool = False
    expiry_warning: timedelta = timedelta(days=14)
    attributes: tuple[AttributeMap, ...] = ()
    groups: LdapGroups = attrs.field(factory=LdapGroups)
    publish: LdapPublish | None = None

    def __attrs_post_init__(self) -> None:
        problems = [*self._transport_problems(), *self._bind_problems()]
        if not self.servers:
            problems.append(Invalid("names no server", key="servers"))
        if problems:
            raise ExceptionGroup("ldap", problems)

    @property
    def writable(self) -> bool:
        """Whether one of the servers takes changes."""
        return any(not one.read_only for one in self.servers)

    def _transport_problems(self) -> list[Invalid]:
        problems = []
        plain = any(server.scheme == "ldap" for server in self.servers)
        if self.start_tls and not plain:
            problems.append(Invalid("goes with an ldap:// server", key="start_tls"))
        if plain and not self.start_tls and not self.insecure:
            text = "passwords would travel in the clear over ldap://; use ldaps:// or start_tls, or say insecure = true"
            problems.append(Invalid(text, key="servers"))
        if self.tls is None and (self.start_tls or any(server.scheme == "ldaps" for server in self.servers)):
            problems.append(Invalid("TLS needs [ldap.tls] with trust anchors; none are built in", key="servers"))
        return problems

    def _bind_problems(self) -> list[Invalid]:
        problems = []
        if (self.service_name is None) != (self.service_password is None):
            problems.append(Invalid("service_name and service_password go together", key="service_name"))
        if self.bind_name is not None:
            try:
                split(self.bind_name, USER_PLACES)
            except Invalid as error:
                problems.append(Invalid(str(error), key="bind_name", allowed=error.allowed))
            if "$(userid)" not in self.bind_name:
                problems.append(Invalid("does not name the user", key="bind_name", allowed="a text with $(userid)"))
        if "$(userid)" not in self.user_filter.text:
            problems.append(Invalid("does not name the user", key="user_filter", allowed=FilterText.ALLOWED))
        if self.publish is not None and self.service_name is None:
            problems.append(Invalid("writing needs service_name and service_password", key="publish"))
        if self.publish is not None and not self.writable:
            text = "a Global Catalog (ports 3268 and 3269) takes no changes: name a server on 389 or 636 as well"
            problems.append(Invalid(text, key="servers"))
        return problems

    def service(self, *, writing: bool = False) -> LdapService:
        """How the directory is reached; ``writing``: without those that take no changes, of which there may be all."""
        from pkiserver.outbound.ldap import LdapService

        return LdapService(
            tuple(one for one in self.servers if not (writing and one.read_only)),
            None if self.tls is None else self.tls.to_trust(),
            self.start_tls,
            Timeouts(self.connect_timeout, self.answer_timeout),
        )
