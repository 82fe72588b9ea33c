"""Requests that wait for officers: kept in the store, decided once, answered whenever the client asks again.

How many officers of which group must agree, and for how long a request waits, is the template rule's to say;
:mod:`pkiserver.registration.votes` is how they agree.
"""

from __future__ import annotations

import json
from datetime import datetime

import attrs
from sqlalchemy import Connection

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.authority.requests import EnrollmentRequest, RegistrationRecord
from pkiserver.authority.templates.model import EvidenceKind, EvidenceRule
from pkiserver.foundation.clock import CLOCKS_APART, Clock
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.registration.connectors import questions
from pkiserver.registration.requestends import expire, question_of, tell_refused, with_question
from pkiserver.registration.requestmatter import (
    MATTER,
    SEAT,
    is_outdated,
    matter_of,
    request_fingerprint,
    requester_of,
    under,
)
from pkiserver.registration.votes import Person, Votes
from pkiserver.registration.waiting import Full, TurnedAway, WaitingBound, nameless_site
from pkiserver.store import certificates
from pkiserver.store.certificates import CertificateState
from pkiserver.store.database import Database
from pkiserver.store.registration import accounts, requests
from pkiserver.store.registration import votes as rows
from pkiserver.store.registration.requests import NewRequest, PendingRequest, RequestState
from pkiserver.store.registration.votes import VoteRow

CONNECTOR_PREFIX = "connector "
"""Of a connector that has decided: it is asked anew each time, and knows no template."""
DEFAULT_RULE = EvidenceRule(all=(EvidenceKind.OPERATOR,), approval=True)
"""One approval, by anybody who may."""
_EXPIRED_BY_ONE = 100
"""Requests that one who asks lets expire, besides their own."""
RETRY_AFTER = 60
"""Seconds after which a client is told to ask again (RFC 7030 section 4.2.3)."""


@attrs.frozen
class Pending:
    """The request waits for an officer; ask again in ``retry_after`` seconds."""

    request_number: int
    retry_after: int = RETRY_AFTER


@attrs.frozen
class AlreadyIssued:
    """The very same request has its certificate; ``certificate_id`` is its number in the store."""

    certificate_id: int


class DeniedBefore(Rejected):
    """An officer denied the very same request; whoever is to be told of the end was told then."""


@attrs.frozen
class ApprovalClaim:
    """The officers' approval, to be spent on one certificate. Their votes are counted again when it is spent."""

    request_number: int
    votes: Votes

    def take(self, connection: Connection, certificate_id: int) -> None:
        """Spend it by one conditional UPDATE.

        Raises:
            Rejected: somebody was faster, or the votes in the database are not those that were cast.
        """
        found = requests.get(connection, self.request_number)
        if found is not None:
            if is_outdated(connection, found):
                text = f"template {found.template} was changed since officers agreed; ask again"
                raise Rejected.because(Refusal.CONFLICT, text)
            self.votes.require_approved(connection, matter_of(connection, found))
        if not requests.mark_issued(connection, self.request_number, certificate_id):
            raise Rejected.because(Refusal.CONFLICT, "this request is being answered already; ask again")

    def give_back(self, connection: Connection, certificate_id: int) -> None:
        """Put the approval back in force where no certificate came of it."""
        requests.give_back(connection, self.request_number, certificate_id)


@attrs.frozen
class Approvals:
    """Keeps requests, finds them again, and lets officers decide them."""

    database: Database
    audit: AuditLog
    clock: Clock
    votes: Votes = attrs.field(factory=Votes)
    turned_away: TurnedAway = attrs.field(
        init=False, default=attrs.Factory(lambda self: TurnedAway(self.clock), takes_self=True)
    )

    async def ask(
        self,
        request: EnrollmentRequest,
        record: RegistrationRecord,
        rule: EvidenceRule = DEFAULT_RULE,
        *,
        reasons: tuple[str, ...] = (),
        checks: tuple[str, ...] = (),
        bound: WaitingBound | None = None,
        seat: str = "",
    ) -> Pending | AlreadyIssued | ApprovalClaim:
        """What became of this request: nothing yet (it is kept now), a certificate, or an approval to be used.

        Args:
            request: As it came.
            record: Who asks.
            rule: How many must agree, from which groups, and how long the request waits.
            reasons: Why it waits, for the officers.
            checks: What was found about it, a line each, for the officers.
            bound: How many such requests may wait; None: however many.
            seat: Whose seat the certificate would be in; empty: the requester's.

        Raises:
            DeniedBefore: an officer denied it, with the officer's reasons.
            Unavailable: there is no room for it among those that wait.
        """
        new = self._new(request, record, rule, checks, seat)
        event = AuditEvent(
            kind=AuditKind.REQUEST,
            actor=record.name,
            object="request",
            request_id=request.request_id,
            details=(("protocol", request.protocol), ("template", request.template), ("subject", _subject(request))),
        )

        def look(connection: Connection) -> PendingRequest | Full:
            known = requests.by_fingerprint(connection, new.fingerprint)
            if known is not None and still_answers(connection, known, new.created):
                self._revive(connection, known)
                self._renew(connection, known, new, reasons, event)
                return requests.get(connection, known.id) or known
            if known is not None:  # or it would be taken for the one that is asked for now
                expire(connection, self.audit, now=new.created, number=known.id)
            expire(connection, self.audit, now=new.created, most=_EXPIRED_BY_ONE)
            if bound is not None and (full := bound.reached(connection, request.source, now=new.created)) is not None:
                return full
            question = questions.keep(connection, request, now=new.created)
            kept = under(connection, new)
            if question is not None:
                kept = attrs.evolve(kept, payload=with_question(kept.payload, question))
            opened = requests.open_request(connection, kept, reasons=reasons)
            self.audit.append(connection, attrs.evolve(event, object=f"request {opened.id}"))
            return opened

        found = await self.database.write(look)
        if isinstance(found, Full):
            raise self.turned_away.note(request.template, found, request.source)
        return self._answer(found)

    def _answer(self, found: PendingRequest) -> Pending | AlreadyIssued | ApprovalClaim:
        match found.state:
            case RequestState.APPROVED:
                return ApprovalClaim(found.id, self.votes)
            case RequestState.ISSUED if found.certificate_id is not None:
                return AlreadyIssued(found.certificate_id)
            case RequestState.DENIED:
                why = "; ".join(found.reasons) or "no reason was given"
                raise DeniedBefore.because(Refusal.NOT_AUTHORISED, f"request {found.id} was denied: {why}")
            case _:
                return Pending(found.id)

    async def knows(self, request: EnrollmentRequest, record: RegistrationRecord) -> bool:
        """Whether the very same request was kept before and still answers this one, and its template is as it was."""
        fingerprint = request_fingerprint(request, record)

        def look(connection: Connection) -> bool:
            known = requests.by_fingerprint(connection, fingerprint)
            now = self.clock.now()
            return known is not None and still_answers(connection, known, now) and not is_outdated(connection, known)

        return await self.database.read(look)

    async def list_page(
        self,
        *,
        state: RequestState | None = RequestState.PENDING,
        before: int | None = None,
        limit: int = 100,
        templates: frozenset[str] | None = None,
    ) -> tuple[PendingRequest, ...]:
        """Requests, newest first; those of these templates, or of all."""
        return await self.database.read(
            lambda connection: requests.list_page(
                connection, state=state, before=before, limit=limit, templates=templates
            )
        )

    async def get(self, number: int) -> PendingRequest:
        """One request; raises :class:`Rejected` (UNKNOWN_REQUEST)."""
        found = await self.database.read(lambda connection: requests.get(connection, number))
        if found is None:
            raise unknown_request(number)
        return found

    async def votes_on(self, number: int) -> tuple[VoteRow, ...]:
        """How officers have voted so far."""
        return await self.database.read(lambda connection: rows.votes_on(connection, MATTER, number))

    async def decide(self, number: int, *, approved: bool, by: str | Person, reason: str = "") -> PendingRequest:
        """Vote on a pending request. The last approval that is needed approves it; one refusal denies it.

        Returns:
            The request as it is now: still pending while approvals are missing.

        Raises:
            Rejected: it is not pending any more, does not exist, is the officer's own, wants members of another group,
                or this officer has voted already.
        """
        person, now = Person.of(by), self.clock.now()

        def vote(connection: Connection) -> PendingRequest:
            found = requests.lock(connection, number)
            if found is None:
                raise unknown_request(number)
            if found.state is not RequestState.PENDING or found.expires <= now:
                raise Rejected.because(Refusal.CONFLICT, f"request {number} is not pending any more")
            if approved and is_outdated(connection, found) and not person.actor.startswith(CONNECTOR_PREFIX):
                text = (
                    f"template {found.template} was changed since: what is asked for is put anew when the client asks"
                )
                raise Rejected.because(Refusal.CONFLICT, text)
            matter = matter_of(connection, found)
            tally = self.votes.cast(connection, matter, person, approved=approved, reason=reason, at=now)
            if tally.denied or tally.approved:
                told = (reason,) if reason else ()
                requests.decide(connection, number, approved=tally.approved, by=person.actor, at=now, reasons=told)
            if tally.denied:
                tell_refused(connection, number, found.payload, f"denied{f': {reason}' if reason else ''}")
            self.audit.append(connection, _voted(found, person, approved, reason, f"{tally.approvals}/{tally.needed}"))
            return requests.get(connection, number) or found

        return await self.database.write(vote)

    async def end(self, number: int, connector: str, why: str) -> None:
        """The connector that a request waited for says no: nothing where it was decided or has ended meanwhile."""
        try:
            await self.decide(number, approved=False, by=f"{CONNECTOR_PREFIX}{connector}", reason=why)
        except Rejected as error:
            if not error.has(Refusal.CONFLICT):
                raise

    def _new(
        self,
        request: EnrollmentRequest,
        record: RegistrationRecord,
        rule: EvidenceRule,
        checks: tuple[str, ...],
        seat: str,
    ) -> NewRequest:
        now = self.clock.now()
        payload = {
            "requester": record.name,
            "protocol": request.protocol,
            "source": request.source,
            "subject": _subject(request),
            "transaction": request.transaction_id,
            SEAT: seat or record.name,
        }
        return NewRequest(
            template=request.template,
            csr=request.csr,
            spki=request.spki,
            payload=json.dumps(payload).encode(),
            evidence=f"{record.name} by {request.protocol} from {request.source}",
            fingerprint=request_fingerprint(request, record),
            created=now,
            expires=now + rule.approval_lifetime,
            needed=rule.approvals,
            approvers=rule.approvers,
            checks=checks,
            nameless_site=nameless_site(record.name, request.source),
        )

    def _renew(
        self,
        connection: Connection,
        known: PendingRequest,
        new: NewRequest,
        reasons: tuple[str, ...],
        event: AuditEvent,
    ) -> None:
        """Let officers vote anew where the template was changed, or where voters could not agree any more."""
        why = ""
        if known.state in {RequestState.PENDING, RequestState.APPROVED} and is_outdated(connection, known):
            question, again = question_of(known.payload), under(connection, new, known)
            if question is not None:
                again = attrs.evolve(again, payload=with_question(again.payload, question))
            requests.ask_again(connection, known.id, again, reasons=reasons)
            why = "the template was changed"
        elif known.state is RequestState.APPROVED and self._has_lapsed(connection, known):
            requests.reopen(connection, known.id, reasons=reasons)
            why = "somebody who approved may not approve any more"
        if why:
            details = (*event.details, ("change", "waits again"), ("why", why))
            self.audit.append(connection, attrs.evolve(event, object=f"request {known.id}", details=details))

    def _has_lapsed(self, connection: Connection, known: PendingRequest) -> bool:
        try:
            tally = self.votes.count(connection, matter_of(connection, known))
        except Rejected:
            return False  # somebody changed the database: the approval will be refused, not voted on again
        return not tally.approved and tally.approvals + tally.lapsed >= tally.needed

    def _revive(self, connection: Connection, known: PendingRequest) -> None:
        """Put an approval back in force whose certificate was given up, by a crash or a token that was away."""
        if known.state is not RequestState.ISSUED or known.certificate_id is None:
            return
        found = certificates.get(connection, known.certificate_id)
        if found is not None and found.der is None and found.state is not CertificateState.ISSUED:
            requests.give_back(connection, known.id, known.certificate_id)


def unknown_request(number: int) -> Rejected:
    """There is no request of that number, or none that whoever asks may know of."""
    return Rejected.because(Refusal.UNKNOWN_REQUEST, f"there is no request {number}")


def _subject(request: EnrollmentRequest) -> str:
    """The subject that is asked for, as people read it."""
    return "" if request.wishes.subject is None else request.wishes.subject.rfc4514_string()


def still_answers(connection: Connection, known: PendingRequest, now: datetime) -> bool:
    """Whether the very same request is answered by what became of the one before, and is no new one.

    Its time is not over, and a certificate that it brought is neither revoked nor expired. What a connector said no to
    it is asked about again each time. What was agreed to for an account that was deleted is not for its namesake, whose
    question is the very same where this server makes the key.
    """
    account = accounts.get(connection, requester_of(known))
    if account is not None and account.created > known.created + CLOCKS_APART:
        return False
    if known.state is RequestState.DENIED and (known.decided_by or "").startswith(CONNECTOR_PREFIX):
        return False
    if known.state is RequestState.EXPIRED or known.expires <= now:
        return False
    if known.certificate_id is None:
        return True
    brought = certificates.get(connection, known.certificate_id)
    if brought is None or brought.der is None:
        return True  # it is being made, or never came to be
    return brought.state is not CertificateState.REVOKED and brought.not_after >= now


def _voted(request: PendingRequest, by: Person, approved: bool, reason: str, count: str) -> AuditEvent:
    return AuditEvent(
        kind=AuditKind.APPROVAL if approved else AuditKind.REFUSAL,
        actor=by.actor,
        object=f"request {request.id}",
        details=(("template", request.template), ("why", reason), ("count", count)),
    )
