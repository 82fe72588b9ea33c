"""From a decoded request to a signed answer: which issuer, which status, which signer (RFC 6960 section 2)."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime, timedelta

import attrs

from pkiserver.authority.status.policy import NeverIssued, NoncePolicy
from pkiserver.authority.status.source import ServedIssuer, Statuses, StatusSource
from pkiserver.foundation.bounded import keep
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.store.certificates.values import CertificateStatus, Revocation, RevocationReason
from protocols.ocsp import messages
from protocols.ocsp.messages import CertId, MalformedRequest, OcspRequest
from protocols.ocsp.moment import Moment, Moments, Period

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOLD = int(RevocationReason.CERTIFICATE_HOLD)

_LATELY = timedelta(seconds=10)
"""Of a certificate that was revoked so lately another node, whose clock is not quite this one, may have said otherwise
in what is the same second to both."""
PRODUCED_ANSWERS = 20_000
"""Answers kept to be given again; the oldest goes first."""


@attrs.frozen(eq=False)
class SignedAnswer:
    """A successful answer: its DER and the times that HTTP headers tell a cache (RFC 9919 section 7.2).

    ``lasting`` says that only a change of what it tells of can make it wrong: not the issuing of a certificate;
    ``dated`` that ``produced_at`` tells it from any that said something else.
    """

    body: bytes
    produced_at: datetime
    next_update: datetime
    cacheable: bool
    lasting: bool
    dated: bool


@attrs.frozen(eq=False)
class _Plan:
    """A request with what is known about it before any record is read; ``serials`` has None where it is not ours."""

    request: OcspRequest
    moment: Moment
    serials: tuple[int | None, ...]
    nonce: bytes | None

    @property
    def single(self) -> bytes | None:
        """The CertID, where the answer may be kept: about one certificate, the same for everybody."""
        if self.nonce is not None or len(self.serials) != 1 or self.moment.signer is not self.moment.served.signer:
            return None
        return self.request.certificates[0].encoded

    def spread(self, found: Statuses) -> Statuses:
        """The statuses in the request's order."""
        if None not in self.serials:
            return found
        rest = iter(found)
        return tuple(None if serial is None else next(rest) for serial in self.serials)

    @property
    def wanted(self) -> Sequence[int]:
        """The serial numbers to be looked up."""
        return [serial for serial in self.serials if serial is not None]

    @property
    def key_hashes(self) -> frozenset[bytes]:
        """By which hashes the signer's issuer was named in the request."""
        both = zip(self.request.certificates, self.serials, strict=True)
        return frozenset(one.issuer_key_hash for one, serial in both if serial is not None)


@attrs.frozen(eq=False)
class _Unsigned:
    """An answer that lacks its signature."""

    data: bytes
    period: Period
    statuses: Statuses
    dated: bool


@attrs.define(eq=False)
class _Produced:
    """An answer that may be given again while the record says the same; never one for ``unknown``."""

    answer: SignedAnswer
    issuer: ServedIssuer
    status: CertificateStatus
    half: datetime

    def tells(self, issuer: ServedIssuer, status: CertificateStatus | None) -> bool:
        """Whether nothing has happened since that it should tell of.

        A record of ours that was read again stands as before where a hold came and went: who was told of the hold by
        another process has a newer answer than this one. Another CA's records are made from its lists each time.
        """
        return self.status is status or (issuer.standing is not None and self.status == status)

    def serves(self, issuer: ServedIssuer, status: CertificateStatus | None, now: datetime) -> bool:
        """Whether it is still true, of the same signer, and before half of its life."""
        if not self.answer.produced_at <= now < self.half or not self.tells(issuer, status):
            return False
        if self.issuer is not issuer:
            if self.issuer != issuer:
                return False
            self.issuer = issuer  # read again, and the same: compared once
        return True


def _single(one: CertId, found: CertificateStatus | None, plan: _Plan, period: Period) -> bytes:
    """What is said of one certificate, with the extensions that the policy wants."""
    served = plan.moment.served
    policy = served.policy
    status: messages.CertStatus
    extensions: list[bytes] = []
    if found is None:
        # RFC 6960 section 2.2 has no CRL entry extension beside an extended revoke; nothing is said so of the
        # certificates of other keys, about which this signer has no say.
        revoked = policy.never_issued is NeverIssued.REVOKED and one.issuer_key_hash in plan.key_hashes
        status = messages.Revoked(at=_EPOCH, reason=_HOLD) if revoked else messages.UNKNOWN
    elif found.revocation is None:
        status = messages.GOOD
    else:
        status = messages.Revoked(at=found.revocation.at, reason=int(found.revocation.reason))
        extensions += _about_revocation(found, found.revocation, served)
    if found is not None and policy.archive_cutoff:
        extensions.append(messages.archive_cutoff(period.this_update - policy.archive))
    return messages.single_response(one.encoded, status, period.octets, extensions)


def _about_revocation(found: CertificateStatus, revocation: Revocation, served: ServedIssuer) -> list[bytes]:
    extensions = []
    if served.policy.invalidity_date and revocation.invalidity_date is not None:
        extensions.append(messages.invalidity_date(revocation.invalidity_date))
    crl = served.crl
    # Only a list that surely has it: made after the revocation, and before the certificate expired.
    if served.policy.crl_reference and crl is not None and revocation.at < crl.this_update <= found.not_after:
        extensions.append(messages.crl_reference(crl.url, crl.number, crl.this_update))
    return extensions


def _changed_lately(status: CertificateStatus | None, now: datetime) -> bool:
    return status is not None and status.revocation is not None and status.revocation.at > now - _LATELY


def _is_same(issuer: ServedIssuer | None, served: ServedIssuer) -> bool:
    if issuer is served:
        return True
    return issuer is not None and (issuer.issuer_id, issuer.generations) == (served.issuer_id, served.generations)


class OcspService:
    """Answers requests about every issuer that ``source`` knows; the first one of a request that is served signs."""

    def __init__(self, source: StatusSource, clock: Clock, *, max_requests: int = 16) -> None:
        self._source = source
        self._moments = Moments(clock)
        self._max_requests = max_requests
        self._produced: dict[bytes, _Produced] = {}

    def decode(self, data: bytes) -> OcspRequest:
        """Decode a request, with this responder's limit on its length; raises :class:`MalformedRequest`."""
        return messages.decode_request(data, max_requests=self._max_requests)

    def state(self) -> object | None:
        """A value that stays equal while lasting answers of the present second stay right; None: not known now."""
        return self._source.state_now()

    def answer(self, request: OcspRequest) -> SignedAnswer | Awaitable[SignedAnswer]:
        """The signed answer; at once where nothing has to be waited for.

        Certificates of an issuer whose answers another key signs are reported as unknown: their client would not
        believe this signature (RFC 6960 section 4.2.2.2).

        Raises:
            MalformedRequest: A nonce is required and missing.
            Rejected: UNKNOWN_AUTHORITY, no issuer in the request is served here; UNKNOWN_CERTIFICATE, the record is
                past its archive time.
            Unavailable: Records or key are away, or the lists that the records come from are out of date.
        """
        source = self._source
        issuers: list[ServedIssuer | None] = []
        for one in request.certificates:
            found = None
            if one.hash_name is not None:
                found = source.issuer_now(one.hash_name, one.issuer_name_hash, one.issuer_key_hash)
                if found is None:
                    return self._look_up(request)
            issuers.append(found)
        plan = self._plan(request, issuers)
        moment = plan.moment
        statuses = source.statuses_now(moment.served, plan.wanted)
        if statuses is None:
            return self._read(plan)
        outcome = self._compose(plan, plan.spread(statuses))
        if isinstance(outcome, SignedAnswer):
            return outcome
        basic = moment.signer.sign_now(outcome.data, moment.certificates)
        return self._sign(plan, outcome) if basic is None else self._finish(plan, outcome, basic)

    async def _look_up(self, request: OcspRequest) -> SignedAnswer:
        issuers = [await self._issuer(one) for one in request.certificates]
        return await self._read(self._plan(request, issuers))

    async def _issuer(self, one: CertId) -> ServedIssuer | None:
        if one.hash_name is None:
            return None
        return await self._source.issuer(one.hash_name, one.issuer_name_hash, one.issuer_key_hash)

    async def _read(self, plan: _Plan) -> SignedAnswer:
        statuses = await self._source.statuses(plan.moment.served, plan.wanted)
        outcome = self._compose(plan, plan.spread(statuses))
        return outcome if isinstance(outcome, SignedAnswer) else await self._sign(plan, outcome)

    async def _sign(self, plan: _Plan, unsigned: _Unsigned) -> SignedAnswer:
        return self._finish(plan, unsigned, await plan.moment.signer.sign(unsigned.data, plan.moment.certificates))

    def _plan(self, request: OcspRequest, issuers: Sequence[ServedIssuer | None]) -> _Plan:
        for served in issuers:
            if served is not None and served.policy.enabled:
                break
        else:
            raise Rejected.because(Refusal.UNKNOWN_AUTHORITY, "no issuer in this request is served here")
        policy = served.policy.nonce
        if policy is NoncePolicy.REQUIRE and request.nonce is None:
            raise MalformedRequest("a nonce is required")
        moment = self._moments.of(served, request.preferences)
        serials = tuple(
            [
                one.serial if _is_same(issuer, served) else None
                for one, issuer in zip(request.certificates, issuers, strict=True)
            ]
        )
        return _Plan(request, moment, serials, None if policy is NoncePolicy.IGNORE else request.nonce)

    def _compose(self, plan: _Plan, statuses: Statuses) -> SignedAnswer | _Unsigned:
        """An answer that was kept, or what is to be signed."""
        moment = plan.moment
        for status in statuses:
            if status is not None and status.not_after < moment.oldest:
                raise Rejected.because(Refusal.UNKNOWN_CERTIFICATE, "the certificate's record is past its archive time")
        single, dated = plan.single, not any(_changed_lately(status, moment.now) for status in statuses)
        if single is not None and (kept := self._produced.get(single)) is not None:
            if kept.serves(moment.served, statuses[0], moment.now):
                return kept.answer
            # As lately as above: the process that told of what came between may have had a clock before ours.
            dated = dated and kept.tells(moment.served, statuses[0]) and kept.answer.produced_at < moment.now
            del self._produced[single]
        period = moment.unsettled if None in statuses else moment.settled
        both = zip(plan.request.certificates, statuses, strict=True)
        answers = [_single(one, status, plan, period) for one, status in both]
        data = messages.response_data(moment.opening, answers, plan.nonce, moment.extensions)
        return _Unsigned(data, period, statuses, dated)

    def _finish(self, plan: _Plan, unsigned: _Unsigned, basic: bytes) -> SignedAnswer:
        moment, end = plan.moment, unsigned.period.next_update
        single, status = plan.single, unsigned.statuses[0]
        lasting = single is not None and status is not None
        octets = messages.encode_response(basic)
        answer = SignedAnswer(octets, moment.now, end, plan.nonce is None, lasting, unsigned.dated)
        if single is not None and status is not None:
            half = moment.now + (end - moment.now) / 2
            keep(self._produced, single, _Produced(answer, moment.served, status, half), most=PRODUCED_ANSWERS)
        return answer
