"""Online Certificate Status Protocol (RFC 6960)."""
