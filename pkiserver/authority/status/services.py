"""Everything about certificate status that a process has, put together once."""

from __future__ import annotations

from pathlib import Path

import attrs

from pkiserver.audit import AuditLog
from pkiserver.authority.authorities import Authorities
from pkiserver.authority.crl import CrlIssuer
from pkiserver.authority.delegates.ownkeys import OwnKeys
from pkiserver.authority.delegates.responder import ResponderKeeper
from pkiserver.authority.issue import Issuer
from pkiserver.authority.prepare import Preparer
from pkiserver.authority.revocation import Revocations
from pkiserver.authority.status.directory import StatusDirectory
from pkiserver.authority.status.knownnumbers import KnownNumbers
from pkiserver.authority.status.published import Publications
from pkiserver.authority.status.schedule import CrlScheduler
from pkiserver.authority.status.turns import StatusProblem, Turns
from pkiserver.foundation.clock import Clock
from pkiserver.keys.keyring import KeyRing
from pkiserver.store.database import Database


@attrs.frozen
class StatusServices:
    """The status room's services.

    Attributes:
        revocations: Changes the status of certificates.
        crls: Issues CRLs and keeps those signed elsewhere.
        schedule: The periodic task that issues CRLs; call ``run_due`` every second or two.
        responders: The periodic task that makes and renews OCSP responders; call ``run_due`` every minute.
        directory: Where the OCSP edge looks things up; call ``refresh`` after ``responders.run_due``.
        publications: Where the CRL edge looks things up.
        numbers: The CRL numbers that this node has seen.
    """

    revocations: Revocations
    crls: CrlIssuer
    schedule: CrlScheduler
    responders: ResponderKeeper
    directory: StatusDirectory
    publications: Publications
    numbers: KnownNumbers

    def problems(self) -> tuple[StatusProblem, ...]:
        """What is not as it should be, by authority, for readiness."""
        return (*self.schedule.problems(), *self.responders.problems())


def status_services(
    *,
    database: Database,
    audit: AuditLog,
    keys: KeyRing,
    authorities: Authorities,
    preparer: Preparer,
    issuer: Issuer,
    clock: Clock,
    holder: str,
    numbers: Path | None = None,
) -> StatusServices:
    """The services of one process; ``holder`` names it in leases, ``numbers`` is this node's file of CRL numbers."""
    turns = Turns(database, clock, holder)
    known = KnownNumbers(numbers)
    crls = CrlIssuer(database, audit, keys, authorities, clock)
    directory = StatusDirectory(database, keys, authorities, clock)
    return StatusServices(
        revocations=Revocations(database, audit, clock, directory.cache.wake),
        crls=crls,
        schedule=CrlScheduler(database, crls, keys, authorities, turns, clock, known),
        responders=ResponderKeeper(OwnKeys(database, keys, authorities, preparer, issuer, turns, clock)),
        directory=directory,
        publications=Publications(database, authorities, clock),
        numbers=known,
    )
