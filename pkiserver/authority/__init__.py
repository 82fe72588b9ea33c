"""CAs, certificate templates, the one road to a certificate, revocation, CRLs and status."""
