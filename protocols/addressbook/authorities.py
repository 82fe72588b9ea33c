"""An authority's entry: its certificates, the pairs with other authorities, its lists (RFC 4523 section 5)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.foundation.der import explicit, sequence
from protocols.addressbook.entries import AUTHORITIES, Entry, make_entry, operational_of
from protocols.addressbook.names import escape
from protocols.addressbook.ports import CaList, CaListing, ListKind

MOST_LISTS = 16
"""Lists of one kind in an entry; an authority may have its revocations on many."""


@lru_cache(maxsize=64)
def pairs(listing: CaListing, everyone: tuple[CaListing, ...]) -> tuple[bytes, ...]:
    """The CertificatePairs (X.509 clause 11.2.3) of an authority, in both directions as far as they are held here.

    Certificates that other authorities issued to it, and those that it issued to others, of this server. What it issued
    to itself (roots, the link certificates of a key change) is no pair and stands in cACertificate.
    """
    own = _certificates(listing)
    others = [one for other in everyone if other.name != listing.name for one in _certificates(other)]
    found = [_pair(issued_to_this=one) for one in own if one.issuer != one.subject]
    names = {one.subject for one in own}
    found += [_pair(issued_by_this=one) for one in others if one.issuer in names and one.issuer != one.subject]
    return tuple(dict.fromkeys(found))


def _certificates(listing: CaListing) -> list[x509.Certificate]:
    return [x509.load_der_x509_certificate(der) for der in listing.certificates]


def _pair(*, issued_to_this: x509.Certificate | None = None, issued_by_this: x509.Certificate | None = None) -> bytes:
    pair = enumerate((issued_to_this, issued_by_this))
    return sequence(*(explicit(number, one.public_bytes(Encoding.DER)) for number, one in pair if one))


def authority_entry(
    listing: CaListing, lists: Iterable[CaList], crosswise: tuple[bytes, ...], suffix: str, most: int
) -> Entry:
    """An authority's entry: applicationProcess with pkiCA, and the classes of the lists that it has.

    Args:
        listing: The authority.
        lists: Its lists, those of its newest key first.
        crosswise: Its :func:`pairs`.
        suffix: The tree's.
        most: Octets that the lists of one kind may have together; what goes beyond is left to HTTP.
    """
    by_kind = {kind: _fitting((one.der for one in lists if one.kind is kind and one.der), most) for kind in ListKind}
    classes = [b"top", b"applicationProcess", b"pkiCA"]
    if by_kind[ListKind.DELTA]:
        classes.append(b"deltaCRL")
    if by_kind[ListKind.AUTHORITIES] and by_kind[ListKind.COMPLETE]:
        classes.append(b"certificationAuthority")  # which must have both
    dn = f"cn={escape(listing.name)},ou={AUTHORITIES},{suffix}"
    user: dict[str, tuple[bytes, ...]] = {
        "objectClass": tuple(classes),
        "cn": (listing.name.encode(),),
        "description": (listing.subject.encode(),) if listing.subject else (),
        "cACertificate": listing.certificates,
        "crossCertificatePair": crosswise,
        **{kind.value: found for kind, found in by_kind.items()},
    }
    return make_entry(dn, user, operational_of(dn, "applicationProcess"))


def _fitting(ders: Iterable[bytes], most: int) -> tuple[bytes, ...]:
    found: list[bytes] = []
    room = most
    for der in ders:
        if len(der) <= room and len(found) < MOST_LISTS:
            found.append(der)
            room -= len(der)
    return tuple(found)
