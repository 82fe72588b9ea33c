"""Enrolment requests that wait for somebody's decision."""

from __future__ import annotations

import enum
import json
from datetime import datetime
from typing import Any

import attrs
from sqlalchemy import Connection, Row, and_, bindparam, delete, func, select, text, true, update

from pkiserver.store.names import printable
from pkiserver.store.newest import newest_of
from pkiserver.store.registration import votes
from pkiserver.store.schema.registration import enrollment_request
from pkiserver.store.times import from_micros, optional_time, to_micros


class RequestState(enum.StrEnum):
    """pending -> approved | denied | expired; approved -> issued | expired."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    ISSUED = "issued"
    EXPIRED = "expired"


@attrs.frozen
class NewRequest:
    """A request to keep. ``payload`` is the registration room's own encoding of it, without a secret.

    ``fingerprint`` is the same whenever the same client asks for the same thing, so that a poll finds its request.
    ``needed`` approvals are wanted, from members of one of the groups ``approvers``; empty means anybody who may
    decide. ``checks`` are what was found when it came, a line each. ``nameless_site`` is whence it came, where it shows
    nobody.
    """

    template: str
    csr: bytes | None
    spki: bytes
    payload: bytes
    evidence: str
    fingerprint: bytes
    created: datetime
    expires: datetime
    needed: int = 1
    approvers: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    nameless_site: str | None = None


@attrs.frozen
class PendingRequest:
    """A kept request. ``evidence`` says for people who asked; ``reasons`` why it waits or was denied."""

    id: int
    template: str
    csr: bytes | None
    spki: bytes
    payload: bytes
    state: RequestState
    evidence: str
    reasons: tuple[str, ...]
    certificate_id: int | None
    created: datetime
    expires: datetime
    decided_by: str | None
    decided_at: datetime | None
    fingerprint: bytes
    needed: int = 1
    approvers: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()


_c = enrollment_request.c
_INSERT = text(
    "INSERT INTO enrollment_request"
    " (template, csr, spki, payload, state, evidence, reasons, created, expires, fingerprint,"
    " needed, approvers, checks, nameless_site)"
    " VALUES (:template, :csr, :spki, :payload, 'pending', :evidence, :reasons, :created, :expires, :fingerprint,"
    " :needed, :approvers, :checks, :nameless_site)"
    " ON CONFLICT (fingerprint) WHERE state = 'pending' DO NOTHING"
)
# written out, not bound: a partial index serves only where the engine can see that its predicate holds
_OPEN = text("enrollment_request.state NOT IN ('denied', 'expired', 'issued')")
_ENDED = text("enrollment_request.state NOT IN ('pending', 'approved')")
_NAMELESS = text("enrollment_request.state = 'pending' AND enrollment_request.nameless_site IS NOT NULL")
_NEWEST = select(enrollment_request).where(_c.fingerprint == bindparam("digest")).order_by(_c.id.desc()).limit(1)
_SETTLE = (
    update(enrollment_request)
    .where(_c.id == bindparam("number"), _c.state == "pending", _c.expires > bindparam("now"))
    .values(
        state=bindparam("verdict"),
        reasons=bindparam("why"),
        decided_by=bindparam("who"),
        decided_at=bindparam("now"),
    )
)


def open_request(connection: Connection, new: NewRequest, *, reasons: tuple[str, ...] = ()) -> PendingRequest:
    """Keep a request, or find the one of the same fingerprint that is pending already."""
    connection.execute(
        _INSERT,
        {
            "template": new.template,
            "csr": new.csr,
            "spki": new.spki,
            "payload": new.payload,
            "evidence": printable(new.evidence),
            "reasons": json.dumps(reasons),
            "created": to_micros(new.created),
            "expires": to_micros(new.expires),
            "fingerprint": new.fingerprint,
            "needed": new.needed,
            "approvers": json.dumps(new.approvers),
            "checks": json.dumps([printable(line) for line in new.checks]),
            "nameless_site": new.nameless_site,
        },
    )
    found = by_fingerprint(connection, new.fingerprint)
    assert found is not None
    return found


def get(connection: Connection, request_id: int) -> PendingRequest | None:
    """The request of that number."""
    row = connection.execute(select(enrollment_request).where(_c.id == request_id)).one_or_none()
    return None if row is None else _request(row)


def lock(connection: Connection, request_id: int) -> PendingRequest | None:
    """The request of that number, whose row nobody else changes until this write ends."""
    row = connection.execute(select(enrollment_request).where(_c.id == request_id).with_for_update()).one_or_none()
    return None if row is None else _request(row)


def by_fingerprint(connection: Connection, fingerprint: bytes) -> PendingRequest | None:
    """The newest request of that fingerprint, in whatever state."""
    row = connection.execute(_NEWEST, {"digest": fingerprint}).one_or_none()
    return None if row is None else _request(row)


def count_nameless(connection: Connection, template: str, site: str | None = None, *, now: datetime) -> int:
    """How many requests of a template wait in their time that show nobody; those from one site, where it is given.

    From an index alone: what others have waiting is not read for each request that is let in or turned away.
    """
    query = select(func.count()).select_from(enrollment_request).where(_NAMELESS, _c.template == template)
    if site is not None:
        query = query.where(_c.nameless_site == site)
    return int(connection.execute(query.where(_c.expires > to_micros(now))).scalar_one())


def decide(
    connection: Connection,
    request_id: int,
    *,
    approved: bool,
    by: str,
    at: datetime,
    reasons: tuple[str, ...] = (),
) -> bool:
    """Approve or deny: pending -> approved | denied. False where it is not pending any more, or has expired."""
    verdict = RequestState.APPROVED if approved else RequestState.DENIED
    values = {
        "number": request_id,
        "verdict": verdict.value,
        "why": json.dumps(reasons),
        "who": printable(by),
        "now": to_micros(at),
    }
    return connection.execute(_SETTLE, values).rowcount == 1


def reopen(connection: Connection, request_id: int, *, reasons: tuple[str, ...]) -> bool:
    """Let a request wait for votes again whose approval does not hold: approved -> pending; whether it was so."""
    change = update(enrollment_request).where(_c.id == request_id, _c.state == "approved")
    values = {"state": "pending", "reasons": json.dumps(reasons), "decided_by": None, "decided_at": None}
    return connection.execute(change.values(**values)).rowcount == 1


def ask_again(connection: Connection, request_id: int, new: NewRequest, *, reasons: tuple[str, ...]) -> bool:
    """Put a request anew under its number, for votes on what it is now: pending | approved -> pending.

    What was asked, when, and until when it waits stays; earlier votes are gone. Returns whether it was open.
    """
    change = update(enrollment_request).where(_c.id == request_id, _c.state.in_(("pending", "approved")))
    values = {
        "state": "pending",
        "payload": new.payload,
        "evidence": printable(new.evidence),
        "reasons": json.dumps(reasons),
        "needed": new.needed,
        "approvers": json.dumps(new.approvers),
        "checks": json.dumps([printable(line) for line in new.checks]),
        "nameless_site": new.nameless_site,
        "decided_by": None,
        "decided_at": None,
    }
    votes.forget(connection, "request", (request_id,))
    return connection.execute(change.values(**values)).rowcount == 1


def mark_issued(connection: Connection, request_id: int, certificate_id: int) -> bool:
    """Spend an approval on a certificate: approved -> issued. True for exactly one caller ever."""
    change = update(enrollment_request).where(_c.id == request_id, _c.state == "approved")
    return connection.execute(change.values(state="issued", certificate_id=certificate_id)).rowcount == 1


def give_back(connection: Connection, request_id: int, certificate_id: int) -> bool:
    """Put an approval back in force whose certificate never came to be: issued -> approved; whether it was so."""
    change = update(enrollment_request).where(
        _c.id == request_id, _c.state == "issued", _c.certificate_id == certificate_id
    )
    return connection.execute(change.values(state="approved", certificate_id=None)).rowcount == 1


def expire(
    connection: Connection, *, now: datetime, most: int = 1000, number: int | None = None
) -> tuple[tuple[int, bytes], ...]:
    """Let pending and approved requests past their time expire; their numbers and payloads.

    Up to ``most``, those that are past it for longest; or the one of that ``number``, if it is such a one.
    """
    past = (_OPEN, _c.expires <= to_micros(now))
    some = select(_c.id).where(*past).order_by(_c.expires).limit(most)
    change = update(enrollment_request).where(_c.id.in_(some) if number is None else _c.id == number, *past)
    ended = connection.execute(change.values(state="expired").returning(_c.id, _c.payload))
    return tuple((row.id, row.payload) for row in ended)


def replace_payload(connection: Connection, request_id: int, payload: bytes) -> None:
    """Keep something else of a request."""
    connection.execute(update(enrollment_request).where(_c.id == request_id).values(payload=payload))


def forget_ended(connection: Connection, *, ended_before: datetime, most: int = 1000) -> int:
    """Remove up to ``most`` requests that ended and whose time was over before then, with their votes.

    The newest row stays whatever it is, so that no number is ever given out again. Returns how many were removed.
    """
    newest = select(func.max(_c.id)).scalar_subquery()
    ended = select(_c.id).where(_ENDED, _c.expires < to_micros(ended_before), _c.id < newest)
    numbers = tuple(connection.execute(ended.order_by(_c.expires).limit(most)).scalars())
    votes.forget(connection, "request", numbers)
    connection.execute(delete(enrollment_request).where(_c.id.in_(numbers)))
    return len(numbers)


def list_page(
    connection: Connection,
    *,
    state: RequestState | None = RequestState.PENDING,
    before: int | None = None,
    limit: int = 100,
    templates: frozenset[str] | None = None,
) -> tuple[PendingRequest, ...]:
    """Up to ``limit`` requests in a state (None for any), newest first; those with numbers below ``before``.

    Those of ``templates`` only, where it is given.
    """
    since = true() if before is None else _c.id < before
    if templates is not None:
        states = [one.value for one in (RequestState if state is None else (state,))]
        parts = (and_(_c.template == name, _c.state == one, since) for name in templates for one in states)
        return tuple(_request(row) for row in newest_of(connection, _c.id, parts, limit))
    query = select(enrollment_request).where(since).order_by(_c.id.desc()).limit(limit)
    if state is not None:
        query = query.where(_c.state == state.value)
    return tuple(_request(row) for row in connection.execute(query))


def _request(row: Row[Any]) -> PendingRequest:
    return PendingRequest(
        id=row.id,
        template=row.template,
        csr=row.csr,
        spki=row.spki,
        payload=row.payload,
        state=RequestState(row.state),
        evidence=row.evidence,
        reasons=tuple(json.loads(row.reasons)),
        certificate_id=row.certificate_id,
        created=from_micros(row.created),
        expires=from_micros(row.expires),
        decided_by=row.decided_by,
        decided_at=optional_time(row.decided_at),
        fingerprint=row.fingerprint,
        needed=row.needed or 1,
        approvers=tuple(json.loads(row.approvers or "[]")),
        checks=tuple(json.loads(row.checks or "[]")),
    )
