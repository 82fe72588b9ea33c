"""Delegated OCSP responders: for every key generation a key and a certificate of their own, renewed by themselves.

RFC 6960 section 4.2.2.2: the certificate is issued by the very key whose certificates are asked about, has
id-kp-OCSPSigning alone, and id-pkix-ocsp-nocheck, so that nobody asks about it in turn; it is short-lived instead.
"""

from __future__ import annotations

from datetime import datetime

import attrs
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from sqlalchemy import Connection
from twisted.logger import Logger

from pkiserver.authority.delegates.ownkeys import BACKDATE, OwnKeys, Unused, find_unused
from pkiserver.authority.extensions import extension, key_usage
from pkiserver.authority.model import Authority, Duty, Generation
from pkiserver.authority.order import Order
from pkiserver.authority.status.directory import (
    RESPONDER_TEMPLATE,
    SERVING,
    Responder,
    key_prefix,
    responders,
    wanted_key_types,
)
from pkiserver.authority.status.policy import OcspSigning
from pkiserver.authority.status.turns import StatusProblem, Turn
from pkiserver.authority.templates.usages import Usage
from pkiserver.foundation.errors import PkiError, Unavailable
from pkiserver.keys.algorithms import KeyType, load_spki
from pkiserver.keys.doors import Door
from pkiserver.store.authority.keys import SigningKey


@attrs.frozen
class _Found:
    """A generation's responders, and its keys that no certificate uses."""

    valid: tuple[Responder, ...]
    unused: Unused


class ResponderKeeper:
    """Makes and renews delegated responders, whichever process comes first."""

    _log = Logger()

    def __init__(self, own: OwnKeys) -> None:
        self._own = own
        self._problems: dict[int, StatusProblem] = {}

    def problems(self) -> tuple[StatusProblem, ...]:
        """What went wrong at the last try, by generation; empty when all is well."""
        return tuple(self._problems.values())

    async def run_due(self) -> tuple[str, ...]:
        """Issue every responder certificate that is due; one that fails does not hold up the others.

        Returns:
            The names of the keys that got a certificate.
        """
        made: list[str] = []
        for authority in self._own.authorities.list():
            for generation in authority.generations:
                wanted = _wants(authority, generation, self._own.clock.now())
                try:
                    names = await self._look_after(authority, generation) if wanted else ()
                except PkiError as error:
                    self._log.warn("{name}: no OCSP responder: {why}", name=authority.name, why=str(error))
                    self._problems[generation.id] = StatusProblem(authority.name, f"OCSP responder: {error}")
                    continue
                self._problems.pop(generation.id, None)
                made += names
        return tuple(made)

    async def renew(self, authority: Authority, generation: Generation) -> str:
        """Issue a new responder certificate now, with a new key, whatever the others' age; its key's name.

        Raises:
            Rejected: The generation cannot issue, with every reason.
            Unavailable: Key or database are away, or another process is at it.
        """
        async with self._own.turns.turn(f"ocsp-responder:{generation.id}") as turn:
            if turn is None:
                raise Unavailable("another process is renewing this responder", retry_after=5)
            found = await self._find(generation)
            wanted = wanted_key_types(authority.settings.ocsp, generation.certificate)
            names = [await self._make(authority, generation, key_type, found.unused.fresh, turn) for key_type in wanted]
            return names[0]

    async def _look_after(self, authority: Authority, generation: Generation) -> tuple[str, ...]:
        if not self._due(authority, generation, await self._find(generation)):
            return ()
        async with self._own.turns.turn(f"ocsp-responder:{generation.id}") as turn:
            if turn is None:
                return ()
            found = await self._find(generation)  # another process may have been here before us
            due = self._due(authority, generation, found)
            names = [await self._make(authority, generation, key_type, found.unused.fresh, turn) for key_type in due]
            if names:
                await self._own.delete(found.unused.spent)
            return tuple(names)

    def _due(self, authority: Authority, generation: Generation, found: _Found) -> list[KeyType]:
        """The key types of which a responder is to be made now."""
        ends: dict[KeyType, datetime] = {}
        for one in found.valid:
            key_type = one.key_type
            ends[key_type] = max(one.record.not_after, ends.get(key_type, one.record.not_after))
        wanted = wanted_key_types(authority.settings.ocsp, generation.certificate)
        return [one for one in wanted if self._is_due(authority, generation, ends.get(one))]

    def _is_due(self, authority: Authority, generation: Generation, latest: datetime | None) -> bool:
        if latest is None:
            return True
        if latest - self._own.clock.now() > authority.settings.ocsp.renew_before:
            return False
        end = self._end(authority, generation)
        # Near the end of the authority itself a new one would live no longer.
        return end < generation.certificate.not_after or end > latest + BACKDATE

    def _end(self, authority: Authority, generation: Generation) -> datetime:
        return min(self._own.now() + authority.settings.ocsp.certificate_validity, generation.certificate.not_after)

    async def _find(self, generation: Generation) -> _Found:
        now = self._own.clock.now()
        prefix = key_prefix(generation)

        def work(connection: Connection) -> _Found:
            valid = responders(connection, [generation.id], now)[generation.id]
            return _Found(tuple(valid), find_unused(connection, (prefix,), now))

        return await self._own.database.read(work)

    async def _make(
        self, authority: Authority, generation: Generation, key_type: KeyType, fresh: tuple[SigningKey, ...], turn: Turn
    ) -> str:
        left = [key.name for key in fresh if KeyType.of(load_spki(key.spki)) == key_type]
        if left:  # a process died between making a key and certifying it
            name = left[-1]
            await self._own.keys.refresh()
        else:
            assert generation.key_name is not None  # _wants saw to it
            name = self._own.new_name(key_prefix(generation))
            await self._own.generate(name, key_type, (Door.OCSP,), beside=generation.key_name)
        issued = await self._own.certify(self._order(authority, generation, name), turn)
        self._log.info(
            "{name}: new OCSP responder {key}, serial {serial}",
            name=authority.name,
            key=name,
            serial=f"{issued.serial:x}",
        )
        return name

    def _order(self, authority: Authority, generation: Generation, key_name: str) -> Order:
        return self._own.order(
            key_name,
            RESPONDER_TEMPLATE,
            issuing=self._own.authorities.issuing_by(authority, generation),
            ca=generation.certificate,
            subject=f"OCSP responder {authority.name} {generation.number}.{self._own.now():%Y%m%d}",
            not_after=self._end(authority, generation),
            extensions=(
                key_usage(frozenset({Usage.DIGITAL_SIGNATURE}), critical=True),
                extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])),
                extension(x509.OCSPNoCheck()),
            ),
        )


def _wants(authority: Authority, generation: Generation, now: datetime) -> bool:
    """Whether a generation shall have a delegated responder made here; after its own end none can be."""
    policy = authority.settings.ocsp
    return (
        policy.enabled
        and policy.signing is not OcspSigning.AUTHORITY
        and generation.state in SERVING
        and generation.key_name is not None
        and Duty.CERTIFICATES in generation.duties
        and generation.certificate.not_after > now
    )
