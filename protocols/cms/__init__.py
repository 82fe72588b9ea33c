"""Cryptographic Message Syntax (RFC 5652) for the protocols that speak it."""
