"""The transaction table: what a message means, by what is known of its transaction. Pure: values in, a step out.

A transaction begins with PKCSReq or RenewalReq and brings one certificate. The same request again brings the same
certificate; the same transaction ID with another key, or with other wishes, is refused (replay, and clients' mistakes).
"""

from __future__ import annotations

import enum
from datetime import datetime

import attrs

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.registration.transactions import Standing
from pkiserver.store.certificates import CertificateState
from pkiserver.store.registration.requests import RequestState
from pkiserver.store.registration.scep import NOTHING, Predecessor


class State(enum.StrEnum):
    """Where a transaction stands."""

    FREE = "free"
    """Nobody knows it."""
    WAITING = "waiting"
    """An officer is asked, or has agreed and nobody has fetched the certificate."""
    DENIED = "denied"
    MAKING = "making"
    """A certificate is being made this moment."""
    ISSUED = "issued"
    """It brought a certificate that is not revoked and not expired."""
    REVOKED = "revoked"
    OVER = "over"
    """Its certificate has expired or never came to be, or nobody decided in time: the ID may be used anew."""


class Step(enum.StrEnum):
    """What to do."""

    ENROLL = "enroll"
    """Ask the gate."""
    REPEAT = "repeat"
    """Give the transaction's certificate out again."""
    WAIT = "wait"
    """Look again in a moment; then answer PENDING."""
    RESUME = "resume"
    """Ask the gate again about what is kept."""


@attrs.frozen
class Arrival:
    """How a request compares with the transaction of its ID."""

    state: State
    same_key: bool = True
    same_wishes: bool = True


_OTHER_KEY = "this transaction ID stands for a request with another key: use a new one"
_ALTERED = "this transaction ID stands for another request: use a new one"
_REVOKED = "the certificate of this transaction has been revoked: use a new transaction ID and a new key"
_UNKNOWN = "there is no request with this transaction ID"

_ON_REQUEST = {
    State.FREE: Step.ENROLL,
    State.OVER: Step.ENROLL,
    State.WAITING: Step.ENROLL,
    State.DENIED: Step.ENROLL,
    State.MAKING: Step.WAIT,
    State.ISSUED: Step.REPEAT,
}
_ON_POLL = {
    State.WAITING: Step.RESUME,
    State.DENIED: Step.RESUME,
    State.MAKING: Step.WAIT,
    State.ISSUED: Step.REPEAT,
}


def on_request(arrival: Arrival) -> Step:
    """A PKCSReq or RenewalReq came. Raises :class:`Rejected` where its transaction ID stands for something else."""
    if arrival.state in {State.FREE, State.OVER}:
        return Step.ENROLL
    if not arrival.same_key:
        raise Rejected.because(Refusal.CONFLICT, _OTHER_KEY)
    if not arrival.same_wishes and arrival.state is not State.DENIED:
        raise Rejected.because(Refusal.CONFLICT, _ALTERED)
    if arrival.state is State.REVOKED:
        raise Rejected.because(Refusal.REVOKED, _REVOKED)
    return _ON_REQUEST[arrival.state]


def on_poll(state: State, *, same_signer: bool) -> Step:
    """A CertPoll came (RFC 8894 section 4.4). Raises :class:`Rejected` where nothing is known that it may ask for."""
    if state is State.FREE or not same_signer:
        raise Rejected.because(Refusal.UNKNOWN_REQUEST, _UNKNOWN)
    if state is State.REVOKED:
        raise Rejected.because(Refusal.REVOKED, _REVOKED)
    if state is State.OVER:
        raise Rejected.because(Refusal.UNKNOWN_REQUEST, "this transaction is over: send a new request")
    return _ON_POLL[state]


def state_of(standing: Standing, now: datetime) -> State:
    """Where a transaction stands, by what the store knows."""
    row = standing.transaction
    if row is None:
        return State.FREE
    if row.certificate_id is None:
        return _ASKED.get(standing.request_state, State.OVER)
    certificate = standing.certificate
    if certificate is None:
        return State.MAKING
    if certificate.der is None or certificate.not_after < now:
        return State.OVER
    return State.REVOKED if certificate.state is CertificateState.REVOKED else State.ISSUED


def predecessor(standing: Standing, now: datetime) -> Predecessor:
    """What a request may take the place of under its transaction ID."""
    row = standing.transaction
    if row is None or state_of(standing, now) is not State.OVER:
        return NOTHING
    if row.certificate_id is not None:
        return Predecessor(certificate_id=row.certificate_id)
    return Predecessor(request_number=row.request_number)


_ASKED: dict[RequestState | None, State] = {
    RequestState.PENDING: State.WAITING,
    RequestState.APPROVED: State.WAITING,
    RequestState.ISSUED: State.WAITING,
    RequestState.DENIED: State.DENIED,
}
