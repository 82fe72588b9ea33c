"""Whether the authority that is to issue still may: its certificate, and those above it that are of this server.

Looked at in the transaction that makes an intent durable, so that a revocation counts from its commit on, in every
process. What an authority signs about itself and its helpers (its next certificate, links between its keys, responders,
lists) is not asked: that is needed after a revocation too.
"""

from __future__ import annotations

import hashlib

import attrs
from sqlalchemy import Connection

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.store import certificates
from pkiserver.store.certificates import CertificateState

_WORDS = {CertificateState.REVOKED: "is revoked", CertificateState.HELD: "is on hold"}


@attrs.frozen
class IssuerStanding:
    """A claim that costs nothing: refused where the issuer's chain does not stand. ``chain`` is DER, issuer first."""

    authority: str
    chain: tuple[bytes, ...] = attrs.field(repr=False)

    def take(self, connection: Connection, certificate_id: int) -> None:
        """Raises :class:`Rejected` (REVOKED) where a certificate of the chain is revoked or on hold."""
        del certificate_id
        fingerprints = [hashlib.sha256(der).digest() for der in self.chain]
        states = certificates.states_of(connection, fingerprints)
        for level, fingerprint in enumerate(fingerprints):
            state = states.get(fingerprint)
            if state in _WORDS:
                whose = "the certificate" if level == 0 else "a certificate above that"
                text = f"{whose} of authority {self.authority} {_WORDS[state]}: it issues no certificates"
                raise Rejected.because(Refusal.REVOKED, text)

    def give_back(self, connection: Connection, certificate_id: int) -> None:
        """Nothing was spent."""
