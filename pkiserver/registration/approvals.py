"""Requests that wait for an officer: kept in the store, decided once, answered whenever the client asks again."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta

import attrs
from cryptography import x509
from sqlalchemy import Connection

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.authority.requests import EnrollmentRequest, ProofKind, RegistrationRecord
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.store import certificates, requests
from pkiserver.store.certificates import CertificateState
from pkiserver.store.database import Database
from pkiserver.store.requests import NewRequest, PendingRequest, RequestState

LIFETIME = timedelta(days=14)
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


@attrs.frozen
class ApprovalClaim:
    """An officer's approval, to be spent on one certificate."""

    request_number: int

    def take(self, connection: Connection, certificate_id: int) -> None:
        """Spend it by one conditional UPDATE; raises :class:`Rejected` where somebody was faster."""
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

    async def ask(
        self, request: EnrollmentRequest, record: RegistrationRecord
    ) -> Pending | AlreadyIssued | ApprovalClaim:
        """What became of this request: nothing yet (it is kept now), a certificate, or an approval to be used.

        Raises:
            Rejected: an officer denied it, with the officer's reasons.
        """
        new = self._new(request, record)
        event = AuditEvent(
            kind=AuditKind.REQUEST,
            actor=record.name,
            object=f"template {request.template}",
            outcome="ok",
            request_id=request.request_id,
            details=(("protocol", request.protocol), ("template", request.template)),
        )

        def look(connection: Connection) -> PendingRequest:
            known = requests.by_fingerprint(connection, new.fingerprint)
            if known is not None and known.state is not RequestState.EXPIRED and known.expires > new.created:
                self._revive(connection, known)
                return requests.get(connection, known.id) or known
            requests.expire(connection, now=new.created)
            opened = requests.open_request(connection, new)
            self.audit.append(connection, event)
            return opened

        found = await self.database.write(look)
        match found.state:
            case RequestState.APPROVED:
                return ApprovalClaim(found.id)
            case RequestState.ISSUED if found.certificate_id is not None:
                return AlreadyIssued(found.certificate_id)
            case RequestState.DENIED:
                why = "; ".join(found.reasons) or "no reason was given"
                raise Rejected.because(Refusal.NOT_AUTHORISED, f"request {found.id} was denied: {why}")
            case _:
                return Pending(found.id)

    async def list_page(
        self, *, state: RequestState | None = RequestState.PENDING, before: int | None = None, limit: int = 100
    ) -> tuple[PendingRequest, ...]:
        """Requests, newest first."""
        return await self.database.read(
            lambda connection: requests.list_page(connection, state=state, before=before, limit=limit)
        )

    async def get(self, number: int) -> PendingRequest:
        """One request; raises :class:`Rejected` (UNKNOWN_REQUEST)."""
        found = await self.database.read(lambda connection: requests.get(connection, number))
        if found is None:
            raise Rejected.because(Refusal.UNKNOWN_REQUEST, f"there is no request {number}")
        return found

    async def decide(self, number: int, *, approved: bool, by: str, reason: str = "") -> None:
        """Approve or deny a pending request; once.

        Raises:
            Rejected: it is not pending any more, does not exist, or is the officer's own.
        """
        found = await self.get(number)
        if requester_of(found) == by:
            raise Rejected.because(Refusal.NOT_AUTHORISED, "nobody decides their own request")
        now = self.clock.now()
        event = AuditEvent(
            kind=AuditKind.APPROVAL if approved else AuditKind.REFUSAL,
            actor=by,
            object=f"request {number}",
            details=(("template", found.template), ("why", reason)),
        )

        def settle(connection: Connection) -> bool:
            reasons = (reason,) if reason else ()
            if not requests.decide(connection, number, approved=approved, by=by, at=now, reasons=reasons):
                return False
            self.audit.append(connection, event)
            return True

        if not await self.database.write(settle):
            raise Rejected.because(Refusal.CONFLICT, f"request {number} is not pending any more")

    def _new(self, request: EnrollmentRequest, record: RegistrationRecord) -> NewRequest:
        now = self.clock.now()
        subject = request.wishes.subject.rfc4514_string() if request.wishes.subject is not None else ""
        payload = {
            "requester": record.name,
            "protocol": request.protocol,
            "source": request.source,
            "subject": subject,
            "transaction": request.transaction_id,
        }
        return NewRequest(
            template=request.template,
            csr=request.csr,
            spki=request.spki,
            payload=json.dumps(payload).encode(),
            evidence=f"{record.name} by {request.protocol} from {request.source}",
            fingerprint=request_fingerprint(request, record),
            created=now,
            expires=now + LIFETIME,
        )

    def _revive(self, connection: Connection, known: PendingRequest) -> None:
        """Put an approval back in force whose certificate was given up, by a crash or a token that was away."""
        if known.state is not RequestState.ISSUED or known.certificate_id is None:
            return
        found = certificates.get(connection, known.certificate_id)
        if found is not None and found.der is None and found.state is not CertificateState.ISSUED:
            requests.give_back(connection, known.id, known.certificate_id)


def request_fingerprint(request: EnrollmentRequest, record: RegistrationRecord) -> bytes:
    """The same octets whenever the same requester asks for the same thing: SHA-256 over length-prefixed parts.

    What is asked for counts, not the PKCS#10 octets: a client that links its request to the TLS connection signs it
    anew for each attempt (RFC 7030 section 4.2.3). A key that the server makes is another each time: it does not count.
    """
    wishes = request.wishes
    texts = (request.template, request.protocol, record.name, request.transaction_id or "", str(wishes.not_after))
    digest = hashlib.sha256()
    for part in (
        *(text.encode() for text in texts),
        b"" if request.proof.kind is ProofKind.GENERATED_HERE else request.spki,
        b"" if wishes.subject is None else wishes.subject.public_bytes(),
        x509.SubjectAlternativeName(wishes.sans).public_bytes(),
        *(octets for one in wishes.extensions for octets in (one.oid.encode(), one.value)),
    ):
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.digest()


def requester_of(request: PendingRequest) -> str:
    """Who asked."""
    return str(json.loads(request.payload)["requester"])
