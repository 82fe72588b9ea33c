"""What a PKCSReq or RenewalReq asks for: a first certificate, or the renewal of the one that it is signed with."""

from __future__ import annotations

import hashlib

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from pkiserver.authority.csr import ParsedRequest, parse_request
from pkiserver.authority.requests import (
    ChallengeEvidence,
    ClientCertificateEvidence,
    CodeEvidence,
    EnrollmentRequest,
    Evidence,
    SelfSignedEvidence,
)
from pkiserver.authority.templates.model import INTERNAL, EvidenceKind, Template
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.foundation.unreadable import UNREADABLE
from pkiserver.registration.codeform import canonical
from pkiserver.registration.renewal import names_of, reasons_against
from pkiserver.store.certificates import Certificate
from pkiserver.store.registration.scep import TransactionKey
from protocols.scep import errors
from protocols.scep.exchange import Exchange
from protocols.scep.messages import MessageType
from protocols.scep.ports import ScepEngine

PROTOCOL = "scep"
_UNPROVED = frozenset({Refusal.MALFORMED, Refusal.BAD_KEY, Refusal.BAD_PROOF})
"""What a request is refused for whose signature is wrong or cannot be checked."""


async def request_in(
    engine: ScepEngine, exchange: Exchange, parsed: ParsedRequest, challenge: Secret | None
) -> EnrollmentRequest:
    """The request with its evidence, and what it renews.

    Raises:
        Rejected: the message is signed with a certificate that has nothing to do with it.
        Unavailable: the database is away.
    """
    message, template = exchange.message, exchange.template
    certificate = message.certificate
    assert certificate is not None  # check() saw to it
    own_key = exchange.signer_spki == parsed.spki
    asks_renewal = message.kind is MessageType.RENEWAL_REQ
    counts = asks_renewal or challenge is None or not own_key
    known = None
    if counts or not _is_self_issued(certificate):
        known = await engine.known(certificate.public_bytes(serialization.Encoding.DER))
    foreign = not asks_renewal and known is None and may_be_trusted(template, certificate)
    if known is None and not asks_renewal and not own_key and not foreign:
        text = "sign the message with the key that is to be certified, or with a certificate from here"
        raise Rejected.because(Refusal.BAD_PROOF, text)
    renews = asks_renewal or (challenge is None and known is not None)
    if renews and known is not None and _entitles(template, known):
        renews = False
    if renews:
        return _renewal(engine, exchange, parsed, known)
    if challenge is not None and known is not None:
        renewal = _renewal(engine, exchange, parsed, known)
        if await _is_renewal(engine, template, renewal, known=known, challenge=challenge):
            return renewal
    shows = foreign or (known is not None and (counts or _wants_certificates(template)))
    return _made(engine, exchange, parsed, shows_certificate=shows)


async def _is_renewal(
    engine: ScepEngine, template: Template, request: EnrollmentRequest, *, known: Certificate, challenge: Secret
) -> bool:
    """Whether a PKCSReq renews the certificate that it is signed with, in spite of its challengePassword.

    Clients exist (certmonger) that keep the challenge of their first request and send it with every one. It counts
    for nothing where it was a code that has been used, or where the transaction ID, which such clients make of
    their key, stands for this certificate: there it could bring nothing but a refusal.
    """
    if reasons_against(request, template, known, engine.clock.now()):
        return False
    assert request.transaction_id is not None
    key = TransactionKey(template.name, request.transaction_id, kind_of(request))
    if (await engine.transactions.find(key)).transaction is not None:
        return True  # the same again, whose answer was lost
    newest = (await engine.transactions.newest(template.name, request.transaction_id)).transaction
    return (newest is not None and newest.certificate_id == known.id) or await engine.is_spent(challenge)


def _renewal(
    engine: ScepEngine, exchange: Exchange, parsed: ParsedRequest, known: Certificate | None
) -> EnrollmentRequest:
    certificate = exchange.message.certificate
    assert certificate is not None  # check() saw to it
    request = _made(engine, exchange, parsed, shows_certificate=True)
    request = attrs.evolve(request, renewal_of=certificate.public_bytes(serialization.Encoding.DER))
    if known is None or request.wishes.sans:
        return request
    # A renewal that names no names asks for no change.
    return attrs.evolve(request, wishes=attrs.evolve(request.wishes, sans=names_of(certificate)))


def _made(
    engine: ScepEngine, exchange: Exchange, parsed: ParsedRequest, *, shows_certificate: bool
) -> EnrollmentRequest:
    return EnrollmentRequest(
        template=exchange.template.name,
        public_key=parsed.public_key,
        spki=parsed.spki,
        proof=parsed.proof,
        wishes=parsed.wishes,
        evidence=_evidence(exchange, parsed, shows_certificate=shows_certificate),
        protocol=PROTOCOL,
        source=exchange.origin.address,
        request_id=exchange.origin.request_id,
        transaction_id=exchange.message.transaction_id,
        received=engine.clock.now(),
    )


def kind_of(request: EnrollmentRequest) -> str:
    """Of the transactions of one ID: the first certificate, or the renewal of one."""
    return "" if request.renewal_of is None else f"renewal:{hashlib.sha256(request.renewal_of).hexdigest()}"


def opened_request(content: bytes, template: Template) -> ParsedRequest:
    """The PKCS#10 request in an envelope; before its signature is known to be right, nothing is said about it."""
    try:
        return parse_request(content, old_digests=True, latin1=template.scep.latin1)
    except Rejected as error:
        if _UNPROVED.isdisjoint(reason.code for reason in error.reasons):
            raise
        raise errors.unreadable(str(error)) from error


def _wants_certificates(template: Template) -> bool:
    return any(EvidenceKind.CLIENT_CERTIFICATE in rule.all for rule in template.evidence_for(PROTOCOL))


def _entitles(template: Template, known: Certificate) -> bool:
    """Whether a certificate of another template is evidence here, rather than something to be renewed."""
    return known.template != template.name and _wants_certificates(template)


def _is_self_issued(certificate: x509.Certificate) -> bool:
    """As most first messages are signed: nobody here made such a certificate, nor one whose names cannot be read."""
    try:
        return certificate.issuer == certificate.subject
    except UNREADABLE:
        return True


def may_be_trusted(template: Template, certificate: x509.Certificate) -> bool:
    """Whether a certificate of another authority, a device's factory certificate, could count as evidence here."""
    asks = any(
        EvidenceKind.CLIENT_CERTIFICATE in rule.all and any(name != INTERNAL for name in rule.accepted_from)
        for rule in template.evidence_for(PROTOCOL)
    )
    return asks and not _is_self_issued(certificate)


def certificate_shown(exchange: Exchange) -> ClientCertificateEvidence:
    """The certificate whose key signed the message, with the others that came along."""
    message = exchange.message
    assert message.certificate is not None  # check() saw to it
    der = message.certificate.public_bytes(serialization.Encoding.DER)
    return ClientCertificateEvidence(der, tuple(one for one in message.signed.certificates if one != der))


def _evidence(exchange: Exchange, parsed: ParsedRequest, *, shows_certificate: bool) -> tuple[Evidence, ...]:
    """Everything that the message shows; nothing but itself, where it shows nothing else."""
    found: list[Evidence] = []
    if challenge := parsed.challenge_password:
        is_code = canonical(challenge) is not None
        found.append(CodeEvidence(challenge) if is_code else ChallengeEvidence(challenge, parsed.der))
    if shows_certificate:
        found.append(certificate_shown(exchange))
    return tuple(found) or (SelfSignedEvidence(hashlib.sha256(exchange.signer_spki).digest()),)
