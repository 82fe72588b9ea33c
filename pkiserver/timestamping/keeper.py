"""Gives every unit a key and a certificate, and a successor in time; destroys keys that may sign no more.

RFC 3161 section 2.3: a key for time-stamping only, its certificate with id-kp-timeStamping alone and critical. The
certificate lasts as long as tokens shall be checked; the key signs for its usage period only (EN 319 421, 7.6.6).
"""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from sqlalchemy import Connection
from twisted.logger import Logger

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.authority.delegates.ownkeys import ACTOR, OwnKeys
from pkiserver.authority.extensions import extension, key_usage
from pkiserver.authority.order import Order
from pkiserver.authority.status.turns import Turn
from pkiserver.authority.templates.usages import Usage
from pkiserver.foundation.errors import PkiError, Refusal, Rejected, Unavailable
from pkiserver.keys.algorithms import KeyType
from pkiserver.timestamping.credentials import TEMPLATE, Found, find, fits, key_prefix, wanted_doors
from pkiserver.timestamping.library import UnitLibrary, UnitProblem
from pkiserver.timestamping.unit import TimestampUnit

_log = Logger(namespace="pkiserver.timestamping")


class UnitKeeper:
    """Makes and renews units' keys and certificates, whichever process comes first."""

    def __init__(self, library: UnitLibrary, own: OwnKeys, audit: AuditLog) -> None:
        self._library = library
        self._own = own
        self._audit = audit
        self._problems: dict[str, UnitProblem] = {}

    def problems(self) -> tuple[UnitProblem, ...]:
        """What went wrong at the last try, by unit; empty when all is well."""
        return tuple(self._problems.values())

    async def run_due(self) -> tuple[str, ...]:
        """Do what is due for every unit; one that fails does not hold up the others.

        Returns:
            The names of the keys that got a certificate.
        """
        made = []
        units = self._library.enabled()
        self._problems = {name: one for name, one in self._problems.items() if name in {unit.name for unit in units}}
        for unit in units:
            try:
                name = await self._look_after(unit)
            except PkiError as error:
                _log.warn("unit {name}: no key or certificate: {why}", name=unit.name, why=str(error))
                self._problems[unit.name] = UnitProblem(unit.name, f"key or certificate: {error}")
                continue
            self._problems.pop(unit.name, None)
            if name is not None:
                made.append(name)
        return tuple(made)

    async def renew(self, unit: TimestampUnit) -> str:
        """Give a unit a new key and certificate now; the key's name.

        Raises:
            Rejected: its authority cannot issue, with every reason.
            Unavailable: key or database are away, or another process is at it.
        """
        async with self._own.turns.turn(f"timestamp-unit:{unit.name}") as turn:
            if turn is None:
                raise Unavailable("another process is renewing this unit", retry_after=5)
            return await self._make(unit, (await self._find(unit)).fresh, turn)

    async def _find(self, unit: TimestampUnit) -> Found:
        now = self._own.clock.now()
        found = await self._own.database.read(lambda connection: find(connection, (unit,), now))
        return found[unit.name]

    async def _look_after(self, unit: TimestampUnit) -> str | None:
        found = await self._find(unit)
        if not self._due(unit, found) and not found.spent:
            return None
        async with self._own.turns.turn(f"timestamp-unit:{unit.name}") as turn:
            if turn is None:
                return None
            found = await self._find(unit)  # another process may have been here before us
            name = await self._make(unit, found.fresh, turn) if self._due(unit, found) else None
            for spent in found.spent:
                await self._own.keys.delete(spent, actor=ACTOR)
            return name

    def _due(self, unit: TimestampUnit, found: Found) -> bool:
        generation_of = self._own.authorities.generation
        signing = next((one for one in found.usable if fits(one, unit, generation_of)), None)
        if signing is None:
            return True
        if signing.signs_until - self._own.clock.now() > unit.renew_before:
            return False
        # Near the end of the authority itself a new one would sign no longer.
        return self._ends(unit)[0] > signing.signs_until

    def _ends(self, unit: TimestampUnit) -> tuple[datetime, datetime]:
        """Until when a key made now would sign, and its certificate last."""
        now = self._own.now()
        authority_ends = self._own.authorities.get(unit.issuer).current.certificate.not_after
        certificate_ends = min(now + unit.certificate_validity, authority_ends)
        return min(now + unit.key_usage_period, certificate_ends), certificate_ends

    async def _make(self, unit: TimestampUnit, fresh: tuple[str, ...], turn: Turn) -> str:
        name = await self._reuse(unit, fresh) or await self._generate(unit)
        issued = await self._own.certify(self._order(unit, name), turn)

        def note(connection: Connection) -> None:
            details = (("key", name), ("serial", f"{issued.serial:x}"), ("change", "new key and certificate"))
            event = AuditEvent(AuditKind.KEY_OPERATION, ACTOR, f"timestamp-unit {unit.name}", details=details)
            self._audit.append(connection, event)

        await self._own.database.write(note)
        _log.info(
            "unit {name}: new key {key}, certificate {serial}", name=unit.name, key=name, serial=f"{issued.serial:x}"
        )
        return name

    async def _reuse(self, unit: TimestampUnit, fresh: tuple[str, ...]) -> str | None:
        """A key that a process made and died before certifying it."""
        if fresh:
            await self._own.keys.refresh()
        for name in reversed(fresh):
            info = self._own.keys.show(name)
            if str(info.key_type) == unit.key_type and wanted_doors(unit) <= info.record.doors:
                return name
        return None

    async def _generate(self, unit: TimestampUnit) -> str:
        issuing = self._own.authorities.issuing(unit.issuer)
        name = self._own.new_name(key_prefix(unit.name))
        key_type = KeyType.parse(unit.key_type)
        await self._own.generate(name, key_type, wanted_doors(unit), beside=issuing.key_name, store=unit.key_store)
        return name

    def _order(self, unit: TimestampUnit, key_name: str) -> Order:
        issuing = self._own.authorities.issuing(unit.issuer)
        authority = self._own.authorities.get(unit.issuer)
        view = self._own.authorities.view(authority, authority.current, template=TEMPLATE)
        ca = authority.current.certificate
        # Not backdated: a token's time is never before its unit's certificate.
        start = max(self._own.now(), ca.certificate.not_valid_before_utc)
        signs_until, ends = self._ends(unit)
        if signs_until <= start:
            raise Rejected.because(Refusal.BAD_VALIDITY, f"authority {unit.issuer} ends before a new key could sign")
        return self._own.order(
            key_name,
            TEMPLATE,
            issuing=issuing,
            ca=ca,
            subject=unit.subject_name,
            not_before=start,
            not_after=ends,
            extensions=(
                key_usage(frozenset({Usage.DIGITAL_SIGNATURE}), critical=True),
                extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True),
                extension(x509.PrivateKeyUsagePeriod(start, signs_until)),
                *view.url_extensions(crl=True, ocsp=True, ca_issuers=True),
            ),
        )
