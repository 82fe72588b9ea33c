"""The newest revocation list of each place: one that is older than what a place gave before does not count.

Lists come over plain HTTP, and from mirrors that may lag behind. What an older one does not name yet would be good
again. Only a list that was found to be genuine is held against others: whoever can forge an answer could else name a
number that no list of the authority's will ever have.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from pkiserver.foundation.extensionvalue import extension_value
from pkiserver.foundation.unreadable import UNREADABLE
from pkiserver.registration.connectors.certsettings import CrlSource

T = TypeVar("T", bound=x509.ExtensionType)
MOST_ISSUERS = 64
"""Certificates of authorities that are remembered, beside the anchors."""


class OlderListError(Exception):
    """A place gave a list that is older than the one it gave before."""


class KeptLists:
    """What each place gave last. Not for two threads at once."""

    def __init__(self) -> None:
        self._latest: dict[CrlSource, x509.CertificateRevocationList] = {}
        self._genuine: dict[CrlSource, x509.CertificateRevocationList] = {}
        self._issuers: dict[x509.Certificate, None] = {}

    def get(self, source: CrlSource) -> x509.CertificateRevocationList | None:
        """The list of a place that counts."""
        return self._latest.get(source)

    def note_issuers(self, certificates: Iterable[x509.Certificate]) -> None:
        """Authorities up to an anchor, which may sign lists."""
        for one in certificates:
            if len(self._issuers) < MOST_ISSUERS:
                self._issuers.setdefault(one)

    def take(
        self, source: CrlSource, octets: bytes, anchors: Iterable[x509.Certificate], now: datetime
    ) -> x509.CertificateRevocationList:
        """Let a list, DER or PEM, count from now on.

        Raises:
            OlderListError: it is older than the place's genuine one.
            ValueError: it is no list.
        """
        new = _parsed(octets)
        latest = self._latest.get(source)
        kept = self._genuine.get(source)
        if latest is not None and latest is not kept and self._is_genuine(latest, anchors):
            kept = self._genuine[source] = latest
        if kept is not None and _same_key(kept, new) and _is_older(new, kept, now):
            raise OlderListError(f"gives {_words(new)}, which is older than {_words(kept)} that it gave before")
        self._latest[source] = new
        return new

    def _is_genuine(self, crl: x509.CertificateRevocationList, anchors: Iterable[x509.Certificate]) -> bool:
        return any(_signed(crl, issuer) for issuer in (*anchors, *self._issuers))


def _parsed(octets: bytes) -> x509.CertificateRevocationList:
    if octets.lstrip().startswith(b"-----BEGIN"):
        return x509.load_pem_x509_crl(octets)
    return x509.load_der_x509_crl(octets)


def _signed(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    if crl.issuer != issuer.subject:
        return False
    try:
        return crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type] # TypeError for keys that sign nothing
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False


def _same_key(kept: x509.CertificateRevocationList, new: x509.CertificateRevocationList) -> bool:
    """Whether both are of one authority and one key of it, as far as they say; each key numbers its own lists."""
    return kept.issuer == new.issuer and _key(kept) == _key(new)


def _key(crl: x509.CertificateRevocationList) -> bytes | None:
    found = _extension(crl, x509.AuthorityKeyIdentifier)
    return None if found is None else found.key_identifier


def _is_older(new: x509.CertificateRevocationList, kept: x509.CertificateRevocationList, now: datetime) -> bool:
    """By date or by number (RFC 5280 section 5.2.3); an authority may number anew, once the old list has ended.

    A list from the future was made while the authority's clock was wrong, and is in force for nobody: its date says
    nothing.
    """
    if new.last_update_utc < kept.last_update_utc <= now:
        return True
    was, is_now = _number(kept), _number(new)
    in_force = kept.next_update_utc is None or kept.next_update_utc >= now
    return in_force and was is not None and is_now is not None and is_now < was


def _number(crl: x509.CertificateRevocationList) -> int | None:
    found = _extension(crl, x509.CRLNumber)
    return None if found is None else found.crl_number


def _extension(crl: x509.CertificateRevocationList, kind: type[T]) -> T | None:
    """One that cannot be read says nothing: whether the list counts is for OpenSSL to say."""
    try:
        return extension_value(crl, kind)
    except UNREADABLE:
        return None


def _words(crl: x509.CertificateRevocationList) -> str:
    number = _number(crl)
    return f"list {'without number' if number is None else number} of {crl.last_update_utc:%Y-%m-%dT%H:%M:%SZ}"
