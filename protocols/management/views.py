"""What the API says and takes about those who are served: plain values, from which the OpenAPI document is made."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import attrs

from pkiserver.store.certificates import CertificateState
from pkiserver.store.registration.requests import RequestState
from pkiserver.store.registration.seats import SlotMode
from protocols.management.codec import text, whole

LONG = 1024


@attrs.frozen
class NewChallenge:
    """A one-time challenge to be made. Without `subject` and `names` the template decides what a request may ask.

    `subject` is a distinguished name (RFC 4514), each of the `names` KIND:VALUE, such as dns:a.b.
    """

    template: str = text(most=63, least=1)
    subject: str | None = text(None, most=LONG)
    names: tuple[str, ...] = text((), most=LONG)
    lifetime_seconds: int = whole(3600, least=60, most=366 * 86400)


@attrs.frozen
class MadeChallenge:
    """A new challenge. `code` is told this once."""

    number: int
    code: str
    template: str
    expires: datetime


@attrs.frozen
class ChallengeView:
    """A challenge that was made; its code is not kept."""

    number: int
    template: str
    subject: str | None
    names: tuple[str, ...]
    created: datetime
    created_by: str
    expires: datetime
    spent_at: datetime | None


@attrs.frozen
class ChallengeList:
    """A page of challenges, newest first."""

    items: tuple[ChallengeView, ...]
    next_before: int | None


@attrs.frozen
class VoteView:
    """How somebody voted."""

    voter: str
    approved: bool
    reason: str
    at: datetime


@attrs.frozen
class RequestView:
    """An enrolment request that was kept for officers."""

    number: int
    state: RequestState
    template: str
    requester: str
    subject: str
    protocol: str
    source: str
    reasons: tuple[str, ...]
    checks: tuple[str, ...]
    needed: int
    approvers: tuple[str, ...]
    created: datetime
    expires: datetime
    decided_by: str | None
    decided_at: datetime | None


@attrs.frozen
class RequestDetail:
    """A request with its CSR (PEM) and the votes so far."""

    request: RequestView
    csr: str | None
    votes: tuple[VoteView, ...]


@attrs.frozen
class RequestList:
    """A page of requests, newest first."""

    items: tuple[RequestView, ...]
    next_before: int | None


@attrs.frozen
class Decision:
    """Why somebody decides so; a denial's reason is told to the client."""

    reason: str = text("", most=1000)


@attrs.frozen
class CertificateView:
    """A certificate. `serial`, `fingerprint` (SHA-256) and `key` (SHA-256 of the SPKI) are hexadecimal."""

    serial: str
    fingerprint: str
    authority: str
    subject: str
    names: tuple[str, ...]
    state: CertificateState
    template: str
    requester: str
    protocol: str
    not_before: datetime
    not_after: datetime
    key: str
    revoked_at: datetime | None
    reason: str | None
    invalidity_date: datetime | None


@attrs.frozen
class CertificateDetail:
    """A certificate and its PEM."""

    certificate: CertificateView
    pem: str


@attrs.frozen
class CertificateList:
    """A page of certificates; `cursor` leads on, also from a page that is short or empty; null after the last."""

    items: tuple[CertificateView, ...]
    cursor: str | None


@attrs.frozen
class NewRevocation:
    """A revocation. `reason` is a name of RFC 5280 section 5.3.1, such as keyCompromise."""

    reason: str = text("unspecified", most=32)
    invalidity_date: datetime | None = None
    comment: str = text("", most=LONG)


@attrs.frozen
class Remark:
    """One line for the audit log."""

    comment: str = text("", most=LONG)


@attrs.frozen
class SlotView:
    """A device slot of a seat. `signature` is what its device shows, None while none was learned."""

    number: int
    mode: SlotMode
    device: str
    signature: str | None
    learned: datetime | None
    last_used: datetime | None
    open_until: datetime | None


@attrs.frozen
class SeatView:
    """One identity under one template."""

    number: int
    template: str
    identity: str
    archived: bool
    owner: str | None
    metadata: Mapping[str, str]
    created: datetime
    first_success: datetime | None
    last_success: datetime | None


@attrs.frozen
class SeatCertificateView:
    """A certificate of a seat, and through which slot it came."""

    fingerprint: str | None
    serial: str
    state: CertificateState | None
    not_after: datetime | None
    slot: int | None
    at: datetime


@attrs.frozen
class SeatEventView:
    """Something that happened to a seat."""

    at: datetime
    actor: str
    what: str


@attrs.frozen
class SeatDetailView:
    """A seat with its slots, and the newest of its certificates and events."""

    seat: SeatView
    slots: tuple[SlotView, ...]
    certificates: tuple[SeatCertificateView, ...]
    history: tuple[SeatEventView, ...]


@attrs.frozen
class SeatList:
    """A page of seats, newest first."""

    items: tuple[SeatView, ...]
    next_before: int | None


@attrs.frozen
class NewSeat:
    """A seat before its first certificate."""

    template: str = text(most=63, least=1)
    identity: str = text(most=LONG, least=1)
    owner: str | None = text(None, most=256)


@attrs.frozen
class SeatChange:
    """What changes; what is not given stays. An empty `owner` is nobody."""

    owner: str | None = text(None, most=256)
    metadata: Mapping[str, str] | None = text(None, most=LONG)
    archived: bool | None = None


@attrs.frozen
class SlotChange:
    """A slot as it shall be. `forget` drops the device that it knows."""

    mode: SlotMode
    device: str | None = text(None, most=128)
    forget: bool = False


OneOrMore = str | tuple[str, ...]
"""An attribute's value, or all of them where there are several."""


@attrs.frozen
class AccountView:
    """An account that may enrol with a password; `password` says whether it has one."""

    name: str
    groups: tuple[str, ...]
    attributes: Mapping[str, OneOrMore]
    password: bool
    disabled: bool
    created: datetime


@attrs.frozen
class AccountList:
    """A page of accounts, by name."""

    items: tuple[AccountView, ...]
    next_after: str | None


@attrs.frozen
class NewAccount:
    """An account to be made; without a password it enrols by codes and certificates only.

    A `password` has at least 12 characters and at most 1024 octets, a name no colon.
    """

    name: str = text(most=256, least=1)
    password: str | None = attrs.field(default=None, repr=False)
    groups: tuple[str, ...] = text((), most=256)
    attributes: Mapping[str, OneOrMore] = attrs.field(factory=dict)


@attrs.frozen
class AccountChange:
    """What changes; what is not given stays. A `password` has at least 12 characters and at most 1024 octets."""

    password: str | None = attrs.field(default=None, repr=False)
    groups: tuple[str, ...] | None = text(None, most=256)
    attributes: Mapping[str, OneOrMore] | None = None
    disabled: bool | None = None
