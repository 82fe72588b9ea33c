"""Ask the connectors that a template's evidence rules name, each once, in the rules' order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import attrs
from cryptography import x509

from pkiserver.authority.requests import ChallengeEvidence, ClientCertificateEvidence, PasswordEvidence, ResumedEvidence
from pkiserver.authority.templates.model import INTERNAL, EvidenceKind, EvidenceRule
from pkiserver.foundation.errors import Reason, Refusal, Unavailable
from pkiserver.foundation.unreadable import UNREADABLE
from pkiserver.registration.connectors.challenges import ChallengeQuestion, PollQuestion
from pkiserver.registration.connectors.library import Connectors, note
from pkiserver.registration.connectors.values import Challenge, Denied, Outcome, Shown, Step, Undecided, who
from pkiserver.registration.identities import Against, Identity, with_userid

WRONG_PASSWORD = Reason(Refusal.NOT_AUTHENTICATED, "the name or the password is wrong")
WRONG_CHALLENGE = Reason(Refusal.NOT_AUTHENTICATED, "the challenge password is wrong")
WRONG_CERTIFICATE = Reason(Refusal.NOT_AUTHENTICATED, "the client certificate shows nobody who counts here")
EXPIRED = Reason(Refusal.NOT_AUTHENTICATED, "the password has expired and must be changed first")
_PROVED = {
    Step.EXPIRED: EXPIRED,
    Step.GROUP: Reason(Refusal.NOT_AUTHORISED, "the user is in none of the groups that may have this"),
    Step.ATTRIBUTE: Reason(Refusal.NOT_AUTHORISED, "the directory lacks something that a certificate needs"),
}

Answer = Identity | Reason | Unavailable | Challenge


@attrs.frozen
class Nobody:
    """No such name there: a wrong one for the client, and no guess where somebody else may know it who is away."""

    reason: Reason


@attrs.frozen
class Asking:
    """One request's questions to the connectors. ``against`` fills with what services decide that may do so later."""

    connectors: Connectors
    rules: tuple[EvidenceRule, ...]
    against: list[Against] = attrs.field(factory=list, init=False)

    async def password(
        self, piece: PasswordEvidence, internal: Callable[[], Awaitable[Identity | Denied]]
    ) -> list[Answer]:
        """What a name and password come to. ``internal`` asks the accounts of this server."""
        answering = Challenge.of_token(piece.challenge) if piece.challenge else None
        refused: list[Denied] = []

        async def ask(connector: str) -> Answer | Nobody | None:
            if connector == INTERNAL:
                found = await internal()
                if isinstance(found, Identity):
                    return found
                refused.append(found)
                return _answer(INTERNAL, EvidenceKind.PASSWORD, found, WRONG_PASSWORD)
            if answering is not None and answering.connector != connector:
                return None
            outcome = await self.connectors.authenticate(connector, piece.name, piece.password, answering)
            return None if outcome is None else self._answer(connector, EvidenceKind.PASSWORD, outcome, WRONG_PASSWORD)

        answers = await self._each(EvidenceKind.PASSWORD, ask, WRONG_PASSWORD)
        # of those who are known elsewhere, or may be, it need not be said at each login
        if WRONG_PASSWORD in answers and not any(isinstance(one, Challenge) for one in answers):
            for denied in refused:
                note(INTERNAL, piece.name, denied)
        return answers

    async def certificate(
        self, piece: ClientCertificateEvidence, internal: Callable[[], Awaitable[Identity | Reason]]
    ) -> list[Answer]:
        """What a client certificate comes to. ``internal`` looks among the certificates of this server."""

        async def ask(connector: str) -> Answer | Nobody | None:
            if connector == INTERNAL:
                return await internal()
            try:
                certificate = x509.load_der_x509_certificate(piece.certificate)
                chain = tuple(map(x509.load_der_x509_certificate, piece.chain))
            except UNREADABLE:
                return WRONG_CERTIFICATE
            outcome = await self.connectors.identify(connector, certificate, chain)
            kind = EvidenceKind.CLIENT_CERTIFICATE
            return None if outcome is None else self._answer(connector, kind, outcome, WRONG_CERTIFICATE)

        return await self._each(EvidenceKind.CLIENT_CERTIFICATE, ask, WRONG_CERTIFICATE)

    async def challenge(
        self, template: str, piece: ChallengeEvidence, internal: Callable[[], Awaitable[Identity | Reason]]
    ) -> list[Answer]:
        """What a challenge comes to. ``internal`` knows the template's static one."""

        async def ask(connector: str) -> Answer | Nobody | None:
            if connector == INTERNAL:
                return await internal()
            if piece.csr is None:
                return None
            question = ChallengeQuestion(piece.challenge, piece.csr, template, piece.transaction)
            outcome = await self.connectors.validate(connector, question)
            if outcome is None:
                return None
            return self._answer(connector, EvidenceKind.SHARED_SECRET, outcome, WRONG_CHALLENGE)

        if not any(EvidenceKind.SHARED_SECRET in rule.all for rule in self.rules):
            return [await internal()]
        return await self._each(EvidenceKind.SHARED_SECRET, ask, WRONG_CHALLENGE)

    async def resumed(self, template: str, piece: ResumedEvidence) -> list[Answer]:
        """What a service says now of a request whose challenge it has seen; nothing where the rules do not name it."""
        connector, _, name = piece.requester.partition(":")
        named = any(EvidenceKind.SHARED_SECRET in rule.all and connector in rule.accepted_from for rule in self.rules)
        try:
            question = PollQuestion(name, template, piece.transaction)
            outcome = await self.connectors.resume(connector, question) if named else None
        except Unavailable as error:
            return [error]
        if outcome is None:
            return []
        answer = self._answer(connector, EvidenceKind.SHARED_SECRET, outcome, WRONG_CHALLENGE)
        return [answer.reason if isinstance(answer, Nobody) else answer]

    def _answer(self, connector: str, kind: EvidenceKind, outcome: Outcome, wrong: Reason) -> Answer | Nobody:
        if isinstance(outcome, Denied) and outcome.decided_on:
            self.against.append(Against(connector, f"{connector}:{outcome.decided_on}", outcome.text))
        return _answer(connector, kind, outcome, wrong)

    async def _each(
        self, kind: EvidenceKind, ask: Callable[[str], Awaitable[Answer | Nobody | None]], wrong: Reason
    ) -> list[Answer]:
        """For each rule its connectors until one shows somebody; nobody is asked twice."""
        answers: dict[str, Answer | Nobody | None] = {}
        for rule in self.rules:
            if kind not in rule.all:
                continue
            for connector in rule.accepted_from:
                if connector not in answers:
                    try:
                        answers[connector] = await ask(connector)
                    except Unavailable as error:
                        answers[connector] = error
                if isinstance(answers[connector], Identity | Challenge):
                    break
        return list(dict.fromkeys(_weighed(answers.values(), wrong)))


def _weighed(answers: Iterable[Answer | Nobody | None], wrong: Reason) -> list[Answer]:
    """What the answers come to together; whoever gets ``wrong`` has guessed.

    A credential that one connector took, if only to say what its owner lacks, is no wrong guess because another does
    not know it; nor is one that nobody knows while a connector is away that may.
    """
    given = [answer for answer in answers if answer is not None]
    shown = any(isinstance(answer, Identity) or answer in _PROVED.values() for answer in given)
    open_to_others = shown or any(isinstance(answer, Unavailable) for answer in given)
    found: list[Answer] = []
    for answer in given:
        if isinstance(answer, Nobody):
            found += [] if open_to_others else [answer.reason]
        elif not (shown and answer == wrong):
            found.append(answer)
    return found


def _answer(connector: str, kind: EvidenceKind, outcome: Outcome, wrong: Reason) -> Answer | Nobody:
    match outcome:
        case Denied(step=Step.USER, proved=False):
            return Nobody(wrong)
        case Denied():
            return _PROVED.get(outcome.step, wrong) if outcome.proved else wrong
        case Challenge():
            return outcome
        case Shown() | Undecided():
            shown = who(outcome)
            return Identity(
                kind,
                shown.name if shown.internal else f"{connector}:{shown.name}",
                shown.groups,
                with_userid(shown.name, shown.attributes),
                connector=connector,
                retry_after=outcome.retry_after if isinstance(outcome, Undecided) else 0,
                notes=shown.notes,
                claims=shown.claims,
            )
