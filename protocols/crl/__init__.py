"""CRLs and CA certificates over plain HTTP (RFC 2585, RFC 5280 section 5)."""
