"""Delegated OCSP responders: for every key generation a key and a certificate of their own, renewed by themselves.

RFC 6960 section 4.2.2.2: the certificate is issued by the very key whose certificates are asked about, has
id-kp-OCSPSigning alone, and id-pkix-ocsp-nocheck, so that nobody asks about it in turn; it is short-lived instead.
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

import attrs
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from sqlalchemy import Connection
from twisted.logger import Logger

from pkiserver.authority.authorities import Authorities
from pkiserver.authority.extensions import extension, key_usage, subject_key_identifier
from pkiserver.authority.issue import Issuer
from pkiserver.authority.model import Authority, Duty, Generation
from pkiserver.authority.order import Order
from pkiserver.authority.prepare import Preparer
from pkiserver.authority.status.directory import (
    RESPONDER_TEMPLATE,
    SERVING,
    Responder,
    key_prefix,
    responders,
    wanted_key_types,
)
from pkiserver.authority.status.policy import OcspSigning
from pkiserver.authority.status.turns import StatusProblem, Turns
from pkiserver.authority.templates.usages import Usage
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import PkiError, Unavailable
from pkiserver.keys.algorithms import KeyType, load_spki
from pkiserver.keys.doors import Door
from pkiserver.keys.keyring import KeyRing
from pkiserver.store import keys as key_rows
from pkiserver.store.database import Database
from pkiserver.store.key_use import certified_until

_ACTOR = "system"
_BACKDATE = timedelta(minutes=5)
_AFTERLIFE = timedelta(days=1)
"""How long a responder's key is kept after the end of its certificate."""


@attrs.frozen
class _Found:
    """A generation's responders, and its keys that no certificate uses: ``fresh`` never had one, ``spent`` had."""

    valid: tuple[Responder, ...]
    fresh: tuple[tuple[KeyType, str], ...]
    spent: tuple[str, ...]


class ResponderKeeper:
    """Makes and renews delegated responders, whichever process comes first."""

    _log = Logger()

    def __init__(
        self,
        *,
        database: Database,
        keys: KeyRing,
        authorities: Authorities,
        preparer: Preparer,
        issuer: Issuer,
        turns: Turns,
        clock: Clock,
    ) -> None:
        self._database = database
        self._keys = keys
        self._authorities = authorities
        self._preparer = preparer
        self._issuer = issuer
        self._turns = turns
        self._clock = clock
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
        for authority in self._authorities.list():
            for generation in authority.generations:
                try:
                    names = await self._look_after(authority, generation) if _wants(authority, generation) else ()
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
        async with self._turns.turn(f"ocsp-responder:{generation.id}") as turn:
            if turn is None:
                raise Unavailable("another process is renewing this responder", retry_after=5)
            found = await self._find(generation)
            wanted = wanted_key_types(authority.settings.ocsp, generation.certificate)
            names = [await self._make(authority, generation, key_type, found.fresh) for key_type in wanted]
            return names[0]

    async def _look_after(self, authority: Authority, generation: Generation) -> tuple[str, ...]:
        if not self._due(authority, generation, await self._find(generation)):
            return ()
        async with self._turns.turn(f"ocsp-responder:{generation.id}") as turn:
            if turn is None:
                return ()
            found = await self._find(generation)  # another process may have been here before us
            due = self._due(authority, generation, found)
            names = [await self._make(authority, generation, key_type, found.fresh) for key_type in due]
            if names:
                for spent in found.spent:
                    await self._keys.delete(spent, actor=_ACTOR)
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
        if latest - self._clock.now() > authority.settings.ocsp.renew_before:
            return False
        # Near the end of the authority itself a new one would live no longer.
        return self._end(authority, generation) > latest + _BACKDATE

    def _end(self, authority: Authority, generation: Generation) -> datetime:
        now = self._clock.now().replace(microsecond=0)
        return min(now + authority.settings.ocsp.certificate_validity, generation.certificate.not_after)

    async def _find(self, generation: Generation) -> _Found:
        now = self._clock.now()
        prefix = key_prefix(generation)

        def work(connection: Connection) -> _Found:
            valid = responders(connection, [generation.id], now)[generation.id]
            fresh, spent = [], []
            for row in key_rows.list_all(connection):
                if row.name.startswith(prefix):
                    until = certified_until(connection, row.spki_sha256)
                    if until is None:
                        fresh.append((KeyType.of(load_spki(row.spki)), row.name))
                    elif until + _AFTERLIFE < now:
                        spent.append(row.name)
            return _Found(tuple(valid), tuple(fresh), tuple(spent))

        return await self._database.read(work)

    async def _make(
        self, authority: Authority, generation: Generation, key_type: KeyType, fresh: tuple[tuple[KeyType, str], ...]
    ) -> str:
        left = [name for kind, name in fresh if kind == key_type]
        if left:  # a process died between making a key and certifying it
            name = left[-1]
            await self._keys.refresh()
        else:
            name = await self._generate(generation, key_type)
        order = self._order(authority, generation, name)
        issued = await self._issuer.issue(await self._preparer.prepare_order(order))
        self._log.info(
            "{name}: new OCSP responder {key}, serial {serial}",
            name=authority.name,
            key=name,
            serial=f"{issued.serial:x}",
        )
        return name

    async def _generate(self, generation: Generation, key_type: KeyType) -> str:
        assert generation.key_name is not None  # _wants saw to it
        signing = self._keys.show(generation.key_name)
        if signing.provider is None:
            raise Unavailable(f"the key store of {generation.key_name} is away")
        name = f"{key_prefix(generation)}{self._clock.now():%Y%m%d%H%M%S}.{secrets.token_hex(4)}"
        await self._keys.generate(name, key_type, store=signing.provider, doors=(Door.OCSP,), actor=_ACTOR)
        return name

    def _order(self, authority: Authority, generation: Generation, key_name: str) -> Order:
        issuing = self._authorities.issuing_by(authority, generation)
        ca = generation.certificate
        now = self._clock.now().replace(microsecond=0)
        public_key = self._keys.public_key(key_name)
        common_name = f"OCSP responder {authority.name} {generation.number}.{now:%Y%m%d}"[:64]
        return Order(
            issuing=issuing,
            subject=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)]),
            public_key=public_key,
            not_before=max(now - _BACKDATE, ca.certificate.not_valid_before_utc),
            not_after=self._end(authority, generation),
            extensions=(
                extension(x509.AuthorityKeyIdentifier(ca.key_identifier, None, None)),
                extension(subject_key_identifier(public_key)),
                key_usage(frozenset({Usage.DIGITAL_SIGNATURE}), critical=True),
                extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])),
                extension(x509.OCSPNoCheck()),
            ),
            template=RESPONDER_TEMPLATE,
            requester=_ACTOR,
            protocol="internal",
            request_id="",
        )


def _wants(authority: Authority, generation: Generation) -> bool:
    """Whether a generation shall have a delegated responder made here."""
    policy = authority.settings.ocsp
    return (
        policy.enabled
        and policy.signing is not OcspSigning.AUTHORITY
        and generation.state in SERVING
        and generation.key_name is not None
        and Duty.CERTIFICATES in generation.duties
    )
