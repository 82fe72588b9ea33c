"""The one road, put together: everything of this room that shares a database, a key ring and a clock."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable

import attrs

from pkiserver.audit import AuditLog
from pkiserver.authority.authorities import Authorities
from pkiserver.authority.checkpoints import Checkpoint, from_environment
from pkiserver.authority.issue import Also, Issuer
from pkiserver.authority.lifecycle.ceremonies import Ceremonies
from pkiserver.authority.lifecycle.certify import Certifier
from pkiserver.authority.lifecycle.succession import Succession
from pkiserver.authority.prepare import Preparer, Templates
from pkiserver.authority.recover import Recovery, Released
from pkiserver.authority.requests import Authorised, IssuedCertificate, PreparedCertificate
from pkiserver.foundation.clock import Clock
from pkiserver.keys.keyring import KeyRing
from pkiserver.store.database import Database


def new_holder(node: str) -> str:
    """A name for this process and start that no other process, here or elsewhere, has had."""
    return f"{node}/{os.getpid()}/{secrets.token_hex(8)}"


@attrs.frozen
class Road:
    """What stands around the road. Made by :meth:`build`; call :meth:`start` before the first certificate."""

    authorities: Authorities
    preparer: Preparer
    issuer: Issuer
    recovery: Recovery
    ceremonies: Ceremonies
    succession: Succession

    @classmethod
    def build(
        cls,
        *,
        database: Database,
        keys: KeyRing,
        audit: AuditLog,
        templates: Templates,
        clock: Clock,
        holder: str,
        rng: Callable[[int], bytes] | None = None,
        checkpoint: Checkpoint | None = None,
        released: Released | None = None,
    ) -> Road:
        """Put the parts together. ``holder`` is from :func:`new_holder`; ``checkpoint`` is for crash tests."""
        step = checkpoint or from_environment()
        authorities = Authorities(database)
        recovery = Recovery(database=database, audit=audit, clock=clock, holder=holder, released=released)
        issuer = Issuer(
            database=database, keys=keys, audit=audit, clock=clock, left=recovery.take_over, checkpoint=step
        )
        preparer = Preparer(
            database=database,
            authorities=authorities,
            templates=templates,
            clock=clock,
            holder=holder,
            living=recovery.begin,
            issuer=issuer,
            rng=rng,
            checkpoint=step,
        )
        certifier = Certifier(preparer, issuer)
        ceremonies = Ceremonies(
            database=database, audit=audit, keys=keys, authorities=authorities, certifier=certifier, clock=clock
        )
        succession = Succession(
            database=database,
            audit=audit,
            keys=keys,
            authorities=authorities,
            certifier=certifier,
            ceremonies=ceremonies,
            clock=clock,
        )
        return cls(authorities, preparer, issuer, recovery, ceremonies, succession)

    async def start(self, *, serving: bool = True) -> None:
        """Read the authorities; where ``serving``, give signs of life from now on and settle what dead processes left.

        Else that begins with the first certificate. Call ``recovery.stop()`` at the end, before the database is closed.
        """
        await self.authorities.refresh()
        if serving:
            await self.recovery.start()

    async def prepare(self, authorised: Authorised, *, ask: bool = False) -> PreparedCertificate:
        """See :meth:`pkiserver.authority.prepare.Preparer.prepare`."""
        return await self.preparer.prepare(authorised, ask=ask)

    async def issue(self, prepared: PreparedCertificate, *, also: Also | None = None) -> IssuedCertificate:
        """See :meth:`pkiserver.authority.issue.Issuer.issue`."""
        return await self.issuer.issue(prepared, also=also)
