"""Which units this process serves, each with the key that signs now and its pre-encoded tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs
from cryptography import x509
from sqlalchemy import Connection
from twisted.internet.defer import DeferredLock

from pkiserver.authority.authorities import Authorities
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import PkiError
from pkiserver.keys.algorithms import SignatureScheme
from pkiserver.keys.doors import Door
from pkiserver.keys.keyring import KeyRing
from pkiserver.keys.signers import CmsSigner, TimestampSigner
from pkiserver.store import certificates
from pkiserver.store.certificates import CertificateState
from pkiserver.store.database import Database
from pkiserver.timestamping.credentials import Credential, Found, find, in_order
from pkiserver.timestamping.library import UnitLibrary, UnitProblem
from pkiserver.timestamping.unit import TimestampUnit
from protocols.cms import oids
from protocols.cms.signing import SignerProfile
from protocols.timestamp.tokens import TokenTemplate


@attrs.frozen
class Active:
    """A unit at work. Made anew when its configuration, key or certificate changes."""

    unit: TimestampUnit
    credential: Credential
    chain: tuple[bytes, ...] = attrs.field(repr=False)
    profile: SignerProfile
    template: TokenTemplate
    signer: TimestampSigner
    countersigner: CmsSigner | None
    hashes: frozenset[str]


class UnitDirectory:
    """All units at work, by name; as of the last :meth:`refresh`."""

    def __init__(
        self, library: UnitLibrary, database: Database, keys: KeyRing, authorities: Authorities, clock: Clock
    ) -> None:
        self._library = library
        self._database = database
        self._keys = keys
        self._authorities = authorities
        self._clock = clock
        self._active: Mapping[str, Active] = {}
        self._default: str | None = None
        self._problems: tuple[UnitProblem, ...] = ()
        self._looking = DeferredLock()

    async def refresh(self) -> None:
        """Read again which units there are and who signs for them."""
        # One look after the other: an earlier one that ended later would bring back who was withdrawn meanwhile.
        async with self._looking:
            await self._refresh()

    async def _refresh(self) -> None:
        await self._library.refresh()
        units = self._library.enabled()
        now = self._clock.now()
        found = await self._database.read(lambda connection: find(connection, units, now))
        known = {key.name for key in self._keys.list()}
        if any(one.key_name not in known for each in found.values() for one in each.usable):
            await self._keys.refresh()  # another process made the key
        problems: list[UnitProblem] = []
        self._active = dict(self._activate(units, found, problems))
        self._default = next((unit.name for unit in units if unit.default), None)
        self._problems = tuple(problems)

    async def stop_withdrawn(self) -> bool:
        """Stop every unit whose certificate is revoked or on hold; whether there was one.

        Raises:
            Unavailable: the database is away.
        """
        async with self._looking:
            return await self._stop_withdrawn()

    async def _stop_withdrawn(self) -> bool:
        serving = self._active

        def work(connection: Connection) -> set[str]:
            found = {name: certificates.get(connection, one.credential.record_id) for name, one in serving.items()}
            return {name for name, one in found.items() if one is None or one.state is not CertificateState.ISSUED}

        withdrawn = await self._database.read(work)
        self._active = {name: one for name, one in self._active.items() if name not in withdrawn}
        return bool(withdrawn)

    def _activate(
        self, units: Iterable[TimestampUnit], found: Mapping[str, Found], problems: list[UnitProblem]
    ) -> Iterable[tuple[str, Active]]:
        for unit in units:
            why = "no key and certificate that may sign now"
            for credential in in_order(found[unit.name], unit, self._authorities.generation):
                try:
                    active = self._open(unit, credential)
                except PkiError as error:
                    why = str(error)
                    continue
                yield unit.name, active
                break
            else:
                problems.append(UnitProblem(unit.name, why))

    def _open(self, unit: TimestampUnit, credential: Credential) -> Active:
        current = self._active.get(unit.name)
        generation = self._authorities.generation(credential.generation_id)
        chain = () if generation is None else (generation.certificate.der, *self._authorities.chain(generation))
        if current is not None and (current.unit, current.credential, current.chain) == (unit, credential, chain):
            return current
        signer = self._keys.timestamp_signer(credential.key_name)
        scheme = SignatureScheme.parse(unit.scheme).require(signer.public_key) if unit.scheme else signer.default_scheme
        profile = SignerProfile(x509.load_der_x509_certificate(credential.certificate), scheme)
        countersigner = None
        if unit.authenticode.enabled and Door.CMS in self._keys.show(credential.key_name).record.doors:
            countersigner = self._keys.cms_signer(credential.key_name, oids.DATA)
        return Active(
            unit=unit,
            credential=credential,
            chain=chain,
            profile=profile,
            template=TokenTemplate(unit, profile, chain),
            signer=signer,
            countersigner=countersigner,
            hashes=frozenset(unit.hashes),
        )

    def get(self, name: str) -> Active | None:
        """The unit of that name, or, for the empty name, the default one; None when it cannot sign now."""
        return self._active.get(name or self._default or "")

    def unit(self, name: str) -> TimestampUnit | None:
        """The configuration of an enabled unit of that name (empty: the default), whether it can sign or not."""
        wanted = name or self._default
        return next((one for one in self._library.enabled() if one.name == wanted), None)

    def list(self) -> tuple[Active, ...]:
        """All units at work, by name."""
        return tuple(self._active[name] for name in sorted(self._active))

    def problems(self) -> tuple[UnitProblem, ...]:
        """Units that should serve and cannot."""
        return (*self._library.problems(), *self._problems)
