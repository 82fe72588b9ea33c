"""Tell services what came of their challenges: from the queue, so that no restart and no outage loses a report.

What is to be told stands in the queue from the transaction on that stores the certificate, or that ends the request, so
that each end of a request is one report. It leaves the queue as soon as the service has answered: only where a process
dies between the two is it told again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta

import attrs
from sqlalchemy import Connection

from pkiserver.audit import AuditLog
from pkiserver.authority.delivery.queue import NotTaken, TargetDown
from pkiserver.authority.requests import Authorised, ChallengeEvidence, EnrollmentRequest, IssuedCertificate
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import PkiError, Refusal, Rejected, Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.registration.approvals import ApprovalClaim
from pkiserver.registration.connectors import questions
from pkiserver.registration.connectors.bearing import ConnectorBearer, note_failure
from pkiserver.registration.connectors.challenges import ChallengeQuestion, Issued, Refused
from pkiserver.registration.connectors.library import Connectors
from pkiserver.registration.connectors.questions import Kept
from pkiserver.registration.requestends import drop_question, question_of
from pkiserver.store import certificates
from pkiserver.store.database import Database
from pkiserver.store.publication import outward
from pkiserver.store.publication.outward import Task
from pkiserver.store.registration import requests

GIVE_UP = timedelta(days=7)
"""After the question: by then the service has forgotten it."""


@attrs.frozen
class ChallengeReports:
    """Queues reports, and brings them."""

    database: Database
    audit: AuditLog
    connectors: Connectors
    clock: Clock

    def on_issue(self, authorised: Authorised) -> Callable[[Connection, IssuedCertificate], None] | None:
        """What goes into the transaction that stores the certificate; mostly nothing."""
        if not self._may_tell(authorised):
            return None

        def work(connection: Connection, issued: IssuedCertificate) -> None:
            kept = self._kept(connection, authorised)
            if kept is not None:
                questions.tell_issued(connection, kept, issued)
                if (number := _waited(authorised)) is not None:
                    drop_question(connection, number)

        return work

    async def refused(self, authorised: Authorised, error: Rejected) -> None:
        """The request, let in by its challenge, brought no certificate; raises :class:`Unavailable`.

        A conflict is no end: another copy of the request was faster.
        """
        if not is_end(error) or not self._may_tell(authorised):
            return

        def work(connection: Connection) -> None:
            kept = self._kept(connection, authorised)
            if kept is not None:
                questions.tell_refused(connection, kept, str(error))

        await self.database.write(work)

    def bearers(self) -> tuple[ReportBearer, ...]:
        """One for each connector that wants to be told."""
        names = (one.name for one in self.connectors.list())
        return tuple(ReportBearer(name, self) for name in names if self.connectors.wants_reports(name))

    def _may_tell(self, authorised: Authorised) -> bool:
        return _tells(authorised.request) or _waited(authorised) is not None

    def _kept(self, connection: Connection, authorised: Authorised) -> Kept | None:
        """The question behind a request: it came with this message, or with the first of one that waited."""
        kept = questions.keep(connection, authorised.request, now=self.clock.now())
        number = _waited(authorised)
        if kept is None and number is not None:
            found = requests.get(connection, number)
            kept = None if found is None else question_of(found.payload)
        return kept


async def tell_at_once(database: Database, request: EnrollmentRequest, error: Rejected, now: datetime) -> None:
    """A request was refused whose challenge a service had just taken; raises :class:`Unavailable`."""
    if not is_end(error) or not _tells(request):
        return

    def work(connection: Connection) -> None:
        kept = questions.keep(connection, request, now=now)
        if kept is not None:
            questions.tell_refused(connection, kept, str(error))

    await database.write(work)


def is_end(error: Rejected) -> bool:
    """Whether nothing more can come of the request."""
    return any(reason.code is not Refusal.CONFLICT for reason in error.reasons)


def _tells(request: EnrollmentRequest) -> bool:
    return any(isinstance(one, ChallengeEvidence) and one.tells for one in request.evidence)


def _waited(authorised: Authorised) -> int | None:
    """The number of the kept request that this certificate answers."""
    claims = (one.request_number for one in authorised.claims if isinstance(one, ApprovalClaim))
    return next(claims, None)


@attrs.frozen
class ReportBearer(ConnectorBearer):
    """Brings reports to one connector."""

    reports: ChallengeReports

    async def _bring(self, task: Task) -> None:
        reports = self.reports
        read = await reports.database.read(lambda connection: _read(connection, task))
        if read is None:
            raise NotTaken("this is no report of a challenge", final=True)
        question, result, asked = read
        try:
            await reports.connectors.report(self.connector, question, result)
        except Unavailable as error:
            if reports.clock.now() - asked > GIVE_UP:
                await self._given_up(question, error)
                raise NotTaken(f"given up: {error}", final=True) from error
            raise TargetDown(str(error)) from error
        except PkiError as error:
            await self._given_up(question, error)
            raise NotTaken(str(error), final=True) from error
        # now, not when the queue notes a batch: what was told is not to be told again after a crash
        await reports.database.write(lambda connection: outward.done(connection, task, again=None))

    async def _given_up(self, question: ChallengeQuestion, error: PkiError) -> None:
        name = f"transaction {self.connector}:{question.transaction}"
        await note_failure(self.reports.audit, "challenge-reports", name, "service not told", error)


def _read(connection: Connection, task: Task) -> tuple[ChallengeQuestion, Issued | Refused, datetime] | None:
    try:
        detail = json.loads(task.detail or "{}")
        csr = questions.open_request(connection, detail)
        asked = datetime.fromisoformat(detail["asked"])
        if csr is None:
            return None
        question = ChallengeQuestion(Secret(""), csr, detail["template"], detail["transaction"])
        if "certificate" not in detail:
            return question, Refused(str(detail["why"])), asked
        found = certificates.get(connection, int(detail["certificate"]))
        if found is None or found.der is None:
            return None
        return question, Issued(found.der, detail["authority"]), asked
    except (KeyError, ValueError):
        return None
