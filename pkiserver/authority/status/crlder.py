"""A streaming encoder of TBSCertList (RFC 5280 section 5.1).

Entries are encoded one by one into a single buffer of some 40 octets each; no entry stays an object, so that a list of
a million entries takes little more memory than its own octets.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

import attrs

from pkiserver.foundation import der

CRL_NUMBER = "2.5.29.20"
REASON_CODE = "2.5.29.21"
INVALIDITY_DATE = "2.5.29.24"
AUTHORITY_KEY_IDENTIFIER = "2.5.29.35"

MAX_CRL_NUMBER = (1 << 159) - 1
"""CRL numbers fit 20 octets (RFC 5280 section 5.2.3)."""

_VERSION_2 = der.integer(1)
_DAY = 86_400
_MIDNIGHT = b"000000Z"


class CrlEntry(NamedTuple):
    """One revoked certificate; a plain tuple because there may be millions.

    Attributes:
        serial: The serial number.
        revoked_at: Seconds since 1970, UTC.
        reason: The CRLReason number; 0 (unspecified) is not written (RFC 5280 section 5.3.1).
        invalidity_date: Seconds since 1970, UTC, or None.
    """

    serial: int
    revoked_at: int
    reason: int = 0
    invalidity_date: int | None = None


@attrs.frozen
class CrlHead:
    """Everything of a CRL but its entries.

    Attributes:
        issuer: The issuer's distinguished name, DER, copied from its certificate.
        algorithm: The AlgorithmIdentifier of the signature, DER.
        this_update: Issue time; whole seconds.
        next_update: The time by which the next list is there.
        number: The CRL number.
        key_identifier: The issuer certificate's subjectKeyIdentifier octets.
        extensions: Further crlExtensions, each a whole encoded Extension.
    """

    issuer: bytes
    algorithm: bytes
    this_update: datetime
    next_update: datetime
    number: int
    key_identifier: bytes
    extensions: tuple[bytes, ...] = ()


@attrs.frozen
class EncodedCrl:
    """A TBSCertList and how many entries are in it."""

    der: bytes
    entries: int


def _entry_extensions(reason: int, invalidity_date: int | None) -> bytes:
    parts = []
    if reason:
        parts.append(der.extension(REASON_CODE, der.enumerated(reason)))
    if invalidity_date is not None:
        moment = datetime.fromtimestamp(invalidity_date, UTC)
        parts.append(der.extension(INVALIDITY_DATE, der.generalized_time(moment)))
    return der.sequence(*parts) if parts else b""


def _encode_entries(entries: Iterable[CrlEntry]) -> tuple[bytearray, int]:
    buffer = bytearray()
    days: dict[int, bytes] = {}
    reasons = {reason: _entry_extensions(reason, None) for reason in range(11)}
    count = 0
    for serial, revoked_at, reason, invalidity_date in entries:
        day, second = divmod(revoked_at, _DAY)
        date = days.get(day)
        if date is None:
            date = days[day] = der.time(datetime.fromtimestamp(day * _DAY, UTC))[: -len(_MIDNIGHT)]
        moment = date + b"%02d%02d%02dZ" % (second // 3600, second // 60 % 60, second % 60)
        extensions = reasons[reason] if invalidity_date is None else _entry_extensions(reason, invalidity_date)
        octets = serial.to_bytes((serial.bit_length() + 8) // 8, "big")
        # Serial numbers have at most 20 octets and the extensions at most 40: every length is a single octet.
        length = 2 + len(octets) + len(moment) + len(extensions)
        if length > 127:
            raise ValueError("a serial number of more than 20 octets cannot be on a CRL")
        buffer += b"\x30%c\x02%c" % (length, len(octets))
        buffer += octets
        buffer += moment
        buffer += extensions
        count += 1
    return buffer, count


def encode_tbs(head: CrlHead, entries: Iterable[CrlEntry]) -> EncodedCrl:
    """The to-be-signed list.

    ``entries`` is read once, in order. revokedCertificates is left out when there are none (RFC 5280 section 5.1.2.6).

    Raises:
        ValueError: A number or serial number that does not fit.
    """
    if not 0 <= head.number <= MAX_CRL_NUMBER:
        raise ValueError("a CRL number has at most 159 bits")
    buffer, count = _encode_entries(entries)
    extensions = (
        der.extension(AUTHORITY_KEY_IDENTIFIER, der.sequence(der.tlv(0x80, head.key_identifier))),
        der.extension(CRL_NUMBER, der.integer(head.number)),
        *head.extensions,
    )
    before = b"".join(
        (_VERSION_2, head.algorithm, head.issuer, der.time(head.this_update), der.time(head.next_update)),
    )
    if count:
        before += der.header(der.SEQUENCE, len(buffer))
    after = der.explicit(0, der.sequence(*extensions))
    total = len(before) + len(buffer) + len(after)
    return EncodedCrl(der=b"".join((der.header(der.SEQUENCE, total), before, buffer, after)), entries=count)
