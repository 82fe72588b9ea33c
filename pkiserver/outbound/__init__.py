"""Connections that the server makes to others: names, time-outs, TLS trust, several servers in order, LDAP."""
