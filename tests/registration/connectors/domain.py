"""LDAP connectors to the tests' Active Directory domain."""

from __future__ import annotations

from pkiserver.foundation.secret import Secret
from pkiserver.registration.connectors.ldap import LdapConnector
from pkiserver.registration.connectors.values import Denied
from tests.registration.connectors.making import ldap_connector, mapped_mail
from tests.support.samba import GROUPS, PEOPLE, REALM, SUFFIX, USER_PASSWORD, DomainController

RIGHT, WRONG = Secret(USER_PASSWORD), Secret("Wrong-Horse-1")
NEW = Secret("Another-Long-Secret-1")
SERVICE = f'service_name = "pki@{REALM}"\nservice_password = "env:AD_SERVICE"\n'
TEMPLATE = f'bind_name = "$(userid)@{REALM}"\n'
BY_ACCOUNT = "(&(objectClass=user)(sAMAccountName=$(userid)))"
WAYS = [SERVICE, TEMPLATE, TEMPLATE + SERVICE]
IN_CHAIN = f"""
[ldap.groups]
base = "{GROUPS}"
filter = "(member:1.2.840.113556.1.4.1941:=$(dn))"
"""
NESTED = f"""
[ldap.groups]
base = "{SUFFIX}"
filter = "(member=$(dn))"
nested = true
"""
MAIL = mapped_mail("displayName")


def made(
    servers: str, trust: str | None, more: str = SERVICE, tables: str = "", user_filter: str = BY_ACCOUNT
) -> LdapConnector:
    tls = "" if trust is None else f"[ldap.tls]\ntrust = '''{trust}'''\n"
    own = f'user_filter = "{user_filter}"\nactive_directory = true'
    return ldap_connector(servers, PEOPLE, own, more, tls, tables)


def at(
    controller: DomainController, more: str = SERVICE, tables: str = "", user_filter: str = BY_ACCOUNT
) -> LdapConnector:
    return made(f'"{controller.ldaps}"', controller.ca.pem, more, tables, user_filter)


async def denied(connector: LdapConnector, name: str, password: Secret) -> Denied:
    outcome = await connector.authenticate(name, password)
    assert isinstance(outcome, Denied)
    return outcome
