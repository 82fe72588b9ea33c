"""The address book's site, without clients."""

from __future__ import annotations

from tests.protocols.addressbook.conftest import ldap_settings, site

__all__ = ["ldap_settings", "site"]
