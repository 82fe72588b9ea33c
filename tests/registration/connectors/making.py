"""LDAP connectors from the text of their tables."""

from __future__ import annotations

from pkiserver.foundation.clock import SystemClock
from pkiserver.registration.connectors.ldap import LdapConnector
from pkiserver.registration.connectors.settings import load_connector


def ldap_connector(servers: str, base: str, *tables: str) -> LdapConnector:
    """One called ``staff``; what ``tables`` begins with belongs to ``[ldap]`` itself."""
    head = f'name = "staff"\nkind = "connector"\n[ldap]\nservers = [{servers}]\nbase = "{base}"\n'
    settings = load_connector(head + "\n".join(tables), "staff.toml").ldap
    assert settings is not None
    return LdapConnector("staff", settings, SystemClock())


def mapped_mail(display_name: str) -> str:
    """Tables that map the mail addresses of the organisation, and a name to show from that attribute."""
    return f"""
[[ldap.attributes]]
name = "mail"
from = "mail"
match = '.*@example\\.org'
required = true
[[ldap.attributes]]
name = "display_name"
from = "{display_name}"
"""
