"""From a decoded request to a signed answer: which issuer, which status, which signer (RFC 6960 section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import attrs

from pkiserver.authority.status.policy import NeverIssued, NoncePolicy, OcspPolicy, ResponderIdentity
from pkiserver.authority.status.source import AnswerSigner, ServedIssuer, StatusSource
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Refusal, Rejected, Unavailable
from pkiserver.store.certificates.values import CertificateStatus, RevocationReason
from protocols.ocsp import messages
from protocols.ocsp.messages import CertId, MalformedRequest, OcspRequest

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOLD = int(RevocationReason.CERTIFICATE_HOLD)

PRODUCED_ANSWERS = 20_000
"""Answers kept to be given again; the oldest goes first."""


@attrs.frozen
class SignedAnswer:
    """A successful answer: its DER and the times that HTTP headers tell a cache (RFC 9919 section 7.2)."""

    body: bytes
    this_update: datetime
    next_update: datetime
    cacheable: bool


def _single(one: CertId, found: CertificateStatus | None, policy: OcspPolicy, life: _Life) -> messages.SingleAnswer:
    """What is said of one certificate, with the extensions that the policy wants."""
    status: messages.CertStatus
    extensions: list[bytes] = []
    if found is None:
        # RFC 6960 section 2.2 has no CRL entry extension beside an extended revoke; nothing is said so of the
        # certificates of other keys, about which this signer has no say.
        revoked = policy.never_issued is NeverIssued.REVOKED and one.issuer_key_hash in life.key_hashes
        status = messages.Revoked(at=_EPOCH, reason=_HOLD) if revoked else messages.Unknown()
    elif found.revocation is None:
        status = messages.Good()
    else:
        status = messages.Revoked(at=found.revocation.at, reason=int(found.revocation.reason))
        if policy.invalidity_date and found.revocation.invalidity_date is not None:
            extensions.append(messages.invalidity_date(found.revocation.invalidity_date))
    if found is not None and policy.archive_cutoff:
        extensions.append(messages.archive_cutoff(life.this_update - policy.archive))
    return messages.SingleAnswer(one.encoded, status, life.this_update, life.next_update, tuple(extensions))


def _is_same(issuer: ServedIssuer | None, served: ServedIssuer) -> bool:
    return issuer is not None and issuer.generations == served.generations


@attrs.frozen
class _Life:
    """When an answer holds, and by which hashes its signer's issuer was named in the request."""

    this_update: datetime
    next_update: datetime
    key_hashes: frozenset[bytes]


@attrs.frozen
class _Produced:
    """An answer that may be given again while the record says the same; never one for ``unknown``."""

    answer: SignedAnswer
    issuer: ServedIssuer
    status: CertificateStatus

    def serves(self, issuer: ServedIssuer, status: CertificateStatus | None, now: datetime) -> bool:
        """Whether it is still true, of the same signer, and before half of its life."""
        answer = self.answer
        half = answer.this_update + (answer.next_update - answer.this_update) / 2
        if not answer.this_update <= now < half or self.status != status:
            return False
        return self.issuer is issuer or self.issuer == issuer


class OcspService:
    """Answers requests about every issuer that ``source`` knows; the first one of a request that is served signs."""

    def __init__(self, source: StatusSource, clock: Clock, *, max_requests: int = 16) -> None:
        self._source = source
        self._clock = clock
        self._max_requests = max_requests
        self._produced: dict[bytes, _Produced] = {}

    def decode(self, data: bytes) -> OcspRequest:
        """Decode a request, with this responder's limit on its length; raises :class:`MalformedRequest`."""
        return messages.decode_request(data, max_requests=self._max_requests)

    async def answer(self, request: OcspRequest) -> SignedAnswer:
        """The signed answer.

        Certificates of an issuer whose answers another key signs are reported as unknown: their client would not
        believe this signature (RFC 6960 section 4.2.2.2).

        Raises:
            MalformedRequest: A nonce is required and missing.
            Rejected: UNKNOWN_AUTHORITY, no issuer in the request is served here; UNKNOWN_CERTIFICATE, the record is
                past its archive time.
            Unavailable: Records or key are away.
        """
        issuers = [await self._issuer(one) for one in request.certificates]
        served = next((issuer for issuer in issuers if issuer is not None and issuer.policy.enabled), None)
        if served is None:
            raise Rejected.because(Refusal.UNKNOWN_AUTHORITY, "no issuer in this request is served here")
        policy = served.policy
        if policy.nonce is NoncePolicy.REQUIRE and request.nonce is None:
            raise MalformedRequest("a nonce is required")
        now = self._clock.now().replace(microsecond=0)
        signer = self._signer(served, now)
        statuses = await self._statuses(served, request.certificates, issuers)
        self._refuse_forgotten(statuses, policy, now)
        nonce = None if policy.nonce is NoncePolicy.IGNORE else request.nonce
        single = request.certificates[0].encoded if nonce is None and len(statuses) == 1 else None
        if single is not None and (kept := self._produced.get(single)) is not None:
            if kept.serves(served, statuses[0], now):
                return kept.answer
            del self._produced[single]
        next_update = min(now + self._validity(statuses, policy), signer.not_after)
        ours = zip(request.certificates, issuers, strict=True)
        key_hashes = frozenset(one.issuer_key_hash for one, issuer in ours if _is_same(issuer, served))
        life = _Life(now, next_update, key_hashes)
        answers = tuple(
            _single(one, status, policy, life) for one, status in zip(request.certificates, statuses, strict=True)
        )
        # The extension says what this responder does, not what this answer holds: it is in all or in none.
        extended = policy.never_issued is NeverIssued.REVOKED
        extensions = (messages.EXTENDED_REVOKE_EXTENSION,) if extended else ()
        data = messages.ResponseData(self._name(signer, policy), now, answers, nonce, extensions)
        body = await self._sign(signer, policy, data)
        answer = SignedAnswer(body=body, this_update=now, next_update=next_update, cacheable=nonce is None)
        if single is not None and statuses[0] is not None:
            self._keep(single, _Produced(answer, served, statuses[0]))
        return answer

    def _keep(self, cert_id: bytes, produced: _Produced) -> None:
        if len(self._produced) >= PRODUCED_ANSWERS:
            del self._produced[next(iter(self._produced))]
        self._produced[cert_id] = produced

    async def _issuer(self, one: CertId) -> ServedIssuer | None:
        if one.hash_name is None:
            return None
        return await self._source.issuer(one.hash_name, one.issuer_name_hash, one.issuer_key_hash)

    @staticmethod
    def _signer(served: ServedIssuer, now: datetime) -> AnswerSigner:
        if served.signer is None or served.signer.not_after <= now:
            raise Unavailable(f"authority {served.authority} has no OCSP signer at the moment")
        return served.signer

    async def _statuses(
        self, served: ServedIssuer, asked: Sequence[CertId], issuers: Sequence[ServedIssuer | None]
    ) -> tuple[CertificateStatus | None, ...]:
        ours = [one.serial if _is_same(issuer, served) else None for one, issuer in zip(asked, issuers, strict=True)]
        found = iter(await self._source.statuses(served, [serial for serial in ours if serial is not None]))
        return tuple(None if serial is None else next(found) for serial in ours)

    @staticmethod
    def _refuse_forgotten(statuses: Sequence[CertificateStatus | None], policy: OcspPolicy, now: datetime) -> None:
        if any(status is not None and status.not_after + policy.archive < now for status in statuses):
            raise Rejected.because(Refusal.UNKNOWN_CERTIFICATE, "the certificate's record is past its archive time")

    @staticmethod
    def _validity(statuses: Sequence[CertificateStatus | None], policy: OcspPolicy) -> timedelta:
        return min(policy.validity, policy.unknown_validity) if None in statuses else policy.validity

    @staticmethod
    def _name(signer: AnswerSigner, policy: OcspPolicy) -> bytes:
        if policy.identity is ResponderIdentity.NAME:
            return messages.by_name(signer.name)
        return messages.by_key(signer.key_hash)

    @staticmethod
    async def _sign(signer: AnswerSigner, policy: OcspPolicy, data: messages.ResponseData) -> bytes:
        certificates = (signer.certificate,) if signer.certificate is not None and policy.include_certificate else ()
        return messages.encode_response(await signer.sign(messages.encode_response_data(data), certificates))
