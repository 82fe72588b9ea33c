"""Which issuers' status is answered here, who signs for them, and what the records say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import attrs
from cryptography import x509
from sqlalchemy import Connection
from twisted.internet.defer import DeferredLock

from pkiserver.authority import certparts
from pkiserver.authority.authorities import Authorities
from pkiserver.authority.model import Authority, CaCertificate, Generation, GenerationState
from pkiserver.authority.status.cache import StatusCache
from pkiserver.authority.status.policy import CrlPolicy, OcspPolicy, OcspSigning
from pkiserver.authority.status.signing import answer_signers
from pkiserver.authority.status.source import AnswerSigner, CrlReference, ServedIssuer, Statuses
from pkiserver.foundation.clock import Clock
from pkiserver.keys.algorithms import KeyType, load_spki
from pkiserver.keys.keyring import KeyRing
from pkiserver.store import certificates
from pkiserver.store.authority import crl_history, crls
from pkiserver.store.authority import keys as key_rows
from pkiserver.store.authority.crls import FULL_SCOPE, CrlScope
from pkiserver.store.certificates import Certificate, CertificateState, CertificateStatus
from pkiserver.store.database import Database

RESPONDER_TEMPLATE = "ocsp-signing"
"""The template name that responder certificates carry in the records."""
HASH_NAMES = ("sha1", "sha256", "sha384", "sha512")
SERVING = frozenset({GenerationState.ACTIVE, GenerationState.PREVIOUS})

_MISS_PAUSE = 1.0
"""Seconds between two readings of the configuration for issuers that are not known: a flood of them costs nothing."""
_UNSIGNED_PAUSE = 0.1
"""The same for issuers that are ours and have no signer: another process may be making it this moment."""

_NEVER = datetime.max.replace(tzinfo=UTC)
_Key = tuple[str, bytes, bytes]


@attrs.frozen
class Responder:
    """A delegated responder: its key's name and its certificate's record."""

    key_name: str
    record: Certificate

    @property
    def certificate(self) -> bytes:
        """Its certificate, DER."""
        assert self.record.der is not None  # settled records without one are not ISSUED
        return self.record.der

    @property
    def key_type(self) -> KeyType:
        """What its key is."""
        return KeyType.of(x509.load_der_x509_certificate(self.certificate).public_key())


def wanted_key_types(policy: OcspPolicy, ca: CaCertificate) -> tuple[KeyType, ...]:
    """Of what types an authority's responder keys are to be, the one that signs by default first."""
    first = KeyType.parse(policy.key_type) if policy.key_type else KeyType.of(load_spki(ca.spki))
    return tuple(dict.fromkeys((first, *map(KeyType.parse, policy.further_key_types))))


def key_prefix(generation: Generation) -> str:
    """How the names of a generation's responder keys begin; the time of their making follows."""
    return f"ocsp-g{generation.id}-"


def responders(connection: Connection, generation_ids: Iterable[int], now: datetime) -> dict[int, list[Responder]]:
    """The valid delegated responders of each key generation, the longest-lived first."""
    prefixes = {f"ocsp-g{number}-": number for number in generation_ids}
    found: dict[int, list[Responder]] = {number: [] for number in prefixes.values()}
    for row in key_rows.list_all(connection):
        number = prefixes.get(row.name[: row.name.rfind("-") + 1])
        if number is None:
            continue
        valid = certificates.valid_by_key(connection, row.spki_sha256, now=now, template=RESPONDER_TEMPLATE)
        found[number] += [
            Responder(row.name, one)
            for one in valid
            if one.generation_id == number and one.state is CertificateState.ISSUED and one.not_before <= now
        ]
    for some in found.values():
        some.sort(key=lambda one: one.record.not_after, reverse=True)
    return found


class StatusDirectory:
    """The :class:`~pkiserver.authority.status.source.StatusSource` of this server's own authorities."""

    def __init__(self, database: Database, keys: KeyRing, authorities: Authorities, clock: Clock) -> None:
        self._database = database
        self._keys = keys
        self._authorities = authorities
        self._clock = clock
        self.cache = StatusCache(database, clock)
        """Let its ``poll`` be called every 50 ms; until then every question goes to the database."""
        self._served: Mapping[_Key, ServedIssuer] = {}
        self._refreshed = 0
        self._looked = float("-inf")
        self._reading = DeferredLock()

    async def refresh(self) -> None:
        """Read again who is served and who signs; call it regularly and when the configuration changes."""
        async with self._reading:
            await self._refresh()

    async def _refresh(self) -> None:
        self._looked = self._clock.monotonic()
        groups = _groups(self._authorities.list())
        numbers = [one.id for group in groups for one in group.generations]
        now = self._clock.now()
        found, lists = await self._database.read(
            lambda connection: (responders(connection, numbers, now), _references(connection, groups, now))
        )
        known = {key.name for key in self._keys.list()}
        if any(one.key_name not in known for some in found.values() for one in some):
            await self._keys.refresh()  # another process made the key
        self._served = dict(self._entries(groups, found, lists))
        self._refreshed += 1

    def _entries(
        self,
        groups: Sequence[_Group],
        found: Mapping[int, Sequence[Responder]],
        lists: Mapping[int, CrlReference],
    ) -> Iterable[tuple[_Key, ServedIssuer]]:
        for group in groups:
            delegated = [one for each in group.generations for one in found.get(each.id, ())]
            signer, *others = self._signers(group, delegated) or (None,)
            served = ServedIssuer(
                authority=group.authority.name,
                issuer_id=group.authority.issuer_id,
                generations=frozenset(one.id for one in group.generations),
                policy=group.authority.settings.ocsp,
                signer=signer,
                others=tuple(one for one in others if one is not None),
                crl=lists.get(group.generations[-1].id),
            )
            for hash_name in HASH_NAMES:
                yield (hash_name, *issuer_hashes(group.ca, hash_name)), served

    def _signers(self, group: _Group, delegated: Sequence[Responder]) -> list[AnswerSigner]:
        """Who can sign, and by what, the default first: one responder of each key type, else the authority's key."""
        policy = group.authority.settings.ocsp
        candidates = [] if policy.signing is OcspSigning.AUTHORITY else sorted(delegated, key=_end, reverse=True)
        # A key that this process cannot use gives way to an older one that it can.
        ready = [one for one in candidates if self._keys.is_ready(one.key_name)]
        if not ready and policy.signing is not OcspSigning.DELEGATED:
            own = next((one for one in reversed(group.generations) if one.key_name is not None), None)
            if own is not None and own.key_name is not None and (not candidates or self._keys.is_ready(own.key_name)):
                return list(self._own_key(own.key_name, own.certificate))
        found: dict[KeyType, tuple[AnswerSigner, ...]] = {}
        for one in ready or candidates:
            key_type = one.key_type
            if key_type not in found and (opened := self._open(one.key_name, one.certificate, delegated=True)):
                found[key_type] = opened
        preferred = [one for one in wanted_key_types(policy, group.ca) if one in found]
        order = dict.fromkeys((*preferred, *found))
        return [signer for key_type in order for signer in found[key_type]]

    def _own_key(self, key_name: str, ca: CaCertificate) -> tuple[AnswerSigner, ...]:
        found = self._open(key_name, ca.der, delegated=False)
        if ca.not_after > self._clock.now():
            return found
        # All that it signed ended with it. What is told in the archive time is how that stood, to whoever looks back.
        return tuple(attrs.evolve(one, not_after=_NEVER) for one in found)

    def _open(self, key_name: str, certificate: bytes, *, delegated: bool) -> tuple[AnswerSigner, ...]:
        return answer_signers(self._keys, key_name, certificate, delegated=delegated)

    def issuer_now(self, hash_name: str, name_hash: bytes, key_hash: bytes) -> ServedIssuer | None:
        """The issuer with these hashes, if it is known already and has a signer."""
        found = self._served.get((hash_name, name_hash, key_hash))
        if found is None or found.signer is None or found.signer.not_after <= self._clock.now():
            return None
        return found

    def statuses_now(self, issuer: ServedIssuer, serials: Sequence[int]) -> Statuses | None:
        """The statuses, if the cache has them all and is believed."""
        found = self.cache.statuses_now(issuer.issuer_id, serials)
        return None if found is None else tuple(_issued_by(issuer, status) for status in found)

    def state_now(self) -> object | None:
        """How often issuers were read, and the last change of a record."""
        state = self.cache.state
        return None if state is None else (self._refreshed, state)

    async def issuer(self, hash_name: str, name_hash: bytes, key_hash: bytes) -> ServedIssuer | None:
        """The issuer with these hashes; None when it is not served here."""
        key = (hash_name, name_hash, key_hash)
        found = self._served.get(key)
        stale = found is None or found.signer is None or found.signer.not_after <= self._clock.now()
        if not stale:
            return found
        # Whoever asks while the configuration is being read waits for what it says.
        async with self._reading:
            pause = _MISS_PAUSE if found is None else _UNSIGNED_PAUSE
            if self._clock.monotonic() - self._looked >= pause:
                await self._refresh()
        return self._served.get(key)

    async def statuses(self, issuer: ServedIssuer, serials: Sequence[int]) -> Statuses:
        """The status of each serial number under this issuer's key; None for what it never issued."""
        if not serials:
            return ()
        found = await self.cache.statuses(issuer.issuer_id, serials)
        return tuple(_issued_by(issuer, status) for status in found)


def _end(one: Responder) -> datetime:
    return one.record.not_after


def _issued_by(issuer: ServedIssuer, status: CertificateStatus | None) -> CertificateStatus | None:
    if status is None or status.state is CertificateState.BURNT or status.generation_id not in issuer.generations:
        return None
    return status


@attrs.frozen
class _Group:
    """Generations of an authority that share a key, oldest first: renewed without a new key."""

    authority: Authority
    ca: CaCertificate
    generations: tuple[Generation, ...]


def _groups(authorities: Iterable[Authority]) -> list[_Group]:
    groups = []
    for authority in authorities:
        by_key: dict[bytes, list[Generation]] = {}
        for generation in authority.generations:
            if generation.ca is not None and generation.state in SERVING:
                by_key.setdefault(generation.ca.spki, []).append(generation)
        groups += [_Group(authority, some[-1].certificate, tuple(some)) for some in by_key.values()]
    return groups


def _references(connection: Connection, groups: Iterable[_Group], now: datetime) -> dict[int, CrlReference]:
    """The newest complete list of each key whose authority's answers name it, if it is one to go by."""
    found = {}
    for group in groups:
        settings, generation = group.authority.settings, group.generations[-1]
        if not settings.ocsp.crl_reference or generation.crl_path is None:
            continue
        scope = crls.find(connection, generation.id, FULL_SCOPE)
        if scope is None or not _goes_on(settings.crl, generation, scope):
            continue
        newest = crl_history.newest(connection, scope.id)
        if newest is not None and newest.next_update > now:
            publication = settings.publication
            urls = publication.urls(publication.crl, generation.crl_path)
            url = next((one for one in urls if one.startswith("http")), "")
            found[generation.id] = CrlReference(url, newest.number, newest.this_update)
    return found


def _goes_on(policy: CrlPolicy, generation: Generation, scope: CrlScope) -> bool:
    """Whether lists are still to come at the path of the key itself: issued here, or brought in from where it is."""
    if generation.key_name is None:
        return True
    return policy.enabled and (scope.announced or any(not point.label for point in policy.points))


def issuer_hashes(ca: CaCertificate, hash_name: str) -> tuple[bytes, bytes]:
    """IssuerNameHash and issuerKeyHash of a CertID (RFC 6960 section 4.1.1)."""
    name = hashlib.new(hash_name, ca.subject_der, usedforsecurity=False).digest()
    key = hashlib.new(hash_name, certparts.subject_public_key(ca.spki), usedforsecurity=False).digest()
    return name, key
