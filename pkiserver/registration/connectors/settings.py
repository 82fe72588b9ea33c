"""A connector as its TOML file says it. ``docs/registration.md`` explains every key."""

from __future__ import annotations

from typing import Literal

import attrs

from pkiserver.foundation.bounds import SITE_NAME
from pkiserver.foundation.tomlfile import Invalid, load
from pkiserver.registration.connectors.certsettings import CertificateSettings
from pkiserver.registration.connectors.intunesettings import IntuneSettings
from pkiserver.registration.connectors.ldapsettings import LdapSettings
from pkiserver.registration.connectors.mailsettings import MailSettings
from pkiserver.registration.connectors.radiussettings import RadiusSettings
from pkiserver.registration.connectors.sqlsettings import SqlSettings
from pkiserver.registration.connectors.webhooksettings import WebhookSettings

RESERVED = frozenset({"internal", "anonymous", "operator", "enroll-code", "challenge", "self-signed"})
"""A requester is named ``connector:user``; these prefixes mean something else."""
_KINDS = ("ldap", "radius", "sql", "webhook", "certificate", "intune", "mail")


@attrs.frozen
class Connector:
    """One connector: exactly one of the tables says what it connects to.

    ``at_once`` bounds how many credentials it checks at the same time; further ones are told to come again.
    """

    name: str
    kind: Literal["connector"] = "connector"
    description: str = ""
    enabled: bool = True
    at_once: int = attrs.field(default=16, validator=attrs.validators.in_(range(1, 257)))
    ldap: LdapSettings | None = None
    radius: RadiusSettings | None = None
    sql: SqlSettings | None = None
    webhook: WebhookSettings | None = None
    certificate: CertificateSettings | None = None
    intune: IntuneSettings | None = None
    mail: MailSettings | None = None

    def __attrs_post_init__(self) -> None:
        problems = []
        if not SITE_NAME.fullmatch(self.name):
            problems.append(Invalid("is not 1 to 63 letters, digits, dots, hyphens and underscores", key="name"))
        if self.name.lower() in RESERVED:
            problems.append(Invalid(f'"{self.name}" means something else among requesters', key="name"))
        if sum(getattr(self, kind) is not None for kind in _KINDS) != 1:
            problems.append(Invalid("has not exactly one of its tables", allowed=", ".join(_KINDS)))
        if problems:
            raise ExceptionGroup("connector", problems)

    @property
    def connects_to(self) -> str:
        """Which of the tables there is."""
        return next(kind for kind in _KINDS if getattr(self, kind) is not None)


def load_connector(text: str, filename: str) -> Connector:
    """A connector from TOML text; raises :class:`ConfigurationError` with every problem, each at its line."""
    return load(Connector, text, filename)
