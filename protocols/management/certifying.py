"""Calls about certificates: search, show, revoke, hold, release."""

from __future__ import annotations

import string
from datetime import datetime
from functools import partial

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.authority.revocation import ByFingerprint, Order
from pkiserver.authority.status.values import parse_reason, reason_name
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.registration.administrators import Permission
from pkiserver.store import certificates
from pkiserver.store.certificates import Certificate, CertificateState, Criteria
from pkiserver.store.names import San, SanKind
from protocols.management import views
from protocols.management.calls import Ask, Call, Nothing
from protocols.management.codec import text, whole

_DIGEST_DIGITS = 64


@attrs.frozen
class CertificateQuery:
    """Which certificates."""

    serial: str | None = text(None, most=40)
    fingerprint: str | None = text(None, most=64)
    subject: str | None = text(None, most=1024)
    subject_prefix: str | None = text(None, most=190)
    name: str | None = text(None, most=1024)
    name_prefix: str | None = text(None, most=200)
    template: str | None = text(None, most=63)
    requester: str | None = text(None, most=256)
    state: CertificateState | None = None
    expires_from: datetime | None = None
    expires_before: datetime | None = None
    cursor: str | None = text(None, most=1536)
    limit: int = whole(50, least=1, most=1000)


async def search(ask: Ask[CertificateQuery, Nothing]) -> views.CertificateList:
    """A page of certificates in the caller's scope that meet all that is given.

    `name` and `name_prefix` are KIND:VALUE, such as dns:a.b; `serial` and `fingerprint` are hexadecimal. Certificates
    under way (`prepared`, `asked`) are not searched. A page can be short, or empty, while `cursor` is not null: so many
    certificates were looked at of which few meet all that is given. The search has ended where `cursor` is null.
    """
    query = ask.query
    # The scope is part of the search: pages, cursors and their lengths tell nothing of what is outside.
    criteria = attrs.evolve(_criteria(query), templates=ask.who.templates or None, generation_ids=ask.generations)

    look = partial(certificates.search, criteria=criteria, limit=query.limit, cursor=query.cursor)
    if criteria.templates is None and criteria.generation_ids is None:
        page = await ask.engine.database.read(look)
    else:  # where a short page ends may be with a certificate outside
        page = await certificates.search_on(ask.engine.database.read, criteria, limit=query.limit, cursor=query.cursor)
    shown = tuple(view for view in (_view(ask, one) for one in page.certificates) if view is not None)
    return views.CertificateList(shown, page.cursor)


def _criteria(query: CertificateQuery) -> Criteria:
    try:
        return Criteria(
            serial=None if query.serial is None else int(_hexadecimal("serial", query.serial), 16),
            fingerprint=None if query.fingerprint is None else _digest(query.fingerprint),
            subject=query.subject,
            subject_prefix=query.subject_prefix,
            san=_san(query.name),
            san_prefix=_san(query.name_prefix),
            template=query.template,
            requester=query.requester,
            state=query.state,
            expires_from=query.expires_from,
            expires_before=query.expires_before,
        )
    except ValueError as error:
        raise Rejected.because(Refusal.MALFORMED, f"the query: {error}") from error


def _hexadecimal(name: str, digits: str) -> str:
    """Digits and nothing else: :func:`int` would take 0x, signs, blanks and underscores as well."""
    if not digits or not set(digits) <= set(string.hexdigits):
        raise ValueError(f"{name} is not hexadecimal")
    return digits


def _digest(digits: str) -> bytes:
    if len(digits) != _DIGEST_DIGITS:
        raise ValueError(f"fingerprint has not the {_DIGEST_DIGITS} digits of SHA-256")
    return bytes.fromhex(_hexadecimal("fingerprint", digits))


def _san(name: str | None) -> San | None:
    if name is None:
        return None
    kind, _, value = name.partition(":")
    return San(SanKind.named(kind), value)


async def show(ask: Ask[Nothing, Nothing]) -> views.CertificateDetail:
    """One certificate."""
    found = await _found(ask)
    view = _view(ask, found)
    if view is None or found.der is None:
        raise _unknown(ask)
    return views.CertificateDetail(view, x509.load_der_x509_certificate(found.der).public_bytes(Encoding.PEM).decode())


async def revoke(ask: Ask[Nothing, views.NewRevocation]) -> views.CertificateView:
    """Revoke for good, or with certificateHold put on hold. An authority's certificate takes an operation."""
    await _in_scope(ask)
    body = ask.body
    try:
        reason = parse_reason(body.reason)
    except ValueError as error:
        raise Rejected.because(Refusal.MALFORMED, str(error)) from error
    order = _order(ask, body.comment)
    change = await ask.engine.status.revocations.revoke(
        _selector(ask), reason, order, invalidity_date=body.invalidity_date
    )
    return _required(ask, change.after)


async def hold(ask: Ask[Nothing, views.Remark]) -> views.CertificateView:
    """Put on hold. An authority's certificate takes an operation."""
    await _in_scope(ask)
    change = await ask.engine.status.revocations.hold(_selector(ask), _order(ask, ask.body.comment))
    return _required(ask, change.after)


async def release(ask: Ask[Nothing, views.Remark]) -> views.CertificateView:
    """End a hold. An authority's certificate takes an operation."""
    await _in_scope(ask)
    change = await ask.engine.status.revocations.release(_selector(ask), _order(ask, ask.body.comment))
    return _required(ask, change.after)


def _selector(ask: Ask[Nothing, object]) -> ByFingerprint:
    return ByFingerprint(bytes.fromhex(ask.path["fingerprint"]))


def _order(ask: Ask[Nothing, object], comment: str) -> Order:
    return Order(actor=ask.who.actor, request_id=ask.request_id, comment=comment)


async def _found(ask: Ask[Nothing, object]) -> Certificate:
    return await ask.engine.status.revocations.find(_selector(ask))


async def _in_scope(ask: Ask[Nothing, object]) -> None:
    """Of what is outside the scope nothing is told, not even that it is there."""
    if _view(ask, await _found(ask)) is None:
        raise _unknown(ask)


def _unknown(ask: Ask[Nothing, object]) -> Rejected:
    text = f"no certificate with fingerprint {ask.path['fingerprint']} was issued here"
    return Rejected.because(Refusal.UNKNOWN_CERTIFICATE, text)


def _required(ask: Ask[Nothing, object], one: Certificate) -> views.CertificateView:
    view = _view(ask, one)
    assert view is not None  # it was in the scope a moment ago
    return view


def _view(ask: Ask[object, object], one: Certificate) -> views.CertificateView | None:
    """A certificate as it is shown; None where it is outside the scope, or was never given out."""
    generation = ask.engine.authorities.generation(one.generation_id)
    authority = "" if generation is None else generation.authority
    if one.fingerprint is None or not ask.who.covers(template=one.template, authority=authority):
        return None
    revocation = one.revocation
    return views.CertificateView(
        serial=f"{one.serial:x}",
        fingerprint=one.fingerprint.hex(),
        authority=authority,
        subject=one.subject,
        names=tuple(f"{san.kind}:{san.value}" for san in one.sans),
        state=one.state,
        template=one.template,
        requester=one.requester,
        protocol=one.protocol,
        not_before=one.not_before,
        not_after=one.not_after,
        key=one.spki_sha256.hex(),
        revoked_at=None if revocation is None else revocation.at,
        reason=None if revocation is None else reason_name(revocation.reason),
        invalidity_date=None if revocation is None else revocation.invalidity_date,
    )


P = Permission
_ONE = "/certificates/{fingerprint}"
CALLS = (
    Call("searchCertificates", "GET", "/certificates", P.READ_CERTIFICATES, "Search certificates", search,
         answer=views.CertificateList, query=CertificateQuery),
    Call("showCertificate", "GET", _ONE, P.READ_CERTIFICATES, "Show a certificate", show,
         answer=views.CertificateDetail),
    Call("revokeCertificate", "POST", f"{_ONE}/revoke", P.CHANGE_CERTIFICATES, "Revoke a certificate", revoke,
         answer=views.CertificateView, body=views.NewRevocation),
    Call("holdCertificate", "POST", f"{_ONE}/hold", P.CHANGE_CERTIFICATES, "Put a certificate on hold", hold,
         answer=views.CertificateView, body=views.Remark),
    Call("releaseCertificate", "POST", f"{_ONE}/release", P.CHANGE_CERTIFICATES, "End a certificate's hold", release,
         answer=views.CertificateView, body=views.Remark),
)  # fmt: skip
