"""What the API says and takes about the server itself: administrators, templates, authorities, operations, audit."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import attrs

from pkiserver.registration.administrators import Role
from pkiserver.registration.operations import OperationKind
from pkiserver.store.registration.operations import OperationState
from protocols.management.codec import text
from protocols.management.views import VoteView


@attrs.frozen
class AdministratorView:
    """An administrator. Empty `authorities` and `templates` mean all of them."""

    name: str
    roles: tuple[Role, ...]
    authorities: tuple[str, ...]
    templates: tuple[str, ...]
    groups: tuple[str, ...]
    account: str | None
    disabled: bool


@attrs.frozen
class AdministratorList:
    """A page of administrators."""

    items: tuple[AdministratorView, ...]
    next_after: str | None


@attrs.frozen
class TemplateView:
    """A certificate template."""

    name: str
    issuer: str
    description: str
    enabled: bool
    protocols: tuple[str, ...]
    revision: int


@attrs.frozen
class TemplateList:
    """All templates in the caller's scope."""

    items: tuple[TemplateView, ...]


@attrs.frozen
class AuthorityView:
    """A certification authority and its current certificate (PEM)."""

    name: str
    subject: str
    key_number: int
    not_after: datetime
    fingerprint: str
    pem: str


@attrs.frozen
class AuthorityList:
    """All authorities in the caller's scope."""

    items: tuple[AuthorityView, ...]


@attrs.frozen
class NewOperation:
    """An operation that others must agree to.

    `particulars`, by kind: revoke-authority: `fingerprint` of the authority's certificate and `reason`;
    release-authority: `fingerprint` of one that is on hold; change-template: `toml`, the whole document;
    change-administrator, export-secret and recover-key: `detail`, what exactly, in words.
    """

    kind: OperationKind
    object: str = text(most=256, least=1)
    particulars: Mapping[str, str] = text(most=200_000)
    reason: str = text(most=1000, least=1)


@attrs.frozen
class OperationView:
    """An operation; `outcome` tells what came of it."""

    number: int
    kind: OperationKind
    object: str
    state: OperationState
    reason: str
    requested_by: str
    needed: int
    approvers: tuple[str, ...]
    created: datetime
    expires: datetime
    settled: datetime | None
    outcome: str


@attrs.frozen
class OperationDetail:
    """An operation with all its particulars and the votes so far; `difference` is what a template's change changes."""

    operation: OperationView
    particulars: Mapping[str, str]
    votes: tuple[VoteView, ...]
    difference: str | None


@attrs.frozen
class OperationList:
    """A page of operations, newest first."""

    items: tuple[OperationView, ...]
    next_before: int | None


@attrs.frozen
class AuditView:
    """An event of the audit log."""

    chain: int
    sequence: int
    at: datetime
    kind: str
    actor: str
    object: str
    outcome: str
    details: Mapping[str, str]


@attrs.frozen
class AuditList:
    """The newest events of the audit log."""

    items: tuple[AuditView, ...]
