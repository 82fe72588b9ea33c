"""A kept request as what officers vote on: who asked for it, who may decide it, and under which template.

Officers agree to what they were shown. Where the template says something else by the time that the certificate would
be made, their votes are on something that is not asked for any more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import attrs
from cryptography import x509
from sqlalchemy import Connection

from pkiserver.authority.requests import EnrollmentRequest, ProofKind, RegistrationRecord
from pkiserver.foundation.framing import framed
from pkiserver.registration.administrators import Permission
from pkiserver.registration.identities import CODE_PREFIX
from pkiserver.registration.standing import Needed, with_account
from pkiserver.registration.votes import Matter
from pkiserver.store.authority import templates
from pkiserver.store.registration import codes, seats
from pkiserver.store.registration.requests import NewRequest, PendingRequest

MATTER = "request"
SEAT = "seat"
"""Whose seat the certificate would be in, as the request's payload calls it."""
_TERMS = "terms"
_OWNERS = "owners"


def matter_of(connection: Connection, request: PendingRequest) -> Matter:
    """A request as what is voted on.

    Whoever made the enrolment code that it came with asked as well, and so did the owner of the seat that it is for:
    the one of now, and the one when it was asked, since an officer may give a seat away.
    """
    requester = requester_of(request)
    asked_by = set(with_account(connection, requester))
    if requester.startswith(CODE_PREFIX):
        code = codes.by_id(connection, int(requester.removeprefix(CODE_PREFIX)))
        if code is not None:
            asked_by |= with_account(connection, code.created_by)
    noted = json.loads(request.payload)
    asked_by |= _owners(connection, request.template, noted)
    terms = str(noted.get(_TERMS, ""))
    digest = hashlib.sha256(framed((request.fingerprint, terms.encode()))).digest() if terms else request.fingerprint
    needed = Needed(Permission.DECIDE_REQUESTS, request.template, groups=request.approvers)
    return Matter(
        kind=MATTER,
        number=request.id,
        digest=digest,
        needed=request.needed,
        approvers=request.approvers,
        asked_by=frozenset(asked_by),
        against=needed.reason_against,
    )


def is_outdated(connection: Connection, request: PendingRequest) -> bool:
    """Whether the template says something else than when the request was put: officers agree to what they were shown.

    Requests that earlier versions kept do not say, and are taken as they are.
    """
    terms = json.loads(request.payload).get(_TERMS)
    return terms is not None and terms != _terms(connection, request.template)


def _terms(connection: Connection, template: str) -> str:
    """What stands for a template as it is in force: the SHA-256 of its text; of nothing, where it is gone."""
    found = templates.get(connection, template)
    return hashlib.sha256(b"" if found is None else found.toml.encode()).hexdigest()


def under(connection: Connection, new: NewRequest, earlier: PendingRequest | None = None) -> NewRequest:
    """The request with what its template says at this moment, and who owns its seat; or owned it ``earlier``."""
    noted = json.loads(new.payload)
    before = () if earlier is None else json.loads(earlier.payload).get(_OWNERS, ())
    owners = _owners(connection, new.template, {**noted, _OWNERS: before})
    noted |= {_TERMS: _terms(connection, new.template), _OWNERS: sorted(owners)}
    return attrs.evolve(new, payload=json.dumps(noted).encode())


def _owners(connection: Connection, template: str, noted: Mapping[str, Any]) -> set[str]:
    """Who owns the seat that a request is for, and who is noted as its owner before."""
    seat = seats.find(connection, template, str(noted.get(SEAT) or noted["requester"]))
    now = {seat.owner} if seat is not None and seat.owner else set()
    return now | set(noted.get(_OWNERS, ()))


def requester_of(request: PendingRequest) -> str:
    """Who asked."""
    return str(json.loads(request.payload)["requester"])


def request_fingerprint(request: EnrollmentRequest, record: RegistrationRecord) -> bytes:
    """The same octets whenever the same requester asks for the same thing: SHA-256 over length-prefixed parts.

    What is asked for counts, not the PKCS#10 octets: a client that links its request to the TLS connection signs it
    anew for each attempt (RFC 7030 section 4.2.3). A key that the server makes is another each time: it does not count.
    """
    wishes = request.wishes
    texts = (request.template, request.protocol, record.name, request.transaction_id or "", str(wishes.not_after))
    parts = (
        *(text.encode() for text in texts),
        b"" if request.proof.kind is ProofKind.GENERATED_HERE else request.spki,
        b"" if wishes.subject is None else wishes.subject.public_bytes(),
        x509.SubjectAlternativeName(wishes.sans).public_bytes(),
        *(octets for one in wishes.extensions for octets in (one.oid.encode(), one.value)),
    )
    return hashlib.sha256(framed(parts)).digest()
