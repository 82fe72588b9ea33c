"""Registration authorities for SCEP (RFC 8894 section 2.1.2): keys and certificates that roll over by themselves.

Envelopes are opened with RSA, so an EC authority needs a key beside its own. It lives in the authority's key store, is
bound to the doors for CMS and envelopes, and its certificate is issued by the authority itself. Predecessors serve
clients that have kept them until they expire.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import attrs
from cryptography import x509
from sqlalchemy import Connection
from twisted.internet import reactor as _reactor
from twisted.internet.defer import DeferredLock
from twisted.internet.task import deferLater
from twisted.logger import Logger

from pkiserver.authority.delegates.ownkeys import BACKDATE, OwnKeys, find_unused
from pkiserver.authority.delegates.ra_policy import RaKeys, opens_envelopes
from pkiserver.authority.extensions import Extension, extension, key_usage
from pkiserver.authority.model import Authority, Generation, GenerationState
from pkiserver.authority.order import Order
from pkiserver.authority.status.turns import StatusProblem, Turn
from pkiserver.authority.templates.usages import Usage
from pkiserver.foundation.errors import PkiError, Refusal, Rejected, Unavailable
from pkiserver.keys.algorithms import KeyType
from pkiserver.keys.doors import Door
from pkiserver.keys.faults import FaultKind, KeyProblem
from pkiserver.store import certificates
from pkiserver.store.authority import keys as key_rows
from pkiserver.store.certificates import CertificateState

_log = Logger(namespace="pkiserver.scep-ra")

reactor: Any = _reactor
TEMPLATE = "scep-ra"
"""The template name that these certificates carry in the records."""
FRESH_SECONDS = 5.0
"""For how long what was found is used without asking the database again."""
ANEW_SECONDS = 0.5
"""The same for whoever looks for one that another process may just have made; they wait until it has passed."""
_PATIENCE = 60
"""How often, every quarter of a second, a process looks for what another one is making."""
_SIGN, _OPEN = "-sign", "-open"


@attrs.frozen
class RaKey:
    """A key of a registration authority: its name in the key ring and its certificate."""

    key_name: str
    certificate: x509.Certificate = attrs.field(repr=False)
    der: bytes = attrs.field(repr=False)


@attrs.frozen
class RegistrationAuthority:
    """Who signs answers and who opens envelopes, often the same key; ``chain`` is DER, the issuing CA first."""

    authority: str
    signing: RaKey
    opening: RaKey
    chain: tuple[bytes, ...] = attrs.field(repr=False)

    @property
    def keys(self) -> tuple[RaKey, RaKey]:
        """The one that signs and the one that opens."""
        return self.signing, self.opening

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """Its one or two certificates, DER, without the chain."""
        return tuple(dict.fromkeys(one.der for one in self.keys))

    @property
    def not_after(self) -> datetime:
        """When the first of them ends."""
        return min(one.certificate.not_valid_after_utc for one in self.keys)


@attrs.frozen
class _Row:
    key_name: str
    der: bytes
    generation_id: int


@attrs.define
class _Kept:
    found: tuple[RegistrationAuthority, ...]
    at: float


class RaKeeper:
    """Finds, makes and renews registration authorities, whichever process comes first."""

    def __init__(self, own: OwnKeys) -> None:
        self._own = own
        self._kept: dict[str, _Kept] = {}
        self._making = DeferredLock()
        self._problems: dict[str, StatusProblem] = {}
        self._seen: dict[str, tuple[RegistrationAuthority, ...]] = {}

    def problems(self) -> tuple[StatusProblem, ...]:
        """What went wrong at the last try, and whose keys this node cannot use now; empty when all is well."""
        lacking = [
            StatusProblem(name, f"nobody can enrol by SCEP at this node: {trouble.text}")
            for name, found in self._seen.items()
            if found and (trouble := self.trouble(found[0])) is not None
        ]
        return (*self._problems.values(), *lacking)

    def trouble(self, found: RegistrationAuthority) -> KeyProblem | None:
        """Why this node cannot use a registration authority's keys; None where it can."""
        ring = self._own.keys
        names = [one.key_name for one in found.keys if not ring.is_ready(one.key_name)]
        try:
            return next((trouble for name in names if (trouble := ring.show(name).problem) is not None), None)
        except Rejected as error:
            return KeyProblem(found.authority, FaultKind.KEY_MISSING, str(error))

    async def get(self, name: str, *, anew: bool = False) -> tuple[RegistrationAuthority, ...]:
        """All that an authority's messages may be for, the one to give out first; made now where there is none.

        Args:
            name: The authority.
            anew: What was found a moment ago lacks one; look again, though not at once for every message of a stranger.

        Raises:
            Rejected: the authority is unknown, cannot issue, or its own key was not made for SCEP.
            Unavailable: key or database are away.
        """
        kept = self._kept.get(name)
        age = float("inf") if kept is None else self._own.clock.monotonic() - kept.at
        if kept is not None and age < FRESH_SECONDS and not anew:
            return kept.found
        if age < ANEW_SECONDS:
            await deferLater(reactor, ANEW_SECONDS - age)
            since = self._kept.get(name)
            if since is not None and since is not kept:  # others wanted to know, too
                return since.found
        authority = self._own.authorities.get(name)
        found = await self._find(authority)
        if not found:
            found = await self._make_first(authority)
        self._kept[name] = _Kept(found, self._own.clock.monotonic())
        return found

    async def run_due(self, names: Iterable[str]) -> tuple[str, ...]:
        """Make what is due for these authorities; one that fails does not hold up the others.

        Returns:
            The names of the authorities that got a new certificate.
        """
        made = []
        for name in names:
            try:
                if await self._look_after(self._own.authorities.get(name)):
                    made.append(name)
            except PkiError as error:
                _log.warn("{name}: no registration authority: {why}", name=name, why=str(error))
                self._problems[name] = StatusProblem(name, f"SCEP registration authority: {error}")
                continue
            self._problems.pop(name, None)
        return tuple(made)

    async def _look_after(self, authority: Authority) -> bool:
        if not self._due(authority, await self._find(authority)):
            return False
        async with self._own.turns.turn(_turn(authority)) as turn:
            # Another process may have been here before us.
            if turn is None or not self._due(authority, await self._find(authority)):
                return False
            await self._make(authority, turn)
            await self._clear(authority)
        self._kept.pop(authority.name, None)
        return True

    def _due(self, authority: Authority, found: tuple[RegistrationAuthority, ...]) -> bool:
        if authority.settings.scep.ra is RaKeys.AUTHORITY:
            return False
        mine = sorted((one for one in found if _suits(authority, one)), key=lambda one: one.not_after, reverse=True)
        if not mine:
            return True
        if mine[0].not_after - self._own.clock.now() > authority.settings.scep.renew_before:
            return False
        # Near the end of the authority itself a new one would live no longer.
        return self._end(authority) > mine[0].not_after + BACKDATE

    async def _make_first(self, authority: Authority) -> tuple[RegistrationAuthority, ...]:
        async with self._making:
            for _ in range(_PATIENCE):
                found = await self._find(authority)
                if found:
                    return found
                async with self._own.turns.turn(_turn(authority)) as turn:
                    if turn is not None:
                        # Another process may have been here before us.
                        if not await self._find(authority):
                            await self._make(authority, turn)
                        continue
                await deferLater(reactor, 0.25)
        raise Unavailable("another process is making the registration authority's key", retry_after=5)

    async def _find(self, authority: Authority) -> tuple[RegistrationAuthority, ...]:
        own = self._from_authority(authority) if authority.settings.scep.ra is RaKeys.AUTHORITY else ()
        generations = {
            one.id: one
            for one in authority.generations
            if one.state in {GenerationState.ACTIVE, GenerationState.PREVIOUS} and one.ca is not None
        }
        rows = await self._own.database.read(lambda connection: _valid(connection, generations, self._own.clock.now()))
        if {row.key_name for row in rows} - {key.name for key in self._own.keys.list()}:
            await self._own.keys.refresh()  # another process made a key
        pairs: dict[str, dict[str, _Row]] = {}
        for row in rows:
            role = next((one for one in (_SIGN, _OPEN) if row.key_name.endswith(one)), "")
            pairs.setdefault(row.key_name.removesuffix(role), {})[role] = row
        paired = [self._pair(authority, generations, roles) for roles in pairs.values()]
        whole = [one for one in paired if one is not None]
        # A key that this node cannot use gives way to an older one that it can.
        ranked = sorted(whole, key=lambda one: (self.trouble(one) is None, *_rank(authority, one)), reverse=True)
        self._seen[authority.name] = found = (*own, *ranked)
        return found

    def _pair(
        self, authority: Authority, generations: dict[int, Generation], roles: dict[str, _Row]
    ) -> RegistrationAuthority | None:
        signing, opening = roles.get(_SIGN, roles.get("")), roles.get(_OPEN, roles.get(""))
        if signing is None or opening is None:
            return None
        generation = generations[signing.generation_id]
        chain = (generation.certificate.der, *self._own.authorities.chain(generation))
        return RegistrationAuthority(authority.name, _ra_key(signing), _ra_key(opening), chain)

    def _from_authority(self, authority: Authority) -> tuple[RegistrationAuthority, ...]:
        """The authority's own keys, the current one first."""
        found = []
        for generation in sorted(authority.generations, key=lambda one: -one.number):
            if generation.key_name is None or generation.ca is None or generation.state is GenerationState.RETIRED:
                continue
            info = self._own.keys.show(generation.key_name)
            if not opens_envelopes(info.key_type, info.record.doors):
                continue
            ca = generation.certificate
            key = RaKey(generation.key_name, ca.certificate, ca.der)
            chain = (ca.der, *self._own.authorities.chain(generation))
            found.append(RegistrationAuthority(authority.name, key, key, chain))
        if not found:
            raise Rejected.because(
                Refusal.CONFIGURATION,
                f"the key of authority {authority.name} is not an RSA key with the doors cms and open: "
                'set scep.ra = "one"',
            )
        return tuple(found)

    def _end(self, authority: Authority) -> datetime:
        wished = self._own.now() + authority.settings.scep.certificate_validity
        return min(wished, authority.current.certificate.not_after)

    async def _make(self, authority: Authority, turn: Turn) -> None:
        name = self._own.new_name(_prefix(authority.current))
        if authority.settings.scep.ra is RaKeys.ONE:
            await self._certify(authority, name, frozenset({Door.CMS, Door.OPEN}), turn)
            return
        for role, door in ((_SIGN, Door.CMS), (_OPEN, Door.OPEN)):
            await self._certify(authority, f"{name}{role}", frozenset({door}), turn)

    async def _certify(self, authority: Authority, name: str, doors: frozenset[Door], turn: Turn) -> None:
        key_type = KeyType.parse(authority.settings.scep.key_type)
        beside = self._own.authorities.issuing(authority.name).key_name
        await self._own.generate(name, key_type, doors, beside=beside)
        issued = await self._own.certify(self._order(authority, name, doors), turn)
        text = "{authority}: new registration authority {key}, serial {serial}"
        _log.info(text, authority=authority.name, key=name, serial=f"{issued.serial:x}")

    async def _clear(self, authority: Authority) -> None:
        """Remove keys that no certificate uses any more, or that a process left when it died. Only in one's turn."""
        prefixes = tuple(_prefix(generation) for generation in authority.generations)
        now = self._own.clock.now()
        unused = await self._own.database.read(lambda connection: find_unused(connection, prefixes, now))
        await self._own.delete((*unused.fresh, *unused.spent))

    def _order(self, authority: Authority, key_name: str, doors: frozenset[Door]) -> Order:
        bits = {Usage.DIGITAL_SIGNATURE: Door.CMS, Usage.KEY_ENCIPHERMENT: Door.OPEN}
        usages = frozenset(usage for usage, door in bits.items() if door in doors)
        return self._own.order(
            key_name,
            TEMPLATE,
            issuing=self._own.authorities.issuing(authority.name),
            ca=authority.current.certificate,
            subject=f"SCEP RA {authority.name} {authority.current.number}.{self._own.now():%Y%m%d}",
            not_after=self._end(authority),
            extensions=(
                extension(x509.BasicConstraints(ca=False, path_length=None), critical=True),
                key_usage(usages, critical=True),
                *self._urls(authority),
            ),
        )

    def _urls(self, authority: Authority) -> tuple[Extension, ...]:
        """Where the certificate's status is found: it lives long enough to be revoked."""
        view = self._own.authorities.view(authority, authority.current, template=TEMPLATE)
        return view.url_extensions(crl=True, ocsp=False, ca_issuers=False)


def _suits(authority: Authority, found: RegistrationAuthority) -> bool:
    """Whether it is of the authority's current key, and with as many keys of such a kind as are set."""
    policy = authority.settings.scep
    return (
        found.chain[0] == authority.current.certificate.der
        and len(found.certificates) == (2 if policy.ra is RaKeys.TWO else 1)
        and {KeyType.of(one.certificate.public_key()) for one in found.keys} == {KeyType.parse(policy.key_type)}
    )


def _rank(authority: Authority, found: RegistrationAuthority) -> tuple[bool, bool, datetime]:
    """The greatest is the one to give out."""
    newest = found.chain[0] == authority.current.certificate.der
    return newest, _suits(authority, found), found.not_after


def _turn(authority: Authority) -> str:
    return f"scep-ra:{authority.name}"


def _prefix(generation: Generation) -> str:
    return f"scep-g{generation.id}-"


def _ra_key(row: _Row) -> RaKey:
    return RaKey(row.key_name, x509.load_der_x509_certificate(row.der), row.der)


def _valid(connection: Connection, generations: Iterable[int], now: datetime) -> list[_Row]:
    """Keys of registration authorities with a certificate that is valid now."""
    prefixes = tuple(f"scep-g{number}-" for number in generations)
    known = set(generations)
    return [
        _Row(row.name, one.der, one.generation_id)
        for row in key_rows.list_all(connection)
        if row.name.startswith(prefixes)
        for one in certificates.valid_by_key(connection, row.spki_sha256, now=now, template=TEMPLATE)
        if one.state is CertificateState.ISSUED and one.der is not None and one.generation_id in known
    ]
