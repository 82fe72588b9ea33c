"""The RADIUS connector (RFC 2865): PAP, CHAP, MS-CHAPv2, challenges; every packet with a Message-Authenticator.

pyrad gives the packets; the conversation is a Twisted datagram protocol.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable
from functools import cache
from io import StringIO

import attrs
from pyrad import packet
from pyrad.dictionary import Dictionary
from pyrad.packet import AuthPacket, PacketError

from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.keys.secrets_by_reference import SecretUnreadable
from pkiserver.outbound.dial import Servers, resolve
from pkiserver.outbound.problems import OutboundError, Trouble
from pkiserver.outbound.udp import ask_host
from pkiserver.registration.connectors import mschap
from pkiserver.registration.connectors.credentials import credential_problem, finding, outcome_finding
from pkiserver.registration.connectors.mapping import mapped
from pkiserver.registration.connectors.names import spelled
from pkiserver.registration.connectors.radiussettings import Method, RadiusServer, RadiusSettings, dictionary_text
from pkiserver.registration.connectors.values import Challenge, Denied, Finding, Outcome, Shown, Step

MAX_PAP = 128
_MICROSOFT = 311
_MS_ERROR, _MS_CHALLENGE, _MS_RESPONSE, _MS_SUCCESS = ((_MICROSOFT, code) for code in (2, 11, 25, 26))
_USER_NAME, _USER_PASSWORD, _CHAP_PASSWORD, _REPLY_MESSAGE, _STATE = 1, 2, 3, 18, 24
_SERVICE_TYPE, _NAS_IDENTIFIER, _CHAP_CHALLENGE = 6, 32, 60
_AUTHENTICATE_ONLY = (8).to_bytes(4, "big")
_RESOLVE_SECONDS = 3.0


@cache
def dictionary() -> Dictionary:
    """Our own dictionary of attributes; no file of the machine is read."""
    return Dictionary(StringIO(dictionary_text()))


@attrs.frozen
class _Question:
    """A packet, and what the reply must prove; ``proof`` sees an Access-Accept."""

    request: AuthPacket
    proof: Callable[[AuthPacket], bool]


class RadiusConnector:
    """Checks names and passwords against RADIUS servers."""

    def __init__(self, name: str, settings: RadiusSettings, clock: Clock) -> None:
        self.name = name
        self.settings = settings
        self._servers = Servers(clock)
        self._answered: dict[RadiusServer, str] = {}

    async def authenticate(self, name: str, password: Secret, answering: Challenge | None = None) -> Outcome:
        """Who it is; raises :class:`Unavailable`."""
        if problem := self._problem(name, password):
            return problem
        state = answering.state if answering is not None else b""
        try:
            return await self._servers.first(
                self.settings.servers, lambda server: self._ask(server, name, password, state)
            )
        except (OutboundError, SecretUnreadable) as error:
            raise Unavailable(f"connector {self.name}: {error}", retry_after=30) from error

    async def check(self, name: str | None, password: Secret | None) -> tuple[Finding, ...]:
        """Ask every server: about the user, or about one that nobody has, which must be rejected properly."""
        findings = []
        for server in self.settings.servers:
            try:
                if name is not None and password is not None:
                    outcome = self._problem(name, password) or await self._ask(server, name, password, b"")
                    findings.append(outcome_finding(str(server), outcome))
                else:
                    outcome = await self._ask(server, "pkiserver-check", Secret(secrets.token_hex(8)), b"")
                    text = "answers, and its answers verify; a name and a password tell more"
                    step = Step.FINE if not isinstance(outcome, Shown) else Step.ANSWER
                    findings.append(
                        Finding(step, str(server), text if step is Step.FINE else "accepts a name that nobody has")
                    )
            except OutboundError as error:
                findings.append(_named(finding(error), server))
            except SecretUnreadable as error:
                findings.append(Finding(Step.SETTINGS, str(server), str(error)))
        return tuple(findings)

    def close(self) -> None:
        """Nothing is kept open."""

    def _problem(self, name: str, password: Secret) -> Denied | None:
        problem = credential_problem(name, password)
        if problem is None and len(name.encode()) > 253:
            return Denied(Step.USER, "the name is too long for RADIUS")
        if problem is None and self.settings.method is Method.PAP and len(password.reveal()) > MAX_PAP:
            return Denied(Step.PASSWORD, "the password is too long for RADIUS")
        return problem

    async def _ask(self, server: RadiusServer, name: str, password: Secret, state: bytes) -> Outcome:
        addresses = self._ordered(server, await resolve(server.host, _RESOLVE_SECONDS))
        # an answer to a challenge is typed by a person: it goes as PAP whatever the method
        method = Method.PAP if state else self.settings.method
        question = _question(self.settings, self.settings.secret.read(), method, name, password)
        if state:
            question.request[_STATE] = [state]
        question.request.add_message_authenticator()
        datagram = question.request.RequestPacket()
        replies: list[AuthPacket] = []
        unproved: list[AuthPacket] = []

        def take(octets: bytes) -> bool:
            reply = _verified(question.request, octets)
            if reply is not None:
                replies.append(reply)
            elif (other := _verified(question.request, octets, enforce_ma=False)) is not None:
                unproved.append(other)
            return reply is not None

        wait = self.settings.answer_timeout.total_seconds()
        tries = self.settings.tries
        try:
            self._answered[server] = await ask_host(addresses, server.port, datagram, take, tries=tries, wait=wait)
        except OutboundError as error:
            if not unproved or error.trouble is not Trouble.ANSWER:
                raise
            text = "its answers have no Message-Authenticator, without which they count for nothing (CVE-2024-3596)"
            raise OutboundError(Trouble.ANSWER, error.server, text) from error
        return self._outcome(name, question, replies[0], server)

    def _ordered(self, server: RadiusServer, addresses: tuple[str, ...]) -> tuple[str, ...]:
        """The address that answered last comes first: a silent one before it costs every login its time-out."""
        return tuple(sorted(addresses, key=lambda one: one != self._answered.get(server)))

    def _outcome(self, name: str, question: _Question, reply: AuthPacket, server: RadiusServer) -> Outcome:
        if reply.code == packet.AccessChallenge:
            state = _raw(reply, _STATE)
            prompt = b"".join(_all(reply, _REPLY_MESSAGE)).decode(errors="replace")
            if not state:
                raise OutboundError(Trouble.ANSWER, str(server), "a challenge without State cannot be answered")
            return Challenge(self.name, "".join(c for c in prompt if c.isprintable())[:500], state[0])
        if reply.code != packet.AccessAccept:
            return _rejected(reply)
        if not question.proof(reply):
            raise OutboundError(Trouble.ANSWER, str(server), "the server did not prove that it knows the password")
        groups = frozenset(_texts(reply, self.settings.groups)) if self.settings.groups else frozenset()
        required = self.settings.required_groups
        if required and not groups.intersection(required):
            return Denied(Step.GROUP, f"the user is in none of the required groups: {', '.join(required)}", proved=True)
        attributes = mapped(self.settings.attributes, lambda source: _texts(reply, source))
        if isinstance(attributes, Denied):
            return attributes
        # RFC 2865 section 5.1: the server may say how it spells the name, and that is what counts
        return Shown(
            spelled(name, (one.decode(errors="ignore") for one in _raw(reply, _USER_NAME))), groups, attributes
        )


def _question(settings: RadiusSettings, secret: Secret, method: Method, name: str, password: Secret) -> _Question:
    request = AuthPacket(
        code=packet.AccessRequest,
        id=secrets.randbelow(256),
        secret=secret.reveal(),
        authenticator=secrets.token_bytes(16),
        dict=dictionary(),
    )
    request[_USER_NAME] = [name.encode()]
    request[_NAS_IDENTIFIER] = [settings.nas_identifier.encode()]
    request[_SERVICE_TYPE] = [_AUTHENTICATE_ONLY]
    if method is Method.PAP:
        request[_USER_PASSWORD] = [request.PwCrypt(password.reveal())]
    elif method is Method.CHAP:
        challenge, identifier = secrets.token_bytes(16), secrets.token_bytes(1)
        digest = hashlib.md5(identifier + password.reveal() + challenge, usedforsecurity=False).digest()
        request[_CHAP_PASSWORD] = [identifier + digest]
        request[_CHAP_CHALLENGE] = [challenge]
    else:
        return _mschap(request, name, password)
    return _Question(request, lambda _: True)


def _mschap(request: AuthPacket, name: str, password: Secret) -> _Question:
    """RFC 2548 section 2.3.2."""
    challenge, peer, identifier = secrets.token_bytes(16), secrets.token_bytes(16), secrets.randbelow(256)
    text = password.reveal_text()
    response = mschap.nt_response(challenge, peer, name, text)
    request[_MS_CHALLENGE] = [challenge]
    request[_MS_RESPONSE] = [bytes((identifier, 0)) + peer + bytes(8) + response]
    expected = mschap.authenticator_response(challenge, peer, name, text, response)

    def proof(reply: AuthPacket) -> bool:
        return any(mschap.success_is_right(value, identifier, expected) for value in _raw(reply, _MS_SUCCESS))

    return _Question(request, proof)


def _verified(request: AuthPacket, octets: bytes, *, enforce_ma: bool = True) -> AuthPacket | None:
    """The reply, if it is one to this request: its authenticator and its Message-Authenticator are right.

    ``enforce_ma`` False, for what is said of a server and never for what it answers: also without the second.
    """
    try:
        reply = request.CreateReply(packet=octets)
        fine = request.VerifyReply(reply, octets, enforce_ma=enforce_ma)
    except (PacketError, ValueError, IndexError, KeyError):
        return None
    codes = (packet.AccessAccept, packet.AccessReject, packet.AccessChallenge)
    return reply if fine and reply.code in codes else None


def _rejected(reply: AuthPacket) -> Denied:
    for value in _raw(reply, _MS_ERROR):
        if b"E=648" in value:
            return Denied(Step.EXPIRED, "the password has expired", proved=True)
    message = b" ".join(_all(reply, _REPLY_MESSAGE)).decode(errors="replace")
    return Denied(Step.PASSWORD, f"the server rejects name or password{f': {message}' if message else ''}")


def _raw(reply: AuthPacket, key: int | tuple[int, int]) -> list[bytes]:
    """The raw values of an attribute; pyrad's packets have them by number."""
    return list(dict.get(reply, key, []))


def _all(reply: AuthPacket, key: int) -> list[bytes]:
    return _raw(reply, key)


def _texts(reply: AuthPacket, source: str | None) -> Iterable[str]:
    """The values of an attribute by its name in our dictionary, or by ``vendor/type``, as text."""
    if source is None:
        return ()
    vendor, slash, code = source.partition("/")
    if slash and vendor.isdigit() and code.isdigit():
        values: list[object] = list(_raw(reply, (int(vendor), int(code))))
    else:
        values = list(reply[source]) if source in dictionary().attributes and source in reply else []
    texts = (value.decode(errors="ignore") if isinstance(value, bytes) else str(value) for value in values)
    return [text.removeprefix("0x") for text in texts]


def _named(found: Finding, server: RadiusServer) -> Finding:
    hint = "" if found.step is not Step.SILENT else "; is it on, does it know this machine, is the secret the same?"
    return attrs.evolve(found, server=str(server), text=found.text + hint)
