"""Simple Certificate Enrolment Protocol (RFC 8894)."""
