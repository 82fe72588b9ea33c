"""How authorities go on: renewed with the same key, rekeyed under the same DN, linked old with new, retired.

Serial numbers stay unique because they belong to the DN. Each key keeps its own distribution point and signs its own
CRL until it is retired (RFC 5280 section 5, RFC 4210 section 4.4).
"""

from __future__ import annotations

from datetime import datetime, timedelta

import attrs
from sqlalchemy import Connection

from pkiserver.audit import AuditLog
from pkiserver.authority.authorities import Authorities, Issuing
from pkiserver.authority.lifecycle.ceremonies import Ceremonies, KeyChoice
from pkiserver.authority.lifecycle.certify import (
    LINK_CERTIFICATE,
    Actor,
    Certifier,
    Subject,
    content_like,
    issuing_self,
)
from pkiserver.authority.lifecycle.generations import NewGeneration, activates, add_generation, configuration_event
from pkiserver.authority.lifecycle.profile import END_OF_TIME
from pkiserver.authority.model import Authority, CaCertificate, Generation
from pkiserver.authority.requests import IssuedCertificate
from pkiserver.authority.templates.build import IssuerView
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.keys.keyring import KeyRing
from pkiserver.store.authority import authorities as rows
from pkiserver.store.authority.authorities import GenerationState
from pkiserver.store.database import Database

_BACKDATE = timedelta(minutes=5)
_RETIRED = GenerationState.RETIRED


@attrs.frozen
class Succeeded:
    """The authority as it is now; or, where a foreign issuer must sign first, the DER request for it."""

    authority: Authority
    request: bytes | None = attrs.field(default=None, repr=False)


class Succession:
    """Renewal and rekeying. After each change :class:`Authorities` has been refreshed."""

    def __init__(
        self,
        *,
        database: Database,
        audit: AuditLog,
        keys: KeyRing,
        authorities: Authorities,
        certifier: Certifier,
        ceremonies: Ceremonies,
        clock: Clock,
    ) -> None:
        self._database = database
        self._audit = audit
        self._keys = keys
        self._authorities = authorities
        self._certifier = certifier
        self._ceremonies = ceremonies
        self._clock = clock

    async def renew(self, name: str, actor: Actor, *, validity: timedelta | None = None) -> Succeeded:
        """A new certificate for the same key, by default for as long as the last one was made.

        Raises:
            Rejected: the authority has no certificate, its key or its issuer's is not here, or the linter refuses.
            Unavailable: a key or the database is away.
        """
        authority = self._authorities.get(name)
        generation = authority.current
        ca = generation.certificate
        subject = Subject.of(ca)
        above = self._issuer_of(ca)
        if above is None and not ca.self_issued:
            return Succeeded(authority, await self._ceremonies.request(name))
        _check_root_is_here(authority)
        await self._certify(generation, ca, subject, actor, above=above, validity=validity)
        return Succeeded(self._authorities.get(name))

    async def rekey(self, name: str, key: KeyChoice, actor: Actor, *, validity: timedelta | None = None) -> Succeeded:
        """A new key generation under the same DN, with link certificates; taken up again where it broke off.

        A root signs itself; below an authority of this server the issuer signs; else the result holds the request, and
        :meth:`link` is due once the answer is installed. Raises as :meth:`renew`.
        """
        authority = self._authorities.get(name)
        old = authority.current.certificate
        _check_root_is_here(authority)
        generation = authority.pending or await self._new_generation(authority, key, actor)
        authority = self._authorities.get(name)
        assert generation.key_name is not None
        subject = Subject.of(old, self._keys.public_key(generation.key_name))
        above = self._issuer_of(old)
        if above is None and not old.self_issued:
            return Succeeded(authority, await self._ceremonies.request(name))
        await self._certify(generation, old, subject, actor, above=above, validity=validity)
        return Succeeded(await self.link(name, actor))

    async def link(self, name: str, actor: Actor) -> Authority:
        """Issue the link certificates that the two newest generations still lack (RFC 4210 section 4.4).

        NewWithOld needs the old key here; where it is gone, only OldWithNew is made. Both may be made again and again:
        what is there stays.
        """
        authority = self._authorities.get(name)
        serving = [one for one in authority.generations if one.ca is not None and one.state is not _RETIRED]
        if len(serving) < 2:
            return authority
        old, new = serving[-2], serving[-1]
        if new.new_with_old is None and old.key_name is not None:
            end = old.certificate.not_after
            start = new.certificate.certificate.not_valid_before_utc
            await self._link(old, new, (start, end), actor)
        if new.old_with_new is None and new.key_name is not None:
            end = min(old.certificate.not_after, new.certificate.not_after)
            start = old.certificate.certificate.not_valid_before_utc
            await self._link(new, old, (start, end), actor)
        await self._authorities.refresh()
        return self._authorities.get(name)

    async def retire(self, name: str, number: int, actor: Actor) -> Authority:
        """End a previous generation: no CRL and no status by its key from now on.

        Raises:
            Rejected: as :meth:`require_retirable` says.
        """
        generation = self.require_retirable(name, number)
        event = configuration_event(actor, name, "key generation retired", ("number", str(number)))

        def work(connection: Connection) -> None:
            row = rows.lock_generation(connection, generation.id)
            assert row is not None
            _require_retirable(row.state, name, number)
            rows.update_generation(connection, attrs.evolve(row, state=_RETIRED))
            self._audit.append(connection, event)

        await self._database.write(work)
        await self._authorities.refresh()
        return self._authorities.get(name)

    def require_retirable(self, name: str, number: int) -> Generation:
        """The generation; raises :class:`Rejected` if there is none, it issues, or it is retired already."""
        authority = self._authorities.get(name)
        generation = next((one for one in authority.generations if one.number == number), None)
        if generation is None:
            raise Rejected.because(Refusal.UNKNOWN_AUTHORITY, f"authority {name} has no key generation {number}")
        _require_retirable(generation.state, name, number)
        return generation

    async def _certify(
        self,
        generation: Generation,
        like: CaCertificate,
        subject: Subject,
        actor: Actor,
        *,
        above: tuple[Issuing, IssuerView] | None,
        validity: timedelta | None,
    ) -> None:
        authority = self._authorities.get(generation.authority)
        now = self._clock.now().replace(microsecond=0)
        before = now - _BACKDATE
        if above is not None:
            before = max(before, above[1].not_before)
        end = _end(like, now, validity)
        if above is None:
            issuing, view = issuing_self(authority, generation, subject.public_key), None
        else:
            issuing, view = above
        content = content_like(like, subject, view, before, end)
        await self._certifier.certify(issuing, subject, content, actor, also=activates(generation.id, issuing.chain))
        await self._authorities.refresh()

    def _issuer_of(self, ca: CaCertificate) -> tuple[Issuing, IssuerView] | None:
        """The authority here that issued a certificate, as it issues now; None for a root or a foreign issuer.

        An issuer that is known but offline counts as foreign: its signature comes in a file.
        """
        if ca.self_issued:
            return None
        for authority in self._authorities.list():
            known = any(one.ca is not None and ca.signed_by(one.ca) for one in authority.generations)
            if known and authority.current.key_name is not None:
                issuing = self._authorities.issuing_by(authority, authority.current)
                return issuing, self._authorities.view(authority, authority.current, ca=True)
        return None

    async def _new_generation(self, authority: Authority, key: KeyChoice, actor: Actor) -> Generation:
        number = max(one.number for one in authority.generations) + 1
        key_name, _ = await self._ceremonies.choose_key(f"{authority.name}-{number}", key, actor)
        event = configuration_event(actor, authority.name, "rekeying", ("key", key_name))

        def work(connection: Connection) -> rows.Generation:
            new = NewGeneration(authority.subject_der, authority.subject, key_name)
            made = add_generation(connection, authority.name, new, self._clock.now())
            self._audit.append(connection, event)
            return made

        made = await self._database.write(work)
        await self._authorities.refresh()
        return Generation.load(made)

    async def _link(
        self,
        signer: Generation,
        signed: Generation,
        validity: tuple[datetime, datetime],
        actor: Actor,
    ) -> None:
        """One link certificate: the key of ``signed`` under the key of ``signer``, kept with the newer generation."""
        authority = self._authorities.get(signer.authority)
        issuing = self._authorities.issuing_by(authority, signer)
        view = self._authorities.view(authority, signer, ca=True)
        subject = Subject.of(signed.certificate)
        content = content_like(signed.certificate, subject, view, *validity)
        newer = max(signer, signed, key=lambda one: one.number)

        def also(connection: Connection, issued: IssuedCertificate) -> None:
            row = rows.lock_generation(connection, newer.id)
            assert row is not None
            if newer is signed:
                rows.update_generation(connection, attrs.evolve(row, new_with_old=issued.der))
            else:
                rows.update_generation(connection, attrs.evolve(row, old_with_new=issued.der))

        await self._certifier.certify(issuing, subject, content, actor, label=LINK_CERTIFICATE, also=also)


def _check_root_is_here(authority: Authority) -> None:
    """A root that is kept offline goes on where its key is: no key is made here that would take its place unseen."""
    current = authority.current
    if current.certificate.self_issued and current.key_name is None:
        text = f"the key of root {authority.name} is not on this server (offline): renew or rekey it where its key is; "
        text += "its new certificate comes here with what it signs (pkiserver ca install NAME ANSWER --chain ROOT)"
        raise Rejected.because(Refusal.CONFIGURATION, text)


def _end(ca: CaCertificate, now: datetime, validity: timedelta | None) -> datetime:
    """The end of a certificate's successor, never beyond the end of time."""
    lifetime = ca.not_after - ca.certificate.not_valid_before_utc if validity is None else validity
    if lifetime <= timedelta():
        raise Rejected.because(Refusal.BAD_VALIDITY, "the validity would have ended already")
    return END_OF_TIME if END_OF_TIME - now <= lifetime else now + lifetime


def _require_retirable(state: GenerationState, name: str, number: int) -> None:
    if state is GenerationState.ACTIVE:
        raise Rejected.because(Refusal.CONFLICT, f"generation {number} of {name} is the one that issues")
    if state is GenerationState.RETIRED:
        raise Rejected.because(Refusal.CONFLICT, f"generation {number} of {name} is retired already")
