"""Calls about the server itself: operations of dual control, templates, authorities, administrators, the audit log."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.audit.export import details_of
from pkiserver.foundation.errors import Rejected
from pkiserver.registration.administrators import Administrator, Permission
from pkiserver.registration.operations import Operation, OperationKind, unknown_operation
from pkiserver.store import audit as audit_rows
from pkiserver.store.registration.operations import OperationState
from pkiserver.store.times import from_micros
from protocols.management import serverviews, views
from protocols.management.calls import Ask, Call, Nothing, PageByName, next_before
from protocols.management.codec import whole
from protocols.management.registering import votes_of


@attrs.frozen
class OperationQuery:
    """Which operations."""

    state: OperationState | None = None
    before: int | None = whole(None)
    limit: int = whole(100, least=1, most=1000)


async def list_operations(ask: Ask[OperationQuery, Nothing]) -> serverviews.OperationList:
    """Operations, newest first; those about what is in the caller's scope."""
    query = ask.query
    page = await ask.engine.operations.list_page(
        state=query.state, before=query.before, limit=query.limit, objects=_objects(ask)
    )
    return serverviews.OperationList(
        tuple(map(_operation, page)), next_before([one.number for one in page], query.limit)
    )


async def show_operation(ask: Ask[Nothing, Nothing]) -> serverviews.OperationDetail:
    """One operation, with all its particulars and the votes."""
    return await _detail(ask, await _kept(ask))


async def ask_operation(ask: Ask[Nothing, serverviews.NewOperation]) -> serverviews.OperationDetail:
    """Ask for an operation that others must agree to."""
    new = ask.body
    _require(ask, new.kind, new.object)
    made = await ask.engine.dual_control.ask(
        new.kind, new.object, dict(new.particulars), reason=new.reason, by=ask.who.person
    )
    return await _detail(ask, made)


async def approve_operation(ask: Ask[Nothing, views.Decision]) -> serverviews.OperationDetail:
    """Agree; the last approval carries the change of an authority's status or of a template out at once."""
    return await _decide(ask, approved=True)


async def deny_operation(ask: Ask[Nothing, views.Decision]) -> serverviews.OperationDetail:
    """Refuse for good."""
    return await _decide(ask, approved=False)


async def _decide(ask: Ask[Nothing, views.Decision], *, approved: bool) -> serverviews.OperationDetail:
    await _kept(ask)
    desk = ask.engine.dual_control
    voted = await desk.decide(ask.number, approved=approved, by=ask.who.person, reason=ask.body.reason)
    return await _detail(ask, voted)


def _objects(ask: Ask[Any, Any]) -> Mapping[str, frozenset[str]] | None:
    """What the operations in the caller's scope are about, by kind; None: all operations are."""
    if not ask.who.scoped:
        return None
    authorities = frozenset() if ask.who.templates else ask.who.authorities
    return {
        OperationKind.CHANGE_TEMPLATE: ask.templates or frozenset(),
        OperationKind.REVOKE_AUTHORITY: authorities,
        OperationKind.RELEASE_AUTHORITY: authorities,
    }


async def _kept(ask: Ask[Any, Any]) -> Operation:
    """The operation of the path; one outside the scope is not there."""
    found = await ask.engine.operations.get(ask.number)
    objects = _objects(ask)
    if objects is not None and found.object not in objects.get(found.kind, frozenset()):
        raise unknown_operation(ask.number)
    return found


def _require(ask: Ask[Any, Any], kind: OperationKind, what: str) -> None:
    match kind:
        case OperationKind.CHANGE_TEMPLATE:
            ask.require(what)
        case OperationKind.REVOKE_AUTHORITY | OperationKind.RELEASE_AUTHORITY:
            ask.require_authority(what)
        case _:
            ask.require_everything()


async def _detail(ask: Ask[object, object], one: Operation) -> serverviews.OperationDetail:
    votes = votes_of(await ask.engine.operations.votes_on(one.number))
    try:
        difference = await ask.engine.dual_control.difference(one)
    except Rejected:
        difference = None  # the document does not fit the configuration of today
    return serverviews.OperationDetail(_operation(one), dict(one.particulars), votes, difference)


def _operation(one: Operation) -> serverviews.OperationView:
    row = one.row
    return serverviews.OperationView(
        number=one.number,
        kind=one.kind,
        object=one.object,
        state=row.state,
        reason=row.reason,
        requested_by=row.requested_by,
        needed=row.needed,
        approvers=row.approvers,
        created=row.created,
        expires=row.expires,
        settled=row.settled,
        outcome=row.outcome,
    )


async def list_templates(ask: Ask[Nothing, Nothing]) -> serverviews.TemplateList:
    """The templates in the caller's scope."""
    return serverviews.TemplateList(
        tuple(
            serverviews.TemplateView(
                name=one.template.name,
                issuer=one.template.issuer,
                description=one.template.description,
                enabled=one.template.enabled,
                protocols=tuple(protocol.value for protocol in one.template.protocols),
                revision=one.row.revision,
            )
            for one in ask.engine.templates.list()
            if ask.covers(one.template.name)
        )
    )


async def list_authorities(ask: Ask[Nothing, Nothing]) -> serverviews.AuthorityList:
    """The authorities in the caller's scope that have a certificate."""
    found, mine = [], ask.authorities
    for authority in ask.engine.authorities.list():
        usable = [one for one in authority.generations if one.ca is not None]
        if not usable or (mine is not None and authority.name not in mine):
            continue
        current = authority.current
        certificate = x509.load_der_x509_certificate(current.certificate.der)
        found.append(
            serverviews.AuthorityView(
                name=authority.name,
                subject=authority.subject.rfc4514_string(),
                key_number=current.number,
                not_after=current.certificate.not_after,
                fingerprint=hashlib.sha256(current.certificate.der).hexdigest(),
                pem=certificate.public_bytes(Encoding.PEM).decode(),
            )
        )
    return serverviews.AuthorityList(tuple(found))


def administrator_view(one: Administrator) -> serverviews.AdministratorView:
    """An administrator as shown."""
    return serverviews.AdministratorView(
        name=one.name,
        roles=tuple(sorted(one.roles)),
        authorities=tuple(sorted(one.authorities)),
        templates=tuple(sorted(one.templates)),
        groups=tuple(sorted(one.groups)),
        account=one.account,
        disabled=one.disabled,
    )


async def show_me(ask: Ask[Nothing, Nothing]) -> serverviews.AdministratorView:
    """Who is asking."""
    return administrator_view(ask.who)


async def list_administrators(ask: Ask[PageByName, Nothing]) -> serverviews.AdministratorList:
    """Administrators, by name. They are made and changed on the server's command line only."""
    ask.require_everything()
    page = await ask.engine.administrators.list_page(after=ask.query.after, limit=ask.query.limit)
    following = page[-1].name if len(page) == ask.query.limit else None
    return serverviews.AdministratorList(tuple(map(administrator_view, page)), following)


@attrs.frozen
class AuditQuery:
    """How many events."""

    limit: int = whole(100, least=1, most=1000)


async def list_audit(ask: Ask[AuditQuery, Nothing]) -> serverviews.AuditList:
    """The newest events of the audit log, oldest of them first."""
    ask.require_everything()
    rows = await ask.engine.database.read(
        lambda connection: audit_rows.newest_events(connection, limit=ask.query.limit)
    )
    return serverviews.AuditList(
        tuple(
            serverviews.AuditView(
                chain=row.writer_id,
                sequence=row.seq,
                at=from_micros(row.at),
                kind=row.kind,
                actor=row.actor,
                object=row.object,
                outcome=row.outcome,
                details=details_of(row),
            )
            for row in rows
        )
    )


P = Permission
CALLS = (
    Call("showMe", "GET", "/me", None, "Show the calling administrator", show_me, answer=serverviews.AdministratorView),
    Call("listAdministrators", "GET", "/administrators", P.READ_ADMINISTRATORS, "List administrators",
         list_administrators, answer=serverviews.AdministratorList, query=PageByName),
    Call("listTemplates", "GET", "/templates", P.READ_CONFIGURATION, "List templates", list_templates,
         answer=serverviews.TemplateList),
    Call("listAuthorities", "GET", "/authorities", P.READ_CONFIGURATION, "List authorities", list_authorities,
         answer=serverviews.AuthorityList),
    Call("listOperations", "GET", "/operations", P.READ_OPERATIONS, "List operations of dual control",
         list_operations, answer=serverviews.OperationList, query=OperationQuery),
    Call("askOperation", "POST", "/operations", P.ASK_OPERATIONS, "Ask for an operation of dual control",
         ask_operation, answer=serverviews.OperationDetail, body=serverviews.NewOperation, status=201),
    Call("showOperation", "GET", "/operations/{number}", P.READ_OPERATIONS, "Show an operation", show_operation,
         answer=serverviews.OperationDetail),
    Call("approveOperation", "POST", "/operations/{number}/approve", P.DECIDE_OPERATIONS, "Approve an operation",
         approve_operation, answer=serverviews.OperationDetail, body=views.Decision),
    Call("denyOperation", "POST", "/operations/{number}/deny", P.DECIDE_OPERATIONS, "Deny an operation",
         deny_operation, answer=serverviews.OperationDetail, body=views.Decision),
    Call("listAudit", "GET", "/audit", P.READ_AUDIT, "Show the newest events of the audit log", list_audit,
         answer=serverviews.AuditList, query=AuditQuery),
)  # fmt: skip
