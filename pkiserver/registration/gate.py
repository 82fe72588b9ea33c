"""The only place that says yes to an enrolment. The default answer is no, and a no lists every reason."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Protocol

import attrs
from sqlalchemy import Connection

from pkiserver.authority.requests import (
    Authorised,
    ChallengeEvidence,
    CodeEvidence,
    EnrollmentRequest,
    Evidence,
    PasswordEvidence,
    RegistrationRecord,
)
from pkiserver.authority.templates.build import CertificateContent
from pkiserver.authority.templates.model import INTERNAL, EvidenceKind, SameSubject, Template
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.decoded import decoded
from pkiserver.foundation.errors import Reason, Refusal, Rejected, Unavailable
from pkiserver.registration import renewal, rules
from pkiserver.registration.approvals import (
    CONNECTOR_PREFIX,
    AlreadyIssued,
    ApprovalClaim,
    Approvals,
    DeniedBefore,
    Pending,
    still_answers,
)
from pkiserver.registration.checks import check_request, content_to_be, general_reasons
from pkiserver.registration.codes import CodeClaim
from pkiserver.registration.connectors.asking import EXPIRED
from pkiserver.registration.connectors.questions import told_to
from pkiserver.registration.connectors.reports import tell_at_once
from pkiserver.registration.connectors.values import Challenged, Denied, Outcome, Shown
from pkiserver.registration.evidence import Identifier, codes_in
from pkiserver.registration.guesses import Guesses
from pkiserver.registration.identities import (
    CODE_PREFIX,
    USERID,
    Findings,
    account_problem,
    connector_of,
    is_account,
    record_attributes,
)
from pkiserver.registration.renewed import StillStanding
from pkiserver.registration.requestmatter import is_outdated, request_fingerprint
from pkiserver.registration.seatidentity import identity_of, is_nameless
from pkiserver.registration.seats import SeatClaim
from pkiserver.registration.waiting import WaitingBound
from pkiserver.store import certificates
from pkiserver.store.certificates import Certificate, CertificateState
from pkiserver.store.database import Database
from pkiserver.store.registration import accounts, requests
from pkiserver.store.registration.accounts import Account
from pkiserver.store.registration.requests import PendingRequest, RequestState


class Templates(Protocol):
    """Where the gate finds the template in force."""

    def get(self, name: str) -> Template:
        """The template of that name; raises :class:`Rejected` (UNKNOWN_TEMPLATE)."""


Decision = Authorised | Pending | AlreadyIssued
_GUESSABLE = (PasswordEvidence, CodeEvidence, ChallengeEvidence)
_GUESSED = frozenset({EvidenceKind.PASSWORD, EvidenceKind.CODE, EvidenceKind.SHARED_SECRET})


@attrs.frozen
class Gate:
    """Decides enrolment requests."""

    database: Database
    templates: Templates
    identifier: Identifier
    approvals: Approvals
    clock: Clock
    guesses: Guesses

    async def decide(self, request: EnrollmentRequest) -> Decision:
        """Yes (:class:`Authorised`), not yet, or the certificate that the same request brought before.

        Raises:
            Rejected: no, with every reason.
            Unavailable: the decision needs something that is away, or there were too many wrong guesses.
        """
        template = self.templates.get(request.template)
        reasons = general_reasons(template, request)
        if reasons:
            raise Rejected(reasons)
        decision = await self._decide(request, template)
        if isinstance(decision, Authorised) and template.seats.enabled:
            return attrs.evolve(decision, claims=(*decision.claims, self._seat(template, decision)))
        return decision

    async def before_work(self, template: str, protocol: str, evidence: tuple[Evidence, ...], source: str) -> None:
        """Ask before costly work for a request is begun, such as making its key; :meth:`decide` must follow.

        A secret is not looked at, since some can be used once: only whether there were too many wrong ones.

        Raises:
            Rejected: what is shown besides entitles nobody.
            Unavailable: too many wrong guesses, or something that is needed is away.
        """
        found = self.templates.get(template)
        if any(isinstance(one, _GUESSABLE) for one in evidence):
            await self.guesses.check(found.name, source)
            return
        findings = await self.identifier.identify(found, protocol, evidence)
        outcome = rules.match(found, protocol, findings)
        if not isinstance(outcome, rules.Match):
            raise _refusal(outcome, findings)

    async def _decide(self, request: EnrollmentRequest, template: Template) -> Decision:
        if request.renewal_of is not None:
            return await self._renewal(request, template, request.renewal_of)
        findings = await self._identify(template, request)
        request = self._noting(request, findings)
        await self._end(request, findings)
        try:
            return await self._judge(request, template, findings)
        except DeniedBefore:
            raise
        except Rejected as error:
            await tell_at_once(self.database, request, error, self.clock.now())
            raise

    async def _end(self, request: EnrollmentRequest, findings: Findings) -> None:
        """What waited for nothing but a service that now says no waits no more; who asks again asks anew."""
        for one in findings.against:
            for name in (one.requester, *(shown.name for shown in findings.identities)):
                kept = request_fingerprint(request, RegistrationRecord(name))
                known = await self.database.read(partial(self._kept, fingerprint=kept))
                if known is None or known.state is not RequestState.PENDING:
                    continue
                if known.reasons == (_waits_for(one.connector),):
                    await self.approvals.end(known.id, one.connector, one.text)

    def _noting(self, request: EnrollmentRequest, findings: Findings) -> EnrollmentRequest:
        """The request, with the service that took its challenge where that wants to be told of the end."""
        connectors = self.identifier.connectors
        by = (one.connector for one in findings.identities if one.kind is EvidenceKind.SHARED_SECRET)
        tells = next((name for name in by if name != INTERNAL and connectors.wants_reports(name)), None)
        return request if tells is None else told_to(request, tells)

    async def _judge(self, request: EnrollmentRequest, template: Template, findings: Findings) -> Decision:
        found = rules.match(template, request.protocol, findings)
        if not isinstance(found, rules.Match):
            if (fetched := await self._fetched(request)) is not None:
                return fetched
            raise _refusal(found, findings)
        claims = (*(CodeClaim(number, self.clock) for number in found.codes), *found.claims)
        waits = found.undecided
        if found.rule.approval:
            answer = await self._ask_officers(request, template, found)
            if waits is not None and isinstance(answer, ApprovalClaim):
                return Pending(answer.request_number, waits.retry_after)
        elif waits is not None:
            seat = self._seat_to_be(request, template, found)
            answer = await self.approvals.ask(request, found.record, reasons=(_waits_for(waits.connector),), seat=seat)
            if isinstance(answer, Pending):
                return Pending(answer.request_number, waits.retry_after)
        elif (settled := await self._settled(request, template, found)) is not None:
            answer = settled
        else:
            return Authorised(request, found.record, "rule " + "+".join(found.rule.all), claims)
        if not isinstance(answer, ApprovalClaim):
            return answer
        return Authorised(request, found.record, f"approval of request {answer.request_number}", (*claims, answer))

    async def _ask_officers(
        self, request: EnrollmentRequest, template: Template, found: rules.Match
    ) -> Pending | AlreadyIssued | ApprovalClaim:
        checks: tuple[str, ...] = ()
        asked = Authorised(request, found.record, "to be decided")
        bound = WaitingBound.of(template.name, found.rule, exempt=self.guesses.is_exempt(request.source))
        if not await self.approvals.knows(request, found.record):
            if bound is not None:
                await self._require_room(bound, request.source)
            checks = check_request(self.identifier.authorities, template, asked, self.clock.now())
            if template.seats.enabled:
                checks += await self._seat_checks(template, asked)
        group = f" of {' or '.join(found.rule.approvers)}" if found.rule.approvers else ""
        why = f"rule {'+'.join(found.rule.all)} wants {found.rule.approvals} approval(s){group}"
        return await self.approvals.ask(
            request,
            found.record,
            found.rule,
            reasons=(why,),
            checks=checks,
            bound=bound,
            seat=self._seat_to_be(request, template, found),
        )

    async def _require_room(self, bound: WaitingBound, address: str) -> None:
        """Before costly work, and in no write; raises :class:`Unavailable`, as asking would."""
        full = await self.database.read(partial(bound.reached, address=address, now=self.clock.now()))
        if full is not None:
            raise self.approvals.turned_away.note(bound.template, full, address)

    async def _seat_checks(self, template: Template, asked: Authorised) -> tuple[str, ...]:
        """Whether the seat would take the certificate now; it may have room by the time that officers agree."""
        reasons = await self.database.read(self._seat(template, asked).reasons_against)
        found = tuple(f"seat: would be refused as things are: {one.text}" for one in reasons)
        return found or ("seat: would take it",)

    def _seat_to_be(self, request: EnrollmentRequest, template: Template, found: rules.Match) -> str:
        """Whose seat it would be in: its owner does not decide the request."""
        return self._seat(template, Authorised(request, found.record, "to be decided")).identity

    def _seat(self, template: Template, decision: Authorised) -> SeatClaim:
        renewed = next((one.certificate_id for one in decision.claims if isinstance(one, StillStanding)), None)
        supersedes = template.duplicates.same_subject is SameSubject.SUPERSEDE
        nameless = is_nameless(template, decision.record)
        content = self._content(template, decision) if supersedes or nameless else None
        return SeatClaim(
            template.name,
            template.seats,
            identity_of(decision.record, content if nameless else None),
            decision.request.device,
            renewed,
            self.clock,
            content.subject.rfc4514_string() if supersedes and content is not None else None,
            of_account=not nameless and is_account(decision.record.name),
        )

    def _content(self, template: Template, decision: Authorised) -> CertificateContent | None:
        """What the certificate would say; None where it is refused, with every reason, when it is to be made."""
        try:
            return content_to_be(self.identifier.authorities, template, decision, self.clock.now())
        except Rejected:
            return None

    async def _fetched(self, request: EnrollmentRequest) -> AlreadyIssued | None:
        """What the very same request brought after an approval: its enrolment code is spent on that certificate."""
        for code in codes_in(request.evidence):
            grant = await self.identifier.codes.find(code)
            if grant is None or grant.usable:
                continue
            fingerprint = request_fingerprint(request, RegistrationRecord(f"{CODE_PREFIX}{grant.id}"))
            known = await self.database.read(partial(self._kept, fingerprint=fingerprint))
            if known is not None and known.state is RequestState.ISSUED and known.certificate_id is not None:
                return AlreadyIssued(known.certificate_id)
        return None

    def _kept(self, connection: Connection, fingerprint: bytes) -> PendingRequest | None:
        """The very same request of before, where it answers this one."""
        known = requests.by_fingerprint(connection, fingerprint)
        return known if known is not None and still_answers(connection, known, self.clock.now()) else None

    async def _settled(
        self, request: EnrollmentRequest, template: Template, found: rules.Match
    ) -> Pending | AlreadyIssued | ApprovalClaim | None:
        """The request that waited for nothing but a connector which now says yes; None where there is none."""
        connector = next((one.connector for one in found.identities if one.connector != INTERNAL), None)
        if connector is None:
            return None
        fingerprint = request_fingerprint(request, found.record)

        def look(connection: Connection) -> tuple[PendingRequest | None, bool]:
            kept = self._kept(connection, fingerprint)
            return kept, kept is not None and is_outdated(connection, kept)

        known, outdated = await self.database.read(look)
        if known is None:
            return None
        waited, decided = (_waits_for(connector),), (f"connector {connector} says yes",)
        if known.reasons not in (waited, decided):
            return None
        anew = outdated and known.state in {RequestState.PENDING, RequestState.APPROVED}
        if anew:
            # put anew under the template as it is now, for the connector that has just been asked again
            seat = self._seat_to_be(request, template, found)
            await self.approvals.ask(request, found.record, reasons=waited, seat=seat)
        if anew or known.state is RequestState.PENDING:
            await self.approvals.decide(known.id, approved=True, by=f"{CONNECTOR_PREFIX}{connector}", reason=decided[0])
        return await self.approvals.ask(request, found.record)

    async def _identify(self, template: Template, request: EnrollmentRequest) -> Findings:
        """Whom the evidence shows; where a part of it can be guessed, wrong guesses are counted and slow down."""
        guessable = any(isinstance(one, _GUESSABLE) for one in request.evidence)
        if guessable:
            await self.guesses.check(template.name, request.source)
        evidence = tuple(
            attrs.evolve(one, csr=one.csr or request.csr, transaction=request.transaction_id or "")
            if isinstance(one, ChallengeEvidence)
            else one
            for one in request.evidence
        )
        findings = await self.identifier.identify(template, request.protocol, evidence)
        if guessable:
            await self._count(template, request, findings)
        return findings

    async def _count(self, template: Template, request: EnrollmentRequest, findings: Findings) -> None:
        """Whether the evidence was a wrong guess or a right one.

        Neither is a challenge in return, nor what nobody knows while a connector is away.
        """
        # nobody's password is empty: asking for one by mail costs an address as much as a wrong one
        empty = any(isinstance(one, PasswordEvidence) and not one.password.reveal() for one in request.evidence)
        wrong = (one.code is Refusal.NOT_AUTHENTICATED and one != EXPIRED for one in findings.failures)
        if empty or any(wrong):
            await self.guesses.wrong(template.name, request.source)
        elif not findings.challenges and (
            not findings.away or any(one.kind in _GUESSED for one in findings.identities)
        ):
            self.guesses.right(request.source)

    async def _renewal(
        self, request: EnrollmentRequest, template: Template, renewed: bytes
    ) -> Authorised | AlreadyIssued:
        fingerprint = hashlib.sha256(renewed).digest()

        def look(connection: Connection) -> tuple[Certificate | None, Certificate | None, Account | None]:
            found = certificates.by_fingerprint(connection, fingerprint)
            if found is None:
                return None, None, None
            after = None
            if found.replaced_by is not None and found.state is not CertificateState.ISSUED:
                after = certificates.get(connection, found.replaced_by)
            return found, after, accounts.get(connection, found.requester)

        current, successor, owner = await self.database.look_up(look)
        now = self.clock.now()
        reasons = renewal.reasons_against(request, template, current, now)
        if reasons:
            if renewal.was_answered(request, current, successor, reasons, now):
                assert successor is not None
                return AlreadyIssued(successor.id)
            raise Rejected(reasons)
        assert current is not None
        claims = (StillStanding(current.id, alone=template.renewal.revoke_old),)
        record = await self._renewed_record(template, current, owner)
        return Authorised(request, record, "renewal with the current certificate", claims)

    async def _renewed_record(
        self, template: Template, current: Certificate, owner: Account | None
    ) -> RegistrationRecord:
        """Who the holder of the current certificate is today; its subject and names are kept."""
        assert current.der is not None
        old = decoded(current.der)
        if (problem := account_problem(current, owner)) is not None:
            raise Rejected.because(Refusal.NOT_AUTHORISED, f"the account behind the certificate is {problem}")
        found = await self._holder_today(template, current.requester) if owner is None else None
        if isinstance(found, Denied):
            text = "the holder of the certificate is not entitled any more where they are kept"
            raise Rejected.because(Refusal.NOT_AUTHORISED, text)
        if isinstance(found, Shown):
            groups, attributes = found.groups, ((USERID, found.name), *found.attributes)
            return RegistrationRecord(current.requester, groups, attributes, old.subject, renewal.names_of(old))
        return RegistrationRecord(
            name=current.requester,
            groups=owner.groups if owner is not None else frozenset(),
            attributes=record_attributes(owner),
            subject=old.subject,
            sans=renewal.names_of(old),
        )

    async def _holder_today(self, template: Template, requester: str) -> Outcome | None:
        """What the connector says today that showed somebody; None where none did, or it needs a password to say."""
        connector = connector_of(requester)
        if connector is None:
            return None
        if problem := renewal.vouching_problem(template, connector):
            raise Rejected([problem])
        needed = template.renewal.connectors == "named" and renewal.is_named(template, connector)
        return await self.identifier.connectors.current(requester, needed=needed)


def _waits_for(connector: str) -> str:
    return f"connector {connector} has not decided yet"


def _refusal(reasons: tuple[Reason, ...], findings: Findings) -> Rejected | Unavailable:
    """No; or come again, where a connector that might have said yes could not be asked or asks for more."""
    if findings.challenges:
        return Challenged(tuple(one.reason for one in findings.challenges), findings.challenges)
    if findings.away:
        text = "; ".join(dict.fromkeys(one.text for one in findings.away))
        return Unavailable(text, retry_after=max(one.retry_after for one in findings.away))
    return Rejected(reasons)
