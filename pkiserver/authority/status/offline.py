"""A CRL from files alone: for a root whose key lives on a machine without network and without our database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import attrs
from cryptography import x509

from pkiserver.authority.certparts import signature_identifier
from pkiserver.authority.model import Authority, CaCertificate, Duty
from pkiserver.authority.status.crlder import CrlEntry, CrlHead, EncodedCrl, encode_tbs
from pkiserver.authority.status.policy import CLOCK_STEP
from pkiserver.authority.status.values import parse_reason
from pkiserver.foundation import der
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.foundation.unreadable import UNREADABLE
from pkiserver.keys.algorithms import SignatureScheme, load_spki
from pkiserver.keys.doors import Door
from pkiserver.keys.keyring import KeyRing
from pkiserver.keys.records import KeyRecord
from pkiserver.keys.settings import ProviderSettings
from pkiserver.store.certificates.values import RevocationReason

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_LARGEST_NUMBER = (1 << 63) - 2
_UNDERSTOOD = frozenset((x509.CRLReason.oid, x509.InvalidityDate.oid))


def seconds(moment: datetime) -> int:
    """Whole seconds since 1970, UTC."""
    return (moment - _EPOCH) // _SECOND


@attrs.frozen
class CrlView:
    """A CRL as read from outside, its signature verified. ``number`` is None where it has none."""

    der: bytes = attrs.field(repr=False)
    crl: x509.CertificateRevocationList
    number: int | None
    this_update: datetime
    next_update: datetime | None

    @property
    def is_complete(self) -> bool:
        """Whether it covers everything its issuer's key revoked: neither a delta nor limited to a part."""
        limiting = (x509.DeltaCRLIndicator.oid, x509.IssuingDistributionPoint.oid)
        return not any(extension.oid in limiting for extension in self.crl.extensions)


def read_crl(data: bytes, issuer: CaCertificate) -> CrlView:
    """A DER CRL, which must be this issuer's: its DN octet for octet, and its signature.

    Raises:
        Rejected: with every reason.
    """
    try:
        crl = x509.load_der_x509_crl(data)
        extensions = crl.extensions
        scheme = SignatureScheme.of_identifier(signature_identifier(data))
    except UNREADABLE as error:
        raise Rejected.because(Refusal.MALFORMED, f"not a certificate revocation list: {error}") from error
    reasons = []
    if _issuer_octets(crl.tbs_certlist_bytes) != issuer.subject_der:
        reasons.append(Reason(Refusal.CONFLICT, "the list names another issuer than the certificate's subject"))
    if Duty.CRLS not in issuer.duties:
        reasons.append(Reason(Refusal.CONFIGURATION, "the issuer's certificate does not permit signing CRLs (cRLSign)"))
    if not scheme.verify(issuer.certificate.public_key(), crl.signature, crl.tbs_certlist_bytes):
        reasons.append(Reason(Refusal.CONFLICT, "the list's signature is not the issuer's"))
    if reasons:
        raise Rejected(reasons)
    number = next((one.value.crl_number for one in extensions if isinstance(one.value, x509.CRLNumber)), None)
    return CrlView(data, crl, number, crl.last_update_utc, crl.next_update_utc)


def read_complete(data: bytes, issuer: CaCertificate, now: datetime) -> tuple[CrlView, int, datetime]:
    """A list that can be served as this issuer's complete one, with its number and nextUpdate.

    Raises:
        Rejected: It is not this issuer's, not complete, from the future, or lacks one of the two.
    """
    view = read_crl(data, issuer)
    if not view.is_complete:
        raise Rejected.because(Refusal.UNSUPPORTED, "the list is not a complete one")
    if view.number is None or view.next_update is None:
        raise Rejected.because(Refusal.UNSUPPORTED, "the list lacks a CRL number or nextUpdate")
    if view.number > _LARGEST_NUMBER:
        raise Rejected.because(Refusal.UNSUPPORTED, "CRL numbers above 63 bits are not kept here")
    if view.this_update > now + CLOCK_STEP:
        text = f"the list is from the future ({view.this_update:%Y-%m-%d %H:%M:%SZ}): by the clock of its signer"
        raise Rejected.because(Refusal.CONFLICT, text)
    return view, view.number, view.next_update


def number_of(authority: Authority, data: bytes) -> int:
    """The number of a list that one of an authority's keys signed.

    Raises:
        Rejected: none did, or it has no number.
    """
    refused = Rejected.because(Refusal.CONFLICT, f"authority {authority.name} has no certificate yet")
    for generation in authority.generations:
        if generation.ca is None:
            continue
        try:
            number = read_crl(data, generation.ca).number
        except Rejected as error:
            refused = error
            continue
        if number is None:
            raise Rejected.because(Refusal.UNSUPPORTED, "the list has no CRL number")
        return number
    raise refused


def _issuer_octets(tbs: bytes) -> bytes:
    # TBSCertList of version 2: version, signature, issuer.
    fields = der.children(tbs, der.element(tbs))
    at = 2 if fields[0].tag == der.INTEGER else 1
    return tbs[fields[at].start : fields[at].end]


def entries_of(view: CrlView) -> Iterator[CrlEntry]:
    """The entries of a list, to be carried over to the next.

    Raises:
        Rejected: An entry has an extension that would be lost.
    """
    for revoked in view.crl:
        unknown = [one.oid.dotted_string for one in revoked.extensions if one.oid not in _UNDERSTOOD]
        if unknown:
            text = f"entry {revoked.serial_number:x} has extensions that are not understood: {', '.join(unknown)}"
            raise Rejected.because(Refusal.UNSUPPORTED, text)
        reason = RevocationReason.UNSPECIFIED
        invalidity = None
        for one in revoked.extensions:
            if isinstance(one.value, x509.CRLReason):
                reason = parse_reason(one.value.reason.value)
            elif isinstance(one.value, x509.InvalidityDate):
                invalidity = seconds(one.value.invalidity_date_utc)
        yield CrlEntry(revoked.serial_number, seconds(revoked.revocation_date_utc), int(reason), invalidity)


@attrs.frozen
class OfflineCrl:
    """What the next CRL shall say.

    Attributes:
        issuer: Whose list it is.
        scheme: How it is signed.
        this_update: Issue time, aware UTC.
        validity: From there to nextUpdate.
        previous: The last list; its entries are carried over and its number is counted on.
        number: The number to use; one more than the previous list's where it is None.
        revoked: New entries; one for a serial number that is listed already replaces its reason and keeps its date.
        released: Serial numbers of entries on hold that are taken off.
    """

    issuer: CaCertificate
    scheme: SignatureScheme
    this_update: datetime
    validity: timedelta
    previous: CrlView | None = None
    number: int | None = None
    revoked: tuple[CrlEntry, ...] = ()
    released: frozenset[int] = frozenset()


def _merge(previous: Iterable[CrlEntry], wanted: OfflineCrl) -> tuple[CrlEntry, ...]:
    entries = {entry.serial: entry for entry in previous}
    reasons = []
    hold = int(RevocationReason.CERTIFICATE_HOLD)
    for entry in wanted.revoked:
        known = entries.get(entry.serial)
        if known is not None and known.reason != hold:
            reasons.append(Reason(Refusal.CONFLICT, f"serial {entry.serial:x} is on the list already"))
        date = entry.revoked_at if known is None else known.revoked_at
        entries[entry.serial] = entry._replace(revoked_at=date)
    for serial in sorted(wanted.released):
        known = entries.pop(serial, None)
        if known is None or known.reason != hold:
            reasons.append(Reason(Refusal.CONFLICT, f"serial {serial:x} is not on hold"))
    if reasons:
        raise Rejected(reasons)
    return tuple(entries.values())


def next_number(wanted: OfflineCrl) -> int:
    """The list's number: as asked, or one more than the previous; raises :class:`Rejected` when it would not rise."""
    last = wanted.previous.number if wanted.previous is not None else None
    if wanted.number is None:
        return 1 if last is None else last + 1
    if last is not None and wanted.number <= last:
        raise Rejected.because(Refusal.CONFLICT, f"CRL number {wanted.number} does not rise: the last one was {last}")
    return wanted.number


def encode_offline(wanted: OfflineCrl) -> EncodedCrl:
    """The to-be-signed list.

    Raises:
        Rejected: with every reason found.
    """
    if Duty.CRLS not in wanted.issuer.duties:
        raise Rejected.because(Refusal.CONFIGURATION, "the issuer's certificate does not permit signing CRLs (cRLSign)")
    if wanted.previous is not None and not wanted.previous.is_complete:
        raise Rejected.because(Refusal.UNSUPPORTED, "the previous list is not a complete one")
    if wanted.previous is not None and wanted.previous.this_update > wanted.this_update:
        text = (
            f"the previous list is of {wanted.previous.this_update:%Y-%m-%d %H:%M:%SZ}: the clock here is behind that"
        )
        raise Rejected.because(Refusal.CONFLICT, text)
    entries = _merge(entries_of(wanted.previous) if wanted.previous is not None else (), wanted)
    return encode_tbs(
        CrlHead(
            issuer=wanted.issuer.subject_der,
            algorithm=wanted.scheme.algorithm_identifier(),
            this_update=wanted.this_update,
            next_update=wanted.this_update + wanted.validity,
            number=next_number(wanted),
            key_identifier=wanted.issuer.key_identifier,
        ),
        entries,
    )


@attrs.frozen
class SignedCrl:
    """A finished list."""

    der: bytes = attrs.field(repr=False)
    number: int
    entries: int


class _NoRegistry:
    """A key registry for a machine without a database: it begins empty and remembers nothing."""

    async def list(self) -> Sequence[KeyRecord]:
        return ()

    async def add(self, record: KeyRecord, *, actor: str, operation: str) -> None:
        """The key is only looked at."""

    async def delete(self, name: str, *, actor: str) -> None:
        """There is nothing to forget."""

    async def note(self, name: str, *, actor: str, operation: str, outcome: str, detail: str) -> None:
        """There is no audit log."""


async def sign_offline(wanted: OfflineCrl, stores: Sequence[ProviderSettings], uri: str, clock: Clock) -> SignedCrl:
    """Sign a list with the key at ``uri`` in one of ``stores``, which must be the issuer certificate's.

    Raises:
        Rejected: with every reason found.
        Unavailable: The key cannot be used, or is another than the certificate's.
    """
    encoded = encode_offline(wanted)
    ring = await KeyRing.open_with(stores, _NoRegistry(), clock)
    try:
        await ring.adopt("offline", uri, (Door.CRL,), public_key=load_spki(wanted.issuer.spki))
        octets = await ring.crl_signer("offline").sign(encoded.der, wanted.scheme)
    finally:
        await ring.close()
    return SignedCrl(octets, next_number(wanted), encoded.entries)
