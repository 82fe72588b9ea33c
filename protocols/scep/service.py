"""PKIOperation (RFC 8894 section 3.3): what each message gets. The gate decides, the transaction store remembers."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
from cryptography.hazmat.primitives import serialization
from twisted.internet import reactor as _reactor
from twisted.internet.defer import DeferredSemaphore
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from pkiserver.authority.csr import read_unsigned
from pkiserver.authority.requests import (
    EnrollmentRequest,
    Evidence,
    ProofKind,
    ProofOfPossession,
    ResumedEvidence,
)
from pkiserver.authority.templates.model import Template
from pkiserver.foundation.errors import Refusal, Rejected, Unavailable
from pkiserver.keys.algorithms import load_spki
from pkiserver.registration.approvals import Pending
from pkiserver.registration.transactions import Standing, TransactionClaim, begin
from pkiserver.store.certificates import Certificate, CertificateState
from pkiserver.store.registration.scep import NOTHING, NewTransaction
from protocols.cms.certs import build_certs_only
from protocols.cms.recipients import Recipient
from protocols.scep import errors, machine
from protocols.scep.exchange import Exchange, Origin, fresh_nonce
from protocols.scep.machine import Arrival, Step
from protocols.scep.messages import (
    MessageType,
    PkiStatus,
    Reply,
    parse_certificate_id,
    parse_message,
)
from protocols.scep.metrics import ScepMetrics
from protocols.scep.ports import ScepEngine, ScepSettings
from protocols.scep.requesting import PROTOCOL, certificate_shown, kind_of, may_be_trusted, opened_request, request_in

_log = Logger(namespace="pkiserver.scep")

reactor: Any = _reactor
_PATIENCE = 40
"""How often a message looks for what another copy of it is bringing about, every 50 ms, before it is told PENDING."""


@attrs.frozen
class Granted:
    """What goes into the envelope of a SUCCESS, and whom it is for."""

    content: bytes = attrs.field(repr=False)
    recipient: Recipient = attrs.field(repr=False)


Outcome = Granted | None
"""None: PENDING."""


@attrs.frozen
class _Ask:
    """A request for a certificate with its transaction, and whom the answer is for."""

    request: EnrollmentRequest
    new: NewTransaction
    recipient: Recipient = attrs.field(repr=False)
    poll: bool = False


class ScepService:
    """Answers pkiMessages."""

    def __init__(self, engine: ScepEngine, settings: ScepSettings, metrics: ScepMetrics) -> None:
        self._engine = engine
        self._settings = settings
        self._metrics = metrics
        self._passwords = DeferredSemaphore(settings.password_parallel)
        self._handlers: dict[MessageType, Callable[[Exchange], Awaitable[Outcome]]] = {
            MessageType.PKCS_REQ: self._enroll,
            MessageType.RENEWAL_REQ: self._enroll,
            MessageType.CERT_POLL: self._poll,
            MessageType.GET_CERT: self._get_cert,
            MessageType.GET_CRL: self._get_crl,
        }

    async def operate(self, template: Template, data: bytes, origin: Origin) -> bytes:
        """The CertRep for a message, DER.

        Raises:
            Rejected: there is nothing that an answer could be signed for.
            Unavailable: try again.
        """
        message = parse_message(data)
        answerers = await self._engine.answerers(template.issuer)
        exchange = Exchange(template, message, origin, answerers, self._metrics)
        reply = Reply(PkiStatus.PENDING, message.transaction_id, message.nonce, fresh_nonce())
        envelope = None
        try:
            exchange.check()
            if not exchange.find_answerer():
                # another process may have made a registration authority, and given it out, a moment ago
                exchange.answerers = await self._engine.answerers(template.issuer, anew=True)
                exchange.require_answerer()
            assert message.kind is not None
            outcome = await self._handlers[message.kind](exchange)
            if outcome is not None:
                reply = attrs.evolve(reply, status=PkiStatus.SUCCESS)
                envelope = await exchange.seal(outcome.content, outcome.recipient, self._in_thread)
        except Rejected as error:
            reply = self._failed(exchange, reply, error)
        self._metrics.answered(template.name, message.kind, reply.status)
        return await exchange.sign(reply, envelope)

    def _failed(self, exchange: Exchange, reply: Reply, error: Rejected) -> Reply:
        info = errors.fail_info(error)
        text = "; ".join(dict.fromkeys(reason.text for reason in error.reasons))
        inside = f" ({error.inside})" if isinstance(error, errors.BadMessage) and error.inside else ""
        _log.info(
            "SCEP {request_id} from {address}: {kind} for template {template} refused, {info}: {reason}",
            request_id=exchange.origin.request_id,
            address=exchange.origin.address,
            kind="other" if exchange.message.kind is None else exchange.message.kind.name,
            template=exchange.template.name,
            info=info.name,
            reason=text + inside,
        )
        shown = text if exchange.template.scep.failure_text else ""
        return attrs.evolve(reply, status=PkiStatus.FAILURE, fail_info=info, fail_text=shown)

    async def _in_thread(self, work: Callable[[], bytes]) -> bytes:
        if len(self._passwords.waiting) >= self._settings.password_waiting:
            raise Unavailable("too many answers are being encrypted under passwords", retry_after=10, public=True)
        made: bytes = await self._passwords.run(deferToThread, work)
        return made

    # -- enrolment ---------------------------------------------------------------------------------------------------

    async def _enroll(self, exchange: Exchange) -> Outcome:
        parsed = opened_request(await exchange.open(), exchange.template)
        exchange.allow_in_request(parsed.old_digest)
        challenge = parsed.challenge_password or None
        recipient = exchange.recipient(challenge)
        request = await request_in(self._engine, exchange, parsed, challenge)
        new = begin(request, kind=kind_of(request), signer_spki=exchange.signer_spki, at=self._engine.clock.now())
        return await self._settle(_Ask(request, new, recipient))

    async def _settle(self, ask: _Ask) -> Outcome:
        """One certificate for one transaction, whoever brings it about."""
        refusal: Rejected | Unavailable | None = None
        for _ in range(_PATIENCE):
            standing = await self._engine.transactions.find(ask.new.key)
            step = self._step(ask, standing)
            if step is Step.REPEAT:
                return _granted(standing.certificate, ask.recipient)
            if step is Step.WAIT:
                await deferLater(reactor, 0.05)
                continue
            if refusal is not None:
                raise refusal  # nobody else brought it about either
            try:
                return await self._issue(ask, standing)
            except (Rejected, Unavailable) as error:
                # Another copy of this message may have been faster: then its certificate is the answer.
                refusal = error
        return None

    def _step(self, ask: _Ask, standing: Standing) -> Step:
        state = machine.state_of(standing, self._engine.clock.now())
        if ask.poll:
            return machine.on_poll(state, same_signer=True)
        row = standing.transaction
        same_key = row is None or row.spki_sha256 == ask.new.spki_sha256
        same_wishes = row is None or row.asks == ask.new.asks
        return machine.on_request(Arrival(state, same_key, same_wishes))

    async def _issue(self, ask: _Ask, standing: Standing) -> Outcome:
        over = machine.predecessor(standing, self._engine.clock.now())
        row = standing.transaction
        number = row.request_number if row is not None and over == NOTHING else None
        issued = await self._engine.enroll(ask.request, TransactionClaim(ask.new, number, over))
        if isinstance(issued, Pending):
            if issued.request_number != number:
                await self._engine.transactions.keep(ask.new, issued.request_number, over=over)
            return None
        return Granted(build_certs_only([issued.der]), ask.recipient)

    # -- polling -----------------------------------------------------------------------------------------------------

    async def _poll(self, exchange: Exchange) -> Outcome:
        """By transaction ID and signer alone, as section 3.3.3 advises: the envelope is not opened."""
        name, transaction_id = exchange.template.name, exchange.message.transaction_id
        standing = await self._engine.transactions.newest(name, transaction_id)
        row = standing.transaction
        same_signer = row is not None and row.signer_sha256 == _digest(exchange.signer_spki)
        state = machine.state_of(standing, self._engine.clock.now())
        step = machine.on_poll(state, same_signer=same_signer)
        if step is Step.WAIT:
            return None
        recipient = exchange.recipient(None)
        if step is Step.REPEAT:
            return _granted(standing.certificate, recipient)
        assert row is not None
        evidence: list[Evidence] = [ResumedEvidence(standing.requester or "", transaction_id)]
        certificate = exchange.message.certificate
        assert certificate is not None  # check() saw to it
        known = await self._engine.known(certificate.public_bytes(serialization.Encoding.DER))
        if known is not None or may_be_trusted(exchange.template, certificate):
            evidence.append(certificate_shown(exchange))
        spki, wishes = read_unsigned(row.payload)
        request = EnrollmentRequest(
            template=name,
            public_key=load_spki(spki),
            spki=spki,
            proof=ProofOfPossession(ProofKind.CSR_SIGNATURE, verified=True),
            wishes=wishes,
            evidence=tuple(evidence),
            protocol=PROTOCOL,
            source=exchange.origin.address,
            request_id=exchange.origin.request_id,
            transaction_id=transaction_id,
            received=self._engine.clock.now(),
        )
        new = NewTransaction(row.key, row.spki_sha256, row.signer_sha256, row.asks, row.payload, row.created)
        return await self._settle(_Ask(request, new, recipient, poll=True))

    # -- certificates and lists --------------------------------------------------------------------------------------

    async def _get_cert(self, exchange: Exchange) -> Outcome:
        """A copy of the client's own certificate (section 2.6): signed with its key, or with one of the same holder."""
        wanted = parse_certificate_id(await exchange.open())
        recipient = exchange.recipient(None)
        found = await self._engine.certificate(exchange.template.issuer, wanted.issuer, wanted.serial)
        if found is None or found.der is None or not await self._is_holder(exchange, found):
            raise Rejected.because(Refusal.UNKNOWN_CERTIFICATE, "no certificate of yours has this issuer and serial")
        return Granted(build_certs_only([found.der]), recipient)

    async def _is_holder(self, exchange: Exchange, wanted: Certificate) -> bool:
        if _digest(exchange.signer_spki) == wanted.spki_sha256:
            return True
        assert exchange.message.certificate is not None
        shown = await self._engine.known(exchange.message.certificate.public_bytes(serialization.Encoding.DER))
        if shown is None or shown.state is not CertificateState.ISSUED:
            return False
        now = self._engine.clock.now()
        same = (shown.issuer_id, shown.subject, shown.requester) == (wanted.issuer_id, wanted.subject, wanted.requester)
        return same and shown.not_before <= now <= shown.not_after

    async def _get_crl(self, exchange: Exchange) -> Outcome:
        wanted = parse_certificate_id(await exchange.open())
        recipient = exchange.recipient(None)
        found = await self._engine.crl(exchange.template.issuer, wanted.issuer, wanted.serial)
        if found is None:
            raise Rejected.because(Refusal.UNKNOWN_CERTIFICATE, "there is no CRL for this issuer")
        return Granted(build_certs_only((), [found]), recipient)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _granted(certificate: Certificate | None, recipient: Recipient) -> Granted:
    assert certificate is not None  # the state says that it is there
    assert certificate.der is not None
    return Granted(build_certs_only([certificate.der]), recipient)
