"""The webhook connector: a web service says yes, no or pending, in JSON that both sides sign.

The request is ``{"version": 1, "id", "time", "connector", "name", "password"}``, or for a challenge ``"challenge",
"csr", "template", "transaction"``, or for one that a client polls for ``"poll"`` (the transaction), ``"template",
"name"`` (as first shown), in place of name and password, with the header ``Pkiserver-Signature:
v1=HEX``, HMAC-SHA-256 over the body. The answer is ``{"decision": "yes" | "no" | "pending", "groups": [...],
"attributes": {NAME: TEXT or [TEXT...]}, "retry_after": SECONDS, "reason": TEXT}`` with the same header, over the
request's id, a dot, and the body: an answer to one question is none to another.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid

import attrs

from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.keys.secrets_by_reference import SecretUnreadable
from pkiserver.outbound.http import Answer, fetch
from pkiserver.outbound.problems import OutboundError, Trouble
from pkiserver.registration.connectors.challenges import ChallengeQuestion, Issued, PollQuestion, Refused
from pkiserver.registration.connectors.credentials import credential_problem, finding, outcome_finding
from pkiserver.registration.connectors.mapping import mapped
from pkiserver.registration.connectors.values import Challenge, Denied, Finding, Outcome, Shown, Step, Undecided
from pkiserver.registration.connectors.webhooksettings import WebhookSettings

SIGNATURE = "Pkiserver-Signature"
MAX_ANSWER = 64 * 1024
_RETRY = range(1, 86401)


@attrs.frozen
class Reply:
    """An answer, verified and understood."""

    decision: str
    groups: frozenset[str] = frozenset()
    attributes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    retry_after: int = 60
    reason: str = ""

    def values(self, name: str) -> tuple[str, ...]:
        """The values of an attribute."""
        return next((values for key, values in self.attributes if key == name), ())


class WebhookConnector:
    """Asks a web service about names and passwords."""

    def __init__(self, name: str, settings: WebhookSettings, clock: Clock) -> None:
        self.name = name
        self.settings = settings
        self._clock = clock

    async def authenticate(self, name: str, password: Secret, answering: Challenge | None = None) -> Outcome:  # noqa: ARG002
        """Who it is; raises :class:`Unavailable`."""
        if problem := credential_problem(name, password):
            return problem
        try:
            return self._outcome(name, await self._ask(name, password))
        except (OutboundError, SecretUnreadable) as error:
            raise Unavailable(f"connector {self.name}: {error}", retry_after=30) from error

    async def validate(self, question: ChallengeQuestion) -> Outcome:
        """Whether the service gave this challenge out for this very request; raises :class:`Unavailable`."""
        about = {
            "challenge": question.challenge.reveal().decode("utf-8", "replace"),
            "csr": question.csr_base64,
            "template": question.template,
            "transaction": question.transaction,
        }
        try:
            return self._outcome(question.subject, await self._send(about))
        except (OutboundError, SecretUnreadable) as error:
            raise Unavailable(f"connector {self.name}: {error}", retry_after=30) from error

    async def resume(self, question: PollQuestion) -> Outcome:
        """What the service says of a transaction that it knows; raises :class:`Unavailable`."""
        about = {"poll": question.transaction, "template": question.template, "name": question.name}
        try:
            return self._outcome(question.name, await self._send(about))
        except (OutboundError, SecretUnreadable) as error:
            raise Unavailable(f"connector {self.name}: {error}", retry_after=30) from error

    @property
    def wants_reports(self) -> bool:
        """No."""
        return False

    async def report(self, question: ChallengeQuestion, result: Issued | Refused) -> None:
        """Nothing: a webhook is asked, not told."""

    async def check(self, name: str | None, password: Secret | None) -> tuple[Finding, ...]:
        """Ask about the user, or about nobody."""
        server = str(self.settings.url)
        try:
            if name is not None and password is not None:
                problem = credential_problem(name, password)
                outcome = problem or self._outcome(name, await self._ask(name, password))
                return (outcome_finding(server, outcome),)
            reply = await self._ask("", Secret(""))
        except OutboundError as error:
            return (finding(error),)
        except SecretUnreadable as error:
            return (Finding(Step.SETTINGS, server, str(error)),)
        if reply.decision == "yes":
            return (Finding(Step.ANSWER, server, "says yes to an empty name"),)
        return (Finding(Step.FINE, server, "answers, and its signature is right; a name and a password tell more"),)

    def close(self) -> None:
        """Nothing is kept open."""

    async def _ask(self, name: str, password: Secret) -> Reply:
        return await self._send({"name": name, "password": password.reveal_text()})

    async def _send(self, about: dict[str, str]) -> Reply:
        secret = self.settings.secret.read()
        number = str(uuid.uuid4())
        question = {
            "version": 1,
            "id": number,
            "time": self._clock.now().isoformat(timespec="seconds").replace("+00:00", "Z"),
            "connector": self.name,
            **about,
        }
        body = json.dumps(question, ensure_ascii=False).encode()
        answer = await fetch(
            self.settings.url,
            trust=None if self.settings.tls is None else self.settings.tls.to_trust(),
            timeouts=self.settings.timeouts,
            body=body,
            headers={"Content-Type": "application/json", "User-Agent": "pkiserver", SIGNATURE: sign(secret, body)},
            limit=MAX_ANSWER,
        )
        return self._understood(answer, secret, number)

    def _understood(self, answer: Answer, secret: Secret, number: str) -> Reply:
        if answer.status != 200:
            raise self._bad(f"it answers with status {answer.status}")
        given = answer.header(SIGNATURE) or ""
        if not hmac.compare_digest(given.encode(), sign(secret, f"{number}.".encode() + answer.body).encode()):
            raise self._bad("its answer is not signed with the shared secret")
        try:
            reply = parse_reply(answer.body)
        except ValueError as error:
            raise self._bad(f"its answer makes no sense: {error}") from error
        return reply

    def _bad(self, text: str) -> OutboundError:
        return OutboundError(Trouble.ANSWER, str(self.settings.url), text)

    def _outcome(self, name: str, reply: Reply) -> Outcome:
        if reply.decision == "no":
            text = f"the service says no{f': {reply.reason}' if reply.reason else ''}"
            return Denied(Step.PASSWORD, text, decided_on=name)
        required = self.settings.required_groups
        if required and not reply.groups.intersection(required):
            return Denied(Step.GROUP, f"the user is in none of the required groups: {', '.join(required)}", proved=True)
        attributes = mapped(self.settings.attributes, reply.values)
        if isinstance(attributes, Denied):
            return attributes
        shown = Shown(name, reply.groups, attributes)
        return shown if reply.decision == "yes" else Undecided(shown, reply.retry_after)


def sign(secret: Secret, octets: bytes) -> str:
    """The header's value."""
    return f"v1={hmac.new(secret.reveal(), octets, hashlib.sha256).hexdigest()}"


def parse_reply(body: bytes) -> Reply:
    """An answer from its JSON; raises :class:`ValueError` that says what is wrong."""
    try:
        value = json.loads(body)
    except RecursionError:
        raise ValueError("it nests too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is no object")
    decision = value.get("decision")
    if decision not in {"yes", "no", "pending"}:
        raise ValueError("its decision is none of yes, no, pending")
    groups, attributes, retry = value.get("groups", []), value.get("attributes", {}), value.get("retry_after", 60)
    if not isinstance(groups, list) or not all(isinstance(one, str) for one in groups):
        raise ValueError("its groups are no array of strings")
    if not isinstance(attributes, dict):
        raise ValueError("its attributes are no object")
    if type(retry) is not int or retry not in _RETRY:
        raise ValueError("its retry_after is no number of seconds up to a day")
    reason = value.get("reason", "")
    shown = "".join(char for char in reason if char.isprintable())[:200] if isinstance(reason, str) else ""
    pairs = tuple((str(name), _texts(given)) for name, given in attributes.items())
    return Reply(str(decision), frozenset(groups), pairs, retry, shown)


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    raise ValueError("an attribute is neither a string nor an array of strings")
