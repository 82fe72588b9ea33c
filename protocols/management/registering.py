"""Calls about who may have what: challenges, requests that wait for officers, accounts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import attrs

from pkiserver.authority.csr import encode_text
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.registration.administrators import Permission
from pkiserver.registration.approvals import unknown_request
from pkiserver.registration.codes import parse_san, parse_subject, template_with_codes
from pkiserver.store.registration.accounts import Account
from pkiserver.store.registration.codes import Code
from pkiserver.store.registration.requests import PendingRequest, RequestState
from pkiserver.store.registration.votes import VoteRow
from protocols.management import views
from protocols.management.calls import Ask, Call, Nothing, PageByName, PageByNumber, next_before
from protocols.management.codec import whole


async def make_challenge(ask: Ask[Nothing, views.NewChallenge]) -> views.MadeChallenge:
    """A one-time challenge, for an MDM or a person."""
    wanted = ask.body
    ask.require(wanted.template)
    template = ask.engine.templates.get(wanted.template)
    lifetime = timedelta(seconds=wanted.lifetime_seconds)
    number, code = await ask.engine.codes.create(
        template=template_with_codes(template),
        subject=None if wanted.subject is None else parse_subject(wanted.subject),
        sans=tuple(parse_san(name) for name in wanted.names),
        lifetime=lifetime,
        by=ask.who.actor,
    )
    expires = ask.engine.clock.now() + lifetime
    return views.MadeChallenge(number, code.reveal_text(), wanted.template, expires)


async def list_challenges(ask: Ask[PageByNumber, Nothing]) -> views.ChallengeList:
    """Challenges, newest first; those of templates in the caller's scope."""
    query = ask.query
    page = await ask.engine.codes.list_page(before=query.before, limit=query.limit, templates=ask.templates)
    return views.ChallengeList(tuple(map(_challenge, page)), next_before([one.id for one in page], query.limit))


async def withdraw_challenge(ask: Ask[Nothing, Nothing]) -> None:
    """Take back a challenge that was not used."""
    found = await ask.engine.codes.get(ask.number)
    if found is None or not ask.covers(found.template):
        raise Rejected.because(Refusal.UNKNOWN_REQUEST, f"there is no challenge {ask.number}")
    if not await ask.engine.codes.withdraw(ask.number, by=ask.who.actor):
        raise Rejected.because(Refusal.CONFLICT, f"challenge {ask.number} has been used")


def _challenge(one: Code) -> views.ChallengeView:
    return views.ChallengeView(
        number=one.id,
        template=one.template,
        subject=one.subject,
        names=tuple(f"{san.kind}:{san.value}" for san in one.sans),
        created=one.created,
        created_by=one.created_by,
        expires=one.expires,
        spent_at=one.spent_at,
    )


@attrs.frozen
class RequestQuery:
    """Which requests."""

    state: RequestState | None = None
    before: int | None = whole(None)
    limit: int = whole(100, least=1, most=1000)


async def list_requests(ask: Ask[RequestQuery, Nothing]) -> views.RequestList:
    """Requests, newest first; those for templates in the caller's scope."""
    query = ask.query
    page = await ask.engine.approvals.list_page(
        state=query.state, before=query.before, limit=query.limit, templates=ask.templates
    )
    return views.RequestList(tuple(map(_request, page)), next_before([one.id for one in page], query.limit))


async def show_request(ask: Ask[Nothing, Nothing]) -> views.RequestDetail:
    """One request, with its CSR, the checks' results and the votes."""
    found = await _kept(ask)
    csr = None if found.csr is None else encode_text(found.csr)
    return views.RequestDetail(_request(found), csr, votes_of(await ask.engine.approvals.votes_on(ask.number)))


async def approve_request(ask: Ask[Nothing, views.Decision]) -> views.RequestView:
    """Agree to a request; the last approval that is needed lets the certificate be issued when the client asks."""
    return await _decide(ask, approved=True)


async def deny_request(ask: Ask[Nothing, views.Decision]) -> views.RequestView:
    """Refuse a request for good."""
    return await _decide(ask, approved=False)


async def _decide(ask: Ask[Nothing, views.Decision], *, approved: bool) -> views.RequestView:
    await _kept(ask)
    reason = ask.body.reason
    return _request(await ask.engine.approvals.decide(ask.number, approved=approved, by=ask.who.person, reason=reason))


async def _kept(ask: Ask[Nothing, Any]) -> PendingRequest:
    """The request of the path; one outside the scope is not there."""
    found = await ask.engine.approvals.get(ask.number)
    if not ask.covers(found.template):
        raise unknown_request(ask.number)
    return found


def _request(one: PendingRequest) -> views.RequestView:
    payload = json.loads(one.payload)
    return views.RequestView(
        number=one.id,
        state=one.state,
        template=one.template,
        requester=payload["requester"],
        subject=payload["subject"],
        protocol=payload["protocol"],
        source=payload["source"],
        reasons=one.reasons,
        checks=one.checks,
        needed=one.needed,
        approvers=one.approvers,
        created=one.created,
        expires=one.expires,
        decided_by=one.decided_by,
        decided_at=one.decided_at,
    )


def votes_of(rows: tuple[VoteRow, ...]) -> tuple[views.VoteView, ...]:
    """Votes as they are shown."""
    return tuple(views.VoteView(one.voter, one.approved, one.reason, one.at) for one in rows)


async def list_accounts(ask: Ask[PageByName, Nothing]) -> views.AccountList:
    """Accounts, by name. They belong to no template: only administrators without a scope see them."""
    ask.require_everything()
    page = await ask.engine.accounts.list_page(after=ask.query.after, limit=ask.query.limit)
    following = page[-1].name if len(page) == ask.query.limit else None
    return views.AccountList(tuple(map(_account, page)), following)


async def show_account(ask: Ask[Nothing, Nothing]) -> views.AccountView:
    """One account."""
    ask.require_everything()
    return _account(await ask.engine.accounts.get(ask.path["name"]))


async def make_account(ask: Ask[Nothing, views.NewAccount]) -> views.AccountView:
    """A new account."""
    ask.require_everything()
    new = ask.body
    made = await ask.engine.accounts.create(
        new.name,
        None if new.password is None else Secret(new.password),
        groups=frozenset(new.groups),
        attributes=_pairs(new.attributes),
        by=ask.who.actor,
    )
    return _account(made)


async def change_account(ask: Ask[Nothing, views.AccountChange]) -> views.AccountView:
    """Change an account; what is not given stays."""
    ask.require_everything()
    change = ask.body
    changed = await ask.engine.accounts.change(
        ask.path["name"],
        password=None if change.password is None else Secret(change.password),
        groups=None if change.groups is None else frozenset(change.groups),
        attributes=None if change.attributes is None else _pairs(change.attributes),
        disabled=change.disabled,
        by=ask.who.actor,
    )
    return _account(changed)


async def delete_account(ask: Ask[Nothing, Nothing]) -> None:
    """Remove an account; its certificates stay what they are."""
    ask.require_everything()
    await ask.engine.accounts.delete(ask.path["name"], by=ask.who.actor)


def _pairs(given: Mapping[str, views.OneOrMore]) -> tuple[tuple[str, str], ...]:
    return tuple((key, one) for key, some in given.items() for one in ((some,) if isinstance(some, str) else some))


def _by_name(pairs: tuple[tuple[str, str], ...]) -> dict[str, views.OneOrMore]:
    found: dict[str, tuple[str, ...]] = {}
    for key, value in pairs:
        found[key] = (*found.get(key, ()), value)
    return {key: values[0] if len(values) == 1 else values for key, values in found.items()}


def _account(one: Account) -> views.AccountView:
    return views.AccountView(
        name=one.name,
        groups=tuple(sorted(one.groups)),
        attributes=_by_name(one.attributes),
        password=one.password_hash is not None,
        disabled=one.disabled,
        created=one.created,
    )


P = Permission
CALLS = (
    Call("makeChallenge", "POST", "/challenges", P.MAKE_CHALLENGES, "Make a one-time challenge", make_challenge,
         answer=views.MadeChallenge, body=views.NewChallenge, status=201),
    Call("listChallenges", "GET", "/challenges", P.READ_CHALLENGES, "List challenges", list_challenges,
         answer=views.ChallengeList, query=PageByNumber),
    Call("withdrawChallenge", "DELETE", "/challenges/{number}", P.MAKE_CHALLENGES, "Take back an unused challenge",
         withdraw_challenge, status=204),
    Call("listRequests", "GET", "/requests", P.READ_REQUESTS, "List enrolment requests", list_requests,
         answer=views.RequestList, query=RequestQuery),
    Call("showRequest", "GET", "/requests/{number}", P.READ_REQUESTS, "Show an enrolment request", show_request,
         answer=views.RequestDetail),
    Call("approveRequest", "POST", "/requests/{number}/approve", P.DECIDE_REQUESTS, "Approve an enrolment request",
         approve_request, answer=views.RequestView, body=views.Decision),
    Call("denyRequest", "POST", "/requests/{number}/deny", P.DECIDE_REQUESTS, "Deny an enrolment request",
         deny_request, answer=views.RequestView, body=views.Decision),
    Call("listAccounts", "GET", "/accounts", P.READ_ACCOUNTS, "List accounts", list_accounts,
         answer=views.AccountList, query=PageByName),
    Call("makeAccount", "POST", "/accounts", P.CHANGE_ACCOUNTS, "Make an account", make_account,
         answer=views.AccountView, body=views.NewAccount, status=201),
    Call("showAccount", "GET", "/accounts/{name}", P.READ_ACCOUNTS, "Show an account", show_account,
         answer=views.AccountView),
    Call("changeAccount", "PATCH", "/accounts/{name}", P.CHANGE_ACCOUNTS, "Change an account", change_account,
         answer=views.AccountView, body=views.AccountChange),
    Call("deleteAccount", "DELETE", "/accounts/{name}", P.CHANGE_ACCOUNTS, "Remove an account", delete_account,
         status=204),
)  # fmt: skip
