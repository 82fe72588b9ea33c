"""Keys and certificates of units as the database has them: which one signs now, which are spent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import attrs
from cryptography import x509
from sqlalchemy import Connection

from pkiserver.authority.model import Generation
from pkiserver.foundation.extensionvalue import extension_value
from pkiserver.keys.algorithms import KeyType
from pkiserver.keys.doors import Door
from pkiserver.store import certificates
from pkiserver.store.authority import keys as key_rows
from pkiserver.store.authority.key_use import certified_until
from pkiserver.store.certificates import CertificateState
from pkiserver.timestamping.unit import TimestampUnit

GenerationOf = Callable[[int], Generation | None]
"""The key generation of that number."""
TEMPLATE = "timestamp-unit"
"""The template name that unit certificates carry in the records."""


@attrs.frozen
class Credential:
    """A unit's key and certificate. ``signs_until`` ends the private key's usage period, exclusively.

    ``record_id`` rises with each certificate that is made, also within a second.
    """

    key_name: str
    certificate: bytes = attrs.field(repr=False)
    generation_id: int
    signs_from: datetime
    signs_until: datetime
    record_id: int

    def signs(self, now: datetime) -> bool:
        """Whether the key may sign now."""
        return self.signs_from <= now < self.signs_until


@attrs.frozen
class Found:
    """What there is for one unit: credentials that can sign, newest first, and keys that no certificate uses any more.

    ``fresh`` keys never had a certificate, ``spent`` ones have had the last of theirs.
    """

    usable: tuple[Credential, ...] = ()
    fresh: tuple[str, ...] = ()
    spent: tuple[str, ...] = ()


def key_prefix(unit: str) -> str:
    """How the names of a unit's keys begin; the time of their making follows."""
    return f"tsu-{unit}_"


def wanted_doors(unit: TimestampUnit) -> frozenset[Door]:
    """What a unit's key is bound to. Only the PKCS#7 counter-signature needs the door of CMS."""
    return frozenset({Door.TIMESTAMP, Door.CMS} if unit.authenticode.enabled else {Door.TIMESTAMP})


def usage_period(certificate: x509.Certificate) -> tuple[datetime, datetime]:
    """When the key of a certificate may sign: its validity, narrowed by the private key usage period."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    period = extension_value(certificate, x509.PrivateKeyUsagePeriod)
    if period is None:
        return start, end
    if period.not_before is not None:
        start = max(start, _aware(period.not_before))
    if period.not_after is not None:
        end = min(end, _aware(period.not_after))
    return start, end


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def fits(credential: Credential, unit: TimestampUnit, generation_of: GenerationOf) -> bool:
    """Whether issuer, subject and key of a credential are as the unit's settings have them now."""
    certificate = x509.load_der_x509_certificate(credential.certificate)
    key_type = KeyType.of(certificate.public_key())
    generation = generation_of(credential.generation_id)
    issuer = None if generation is None else generation.authority
    return (issuer, certificate.subject, key_type) == (unit.issuer, unit.subject_name, KeyType.parse(unit.key_type))


def in_order(found: Found, unit: TimestampUnit, generation_of: GenerationOf) -> list[Credential]:
    """Those that can sign, the one that is to do so first: as the settings have it before others, then the newest."""
    return sorted(found.usable, key=lambda one: not fits(one, unit, generation_of))


def find(connection: Connection, units: Iterable[TimestampUnit], now: datetime) -> dict[str, Found]:
    """What there is for each unit, by name."""
    wanted = {key_prefix(unit.name): unit for unit in units}
    usable: dict[str, list[Credential]] = {unit.name: [] for unit in wanted.values()}
    fresh: dict[str, list[str]] = {unit.name: [] for unit in wanted.values()}
    spent: dict[str, list[str]] = {unit.name: [] for unit in wanted.values()}
    for row in key_rows.list_all(connection):
        unit = wanted.get(row.name[: row.name.find("_") + 1])
        if unit is None:
            continue
        mine = _credentials(connection, row.name, row.spki_sha256, now)
        if certified_until(connection, row.spki_sha256) is None:
            fresh[unit.name].append(row.name)
        elif not any(one.signs_until > now for _, one in mine):
            spent[unit.name].append(row.name)
        if wanted_doors(unit) <= row.doors:
            usable[unit.name] += [one for issued, one in mine if issued and one.signs(now)]
    for some in usable.values():
        some.sort(key=lambda one: one.record_id, reverse=True)
    return {name: Found(tuple(usable[name]), tuple(fresh[name]), tuple(spent[name])) for name in usable}


def _credentials(
    connection: Connection, key_name: str, spki_sha256: bytes, now: datetime
) -> list[tuple[bool, Credential]]:
    """A key's credentials that are not revoked, and whether they count: those on hold may come back."""
    found = []
    for one in certificates.valid_by_key(connection, spki_sha256, now=now, template=TEMPLATE):
        if one.der is None:
            continue
        start, end = usage_period(x509.load_der_x509_certificate(one.der))
        credential = Credential(key_name, one.der, one.generation_id, start, end, one.id)
        found.append((one.state is CertificateState.ISSUED, credential))
    return found
