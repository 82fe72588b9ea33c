"""From evidence to identities: each piece is checked against the store; nothing here says yes to a request."""

from __future__ import annotations

import hashlib
from datetime import datetime

import attrs
from sqlalchemy import Connection

from pkiserver.authority.authorities import Authorities
from pkiserver.authority.requests import (
    ChallengeEvidence,
    ClientCertificateEvidence,
    CodeEvidence,
    Evidence,
    OperatorEvidence,
    PasswordEvidence,
    ResumedEvidence,
    SelfSignedEvidence,
)
from pkiserver.authority.templates.model import INTERNAL, EvidenceKind, Template
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Reason, Refusal, Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.registration.codeform import canonical
from pkiserver.registration.codes import CodeGrant, EnrollCodes
from pkiserver.registration.connectors.asking import WRONG_CHALLENGE, WRONG_PASSWORD, Answer, Asking
from pkiserver.registration.connectors.library import Connectors, note
from pkiserver.registration.connectors.values import Challenge, Denied, Step
from pkiserver.registration.identities import (
    ANONYMOUS,
    CHALLENGE_PREFIX,
    CODE_PREFIX,
    OPERATOR_PREFIX,
    SELF_SIGNED,
    Findings,
    Identity,
    account_problem,
    connector_of,
    record_attributes,
)
from pkiserver.registration.passwords import PasswordHasher
from pkiserver.store import certificates
from pkiserver.store.certificates import Certificate, CertificateState
from pkiserver.store.database import Database
from pkiserver.store.registration import accounts
from pkiserver.store.registration.accounts import Account

MAX_NAME = 256
WRONG_CODE = Reason(Refusal.NOT_AUTHENTICATED, "the enrolment code is not valid")
_ANONYMOUS = Identity(EvidenceKind.ANONYMOUS, ANONYMOUS)


@attrs.frozen
class Identifier:
    """Finds out whom each piece of evidence shows."""

    database: Database
    authorities: Authorities
    hasher: PasswordHasher
    codes: EnrollCodes
    clock: Clock
    connectors: Connectors

    async def identify(self, template: Template, protocol: str, evidence: tuple[Evidence, ...]) -> Findings:
        """All identities that the evidence shows, and the reasons of what shows none.

        Raises:
            Unavailable: the database is away.
        """
        asking = Asking(self.connectors, template.evidence_for(protocol))
        outcomes: list[Answer] = [_ANONYMOUS]
        for piece in evidence:
            outcomes += await self._all(template, asking, piece)
        return Findings(
            tuple(one for one in outcomes if isinstance(one, Identity)),
            tuple(one for one in outcomes if isinstance(one, Reason)),
            tuple(one for one in outcomes if isinstance(one, Unavailable)),
            tuple(one for one in outcomes if isinstance(one, Challenge)),
            tuple(asking.against),
        )

    async def _all(self, template: Template, asking: Asking, piece: Evidence) -> list[Answer]:
        """What a piece comes to; more than one thing where connectors are asked."""
        # Codes travel where a password would; nobody's password has a code's form by accident.
        if isinstance(piece, PasswordEvidence) and canonical(piece.password) is None:
            return await asking.password(piece, lambda: self._password(piece.name, piece.password))
        if isinstance(piece, ClientCertificateEvidence):
            return await asking.certificate(piece, lambda: self._holder(piece.certificate))
        if isinstance(piece, ChallengeEvidence):
            return await asking.challenge(template.name, piece, lambda: self._challenge(template, piece.challenge))
        if isinstance(piece, ResumedEvidence) and (answers := await asking.resumed(template.name, piece)):
            return answers
        return [await self._one(template, piece)]

    async def who(self, piece: PasswordEvidence | ClientCertificateEvidence) -> Identity | Reason:
        """Whom a password or a client certificate shows where no template is involved.

        Raises:
            Unavailable: the database is away, or too many passwords are being checked.
        """
        if isinstance(piece, PasswordEvidence):
            shown = await self._password(piece.name, piece.password)
            if isinstance(shown, Identity):
                return shown
            note(INTERNAL, piece.name, shown)
            return WRONG_PASSWORD
        return await self._client_certificate(piece.certificate)

    async def _one(self, template: Template, piece: Evidence) -> Identity | Reason:
        match piece:
            case PasswordEvidence():
                return await self._code(template.name, piece.password)
            case CodeEvidence():
                return await self._code(template.name, piece.code)
            case OperatorEvidence():
                return Identity(EvidenceKind.OPERATOR, f"{OPERATOR_PREFIX}{piece.name}")
            case _:
                return await self._of_a_message(template, piece)

    async def _of_a_message(self, template: Template, piece: Evidence) -> Identity | Reason:
        """What a protocol's own message shows."""
        match piece:
            case SelfSignedEvidence():
                return Identity(EvidenceKind.SELF_SIGNED, f"{SELF_SIGNED}{piece.spki_sha256.hex()[:32]}")
            case ResumedEvidence():
                return await self._resumed(template, piece.requester)
            case _:
                return Reason(Refusal.NOT_AUTHENTICATED, "evidence of that kind is not accepted")

    async def _password(self, name: str, password: Secret) -> Identity | Denied:
        found = None
        if 0 < len(name) <= MAX_NAME:
            found = await self.database.look_up(lambda connection: accounts.get(connection, name))
        # A name that does not exist, a disabled one and a wrong password do the same work and get the same answer.
        right = await self.hasher.verify(found.password_hash if found is not None else None, password)
        if found is None:
            return Denied(Step.USER, "there is no account of this name")
        if found.password_hash is None:
            return Denied(Step.PASSWORD, "the account has no password")
        if found.disabled or not right:
            return Denied(Step.PASSWORD, "the account is disabled" if found.disabled else "the password is wrong")
        await self._strengthen(found, password)
        return Identity(EvidenceKind.PASSWORD, found.name, found.groups, record_attributes(found))

    async def _strengthen(self, found: Account, password: Secret) -> None:
        """Hash again at today's cost, now that the password is at hand."""
        old = found.password_hash
        if old is not None and self.hasher.needs_rehash(old):
            new = await self.hasher.hash(password)
            await self.database.write(
                lambda connection: accounts.replace_hash(connection, found.name, old=old, new=new)
            )

    async def _code(self, template: str, code: Secret) -> Identity | Reason:
        return _granted(template, await self.codes.find(code))

    async def _challenge(self, template: Template, challenge: Secret) -> Identity | Reason:
        """The template's static challenge; where it has none, the same work is done and nothing is right."""
        right = await self.hasher.verify(template.scep.static_challenge or None, challenge)
        if not right:
            return WRONG_CHALLENGE
        return Identity(EvidenceKind.SHARED_SECRET, f"{CHALLENGE_PREFIX}{template.name}")

    async def _resumed(self, template: Template, requester: str) -> Identity | Reason:
        """Who was shown when the request came; a code must still be unspent and in time."""
        if requester.startswith(CODE_PREFIX):
            return _granted(template.name, await self.codes.find_number(int(requester.removeprefix(CODE_PREFIX))))
        if requester.startswith(SELF_SIGNED):
            return Identity(EvidenceKind.SELF_SIGNED, requester)
        if requester == f"{CHALLENGE_PREFIX}{template.name}" and template.scep.static_challenge:
            return Identity(EvidenceKind.SHARED_SECRET, requester)
        return Reason(Refusal.NOT_AUTHENTICATED, "send the whole request again: its evidence is not kept")

    async def _holder(self, der: bytes) -> Identity | Reason:
        """Whom a client certificate shows; who was shown by a connector that can tell must be known to it still."""
        shown = await self._client_certificate(der)
        if isinstance(shown, Identity) and connector_of(shown.name) is not None:
            today = await self.connectors.current(shown.name, needed=False)
            if isinstance(today, Denied):
                text = "the holder of the client certificate is not entitled any more where they are kept"
                return Reason(Refusal.NOT_AUTHORISED, text)
        return shown

    async def _client_certificate(self, der: bytes) -> Identity | Reason:
        fingerprint = hashlib.sha256(der).digest()

        def look(connection: Connection) -> tuple[Certificate | None, Account | None]:
            found = certificates.by_fingerprint(connection, fingerprint)
            owner = None if found is None else accounts.get(connection, found.requester)
            return found, owner

        found, owner = await self.database.look_up(look)
        problem = client_certificate_problem(found, self.clock.now())
        if problem is not None or found is None:
            return Reason(Refusal.NOT_AUTHENTICATED, problem or "the client certificate was not issued here")
        if (behind := account_problem(found, owner)) is not None:
            return Reason(Refusal.NOT_AUTHORISED, f"the account behind the client certificate is {behind}")
        generation = self.authorities.generation(found.generation_id)
        return Identity(
            EvidenceKind.CLIENT_CERTIFICATE,
            found.requester,
            owner.groups if owner is not None else frozenset(),
            record_attributes(owner),
            authority=generation.authority if generation is not None else None,
            template=found.template,
        )


def codes_in(evidence: tuple[Evidence, ...]) -> tuple[Secret, ...]:
    """What of the evidence may be an enrolment code: one that is said to be, or a password in a code's form."""
    shown = (one.code if isinstance(one, CodeEvidence) else _password_of(one) for one in evidence)
    return tuple(one for one in shown if one is not None and canonical(one) is not None)


def _password_of(piece: Evidence) -> Secret | None:
    return piece.password if isinstance(piece, PasswordEvidence) else None


def _granted(template: str, grant: CodeGrant | None) -> Identity | Reason:
    """The identity behind a code that is good for the template."""
    if grant is None:
        return WRONG_CODE
    # Whoever shows these knew a code of ours: no guess, and told so.
    if grant.template != template:
        return Reason(Refusal.NOT_AUTHORISED, "the enrolment code is for another template")
    if not grant.usable:
        return Reason(Refusal.NOT_AUTHORISED, "the enrolment code has been used or has expired")
    return Identity(
        EvidenceKind.CODE,
        f"{CODE_PREFIX}{grant.id}",
        code_id=grant.id,
        subject=grant.subject,
        sans=grant.sans if grant.sans or grant.subject is not None else None,
    )


def client_certificate_problem(found: Certificate | None, now: datetime) -> str | None:
    """Why a certificate of the store does not show anybody today; None when it does."""
    if found is None or found.der is None:
        return "the client certificate was not issued here"
    if found.state is CertificateState.HELD:
        return "the client certificate is on hold"
    if found.state is not CertificateState.ISSUED:
        return "the client certificate is revoked"
    if not found.not_before <= now <= found.not_after:
        return "the client certificate is outside its validity"
    return None
