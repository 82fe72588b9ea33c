"""The engine of one process: every room over one database, one key ring, one clock; and the road from end to end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
from cryptography import x509
from sqlalchemy import Connection
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater
from twisted.logger import Logger

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.audit.restored import tell_of_restore
from pkiserver.authority.authorities import Authorities
from pkiserver.authority.configuration import Configuration
from pkiserver.authority.issue import Also
from pkiserver.authority.requests import Authorised, Claim, EnrollmentRequest, IssuedCertificate
from pkiserver.authority.road import Road, new_holder
from pkiserver.authority.status.services import StatusServices, status_services
from pkiserver.authority.templates.library import TemplateLibrary
from pkiserver.foundation.clock import Clock, SystemClock
from pkiserver.foundation.errors import PkiError, Rejected, Unavailable
from pkiserver.keys.keyring import KeyRing
from pkiserver.keys.secrets_by_reference import read_secret
from pkiserver.publication.outward.library import Directories
from pkiserver.publication.publisher import Publisher
from pkiserver.registration.accounts import Accounts
from pkiserver.registration.administrators import Administrators
from pkiserver.registration.approvals import AlreadyIssued, ApprovalClaim, Approvals, Pending
from pkiserver.registration.codes import EnrollCodes
from pkiserver.registration.connectors.library import Connectors
from pkiserver.registration.connectors.publishing import CertificateCopies
from pkiserver.registration.connectors.reports import ChallengeReports
from pkiserver.registration.dualcontrol import DualControlDesk
from pkiserver.registration.evidence import Identifier
from pkiserver.registration.gate import Gate
from pkiserver.registration.guesses import Guesses
from pkiserver.registration.operations import Operations
from pkiserver.registration.passwords import PasswordHasher
from pkiserver.registration.release import release
from pkiserver.registration.seats import Seats
from pkiserver.registration.votes import Votes
from pkiserver.runtime.config import NodeSettings
from pkiserver.runtime.polling import idle_moments
from pkiserver.store import certificates
from pkiserver.store.database import Database
from pkiserver.store.registration import requests
from pkiserver.store.registration.requests import RequestState

_log = Logger(namespace="pkiserver.engine")
reactor: Any = _reactor
_PATIENCE, _PAUSE = 40, 0.05
"""How often, and after how many seconds each, to look for a certificate that is being made for another."""


@attrs.frozen
class Engine:
    """Everything that is true whatever the protocol. Made by :func:`open_engine`."""

    settings: NodeSettings
    clock: Clock
    database: Database
    audit: AuditLog
    keys: KeyRing
    templates: TemplateLibrary
    road: Road
    status: StatusServices
    accounts: Accounts
    codes: EnrollCodes
    approvals: Approvals
    seats: Seats
    operations: Operations
    administrators: Administrators
    gate: Gate
    connectors: Connectors
    copies: CertificateCopies
    reports: ChallengeReports
    directories: Directories

    @property
    def publisher(self) -> Publisher:
        """What the address book wants to know of certificates."""
        return Publisher(self.templates)

    @property
    def dual_control(self) -> DualControlDesk:
        """What nobody does alone."""
        configuration = Configuration(self.database, self.audit, self.clock)
        return DualControlDesk(self.operations, self.status.revocations, configuration, self.authorities)

    @property
    def authorities(self) -> Authorities:
        """The authorities of this server."""
        return self.road.authorities

    async def enroll(
        self, request: EnrollmentRequest, *, claims: tuple[Claim, ...] = ()
    ) -> IssuedCertificate | Pending:
        """The one road: the gate decides, the certificate is prepared, issued, stored and audited.

        ``claims`` are a protocol's own, taken with those of the gate.

        Raises:
            Rejected: with every reason; the refusal is in the audit log.
            Unavailable: try again; nothing was given out, and what could be spent once has not been spent.
            Defect: ours; nothing was given out.
        """
        try:
            decision = await self.gate.decide(request)
            match decision:
                case Pending():
                    return decision
                case AlreadyIssued():
                    return await self._issued_before(decision.certificate_id)
                case Authorised():
                    return await self._issue_and_tell(attrs.evolve(decision, claims=(*decision.claims, *claims)))
        except Rejected as error:
            await self._record_refusal(request, error)
            raise

    async def refresh(self) -> None:
        """Read what all nodes share again: templates, connectors, directories and authorities."""
        await self.templates.refresh()
        await self.connectors.refresh()
        await self.directories.refresh()
        await self.authorities.refresh()

    async def _issue_and_tell(self, authorised: Authorised) -> IssuedCertificate:
        """Issue; whoever gave out the challenge that the request came with is told how it ended."""
        try:
            return await self._issue(authorised)
        except Rejected as error:
            if (brought := await self._brought_by_another(authorised)) is not None:
                return brought
            await self.reports.refused(authorised, error)
            raise

    async def _brought_by_another(self, authorised: Authorised) -> IssuedCertificate | None:
        """The certificate of the same approval, which another copy of the request has spent at this moment."""
        for claim in authorised.claims:
            if isinstance(claim, ApprovalClaim):
                known = await self.database.read(partial(requests.get, request_id=claim.request_number))
                if known is not None and known.state is RequestState.ISSUED and known.certificate_id is not None:
                    return await self._issued_before(known.certificate_id)
        return None

    async def _issue(self, authorised: Authorised) -> IssuedCertificate:
        prepared = await self.road.prepare(authorised, ask=True)
        replaced = (*prepared.supersedes, *([prepared.replaces] if prepared.replaces is not None else []))
        with_it = (
            self.publisher.on_issue(authorised.request.template),
            self.copies.on_issue(authorised.record.name, replaced),
            self.reports.on_issue(authorised),
        )
        issued = await self.road.issue(prepared, also=_all_of(with_it))
        return attrs.evolve(issued, notes=authorised.record.notes)

    async def _issued_before(self, certificate_id: int) -> IssuedCertificate:
        """The certificate of that number, which may be in the making at this moment: signing takes little time.

        Raises:
            Unavailable: it takes longer than anybody waits here, or nothing came of it.
        """
        look = partial(certificates.get, certificate_id=certificate_id)
        found = await self.database.read(look)
        for _ in range(_PATIENCE):
            if found is not None:
                break
            await deferLater(reactor, _PAUSE)
            found = await self.database.read(look)
        if found is None or found.der is None:
            raise Unavailable("the certificate of this request is still being made", retry_after=2, public=True)
        generation = self.authorities.generation(found.generation_id)
        if generation is None:
            raise Unavailable("the authority of this certificate is not loaded", retry_after=5)
        return IssuedCertificate(
            certificate_id=found.id,
            der=found.der,
            serial=x509.load_der_x509_certificate(found.der).serial_number,
            chain=(generation.certificate.der, *self.authorities.chain(generation)),
            authority=generation.authority,
            template=found.template,
        )

    async def _record_refusal(self, request: EnrollmentRequest, error: Rejected) -> None:
        event = AuditEvent(
            kind=AuditKind.REFUSAL,
            actor=f"{request.protocol} {request.source}",
            object=f"template {request.template}",
            outcome="refused",
            request_id=request.request_id,
            details=(("protocol", request.protocol), ("why", str(error))),
        )
        try:
            await self.audit.record(event)
        except PkiError as second:
            _log.error("a refusal could not be audited: {why}", why=str(second))


def _all_of(works: Iterable[Also | None]) -> Also | None:
    """What is to become durable together with a certificate, as one."""
    wanted = [one for one in works if one is not None]

    def work(connection: Connection, issued: IssuedCertificate) -> None:
        for one in wanted:
            one(connection, issued)

    return work if wanted else None


@asynccontextmanager
async def open_engine(
    settings: NodeSettings, *, worker: str = "0", clock: Clock | None = None, serving: bool = True
) -> AsyncIterator[Engine]:
    """Open database, keys and all rooms over them; close them in reverse order.

    Args:
        settings: The node's.
        worker: Which of the node's processes this is, for the audit log.
        clock: The system's unless another is given.
        serving: Whether to be there for others from the start, as far as the database can be written; who only looks
            leaves no trace in it.

    Raises:
        Rejected: the settings or what the database holds forbid it.
        Unavailable: the database is away.
    """
    time = clock or SystemClock()
    database = await Database.open(
        settings.database.full_url(),
        readers=settings.database.readers,
        writing=False,
        when_idle=idle_moments(),
    )
    try:
        audit = AuditLog(database, node=settings.node, worker=worker, clock=time)
        if serving:
            await tell_of_restore(database, audit)
        keys = await KeyRing.open(settings.key_store, database, audit, time)
        try:
            hasher = PasswordHasher(settings.passwords)
            hasher.start()
            try:
                engine = _assemble(settings, time, database=database, audit=audit, keys=keys, hasher=hasher)
                await engine.templates.refresh()
                await engine.connectors.refresh()
                await engine.directories.refresh()
                await engine.road.start(serving=serving)
                try:
                    yield engine
                finally:
                    engine.connectors.close()
                    await engine.road.recovery.stop()
            finally:
                hasher.stop()
        finally:
            await keys.close()
    finally:
        await database.close()


def _assemble(
    settings: NodeSettings, clock: Clock, *, database: Database, audit: AuditLog, keys: KeyRing, hasher: PasswordHasher
) -> Engine:
    templates = TemplateLibrary(database)
    holder = new_holder(settings.node)
    road = Road.build(
        database=database,
        keys=keys,
        audit=audit,
        templates=templates,
        clock=clock,
        holder=holder,
        released=release,
    )
    status = status_services(
        database=database,
        audit=audit,
        keys=keys,
        authorities=road.authorities,
        preparer=road.preparer,
        issuer=road.issuer,
        clock=clock,
        holder=holder,
        numbers=settings.crl_numbers,
    )
    codes = EnrollCodes(database=database, audit=audit, clock=clock)
    marks = settings.approvals.marks_source
    votes = Votes(None if marks is None else read_secret(marks))
    approvals = Approvals(database, audit, clock, votes)
    connectors = Connectors(database, audit, clock)
    identifier = Identifier(database, road.authorities, hasher, codes, clock, connectors)
    return Engine(
        settings=settings,
        clock=clock,
        database=database,
        audit=audit,
        keys=keys,
        templates=templates,
        road=road,
        status=status,
        accounts=Accounts(database, audit, hasher, clock),
        codes=codes,
        approvals=approvals,
        seats=Seats(database, audit, templates, clock),
        operations=Operations(database, audit, clock, votes, settings.approvals.dual_control),
        administrators=Administrators(database, audit, clock),
        gate=Gate(database, templates, identifier, approvals, clock, Guesses(settings.guesses, database, clock)),
        connectors=connectors,
        copies=CertificateCopies(database, audit, connectors),
        reports=ChallengeReports(database, audit, connectors, clock),
        directories=Directories(database, templates, clock),
    )
