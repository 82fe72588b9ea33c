"""The S/MIME address book over LDAP (RFC 4510 to 4519, 4523) and HTTP (RFC 4387)."""
