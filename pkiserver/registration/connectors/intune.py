"""Challenges of an MDM with the interface of Microsoft Intune's SCEP validation.

A token by OAuth 2 client credentials (RFC 6749 section 4.4), then ``ScepActions/validateRequest`` with the transaction
and the CSR, which contains the challenge; later ``successNotification`` or ``failureNotification``. The service says
``code`` ``Success`` or a name for what is wrong. It decides by the challenge whom the request may be for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from cryptography import x509

from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.keys.secrets_by_reference import SecretUnreadable
from pkiserver.outbound.addresses import Timeouts, WebAddress
from pkiserver.outbound.http import fetch
from pkiserver.outbound.problems import OutboundError, Trouble
from pkiserver.registration.connectors.challenges import ChallengeQuestion, Issued, PollQuestion, Refused
from pkiserver.registration.connectors.credentials import finding
from pkiserver.registration.connectors.intunesettings import IntuneSettings
from pkiserver.registration.connectors.values import Denied, Finding, Outcome, Shown, Step

MAX_ANSWER = 64 * 1024
_EARLY = 60.0
"""Seconds by which a token is renewed before it ends."""
_UNAUTHORIZED = 401
_REFUSED = frozenset({"invalid_client", "unauthorized_client", "invalid_grant"})
"""What RFC 6749 section 5.2 calls a client that is not let in."""


class IntuneValidator:
    """Asks the service about challenges and tells it what came of them."""

    def __init__(self, name: str, settings: IntuneSettings, clock: Clock) -> None:
        self.name = name
        self.settings = settings
        self._clock = clock
        self._token: Secret | None = None
        self._until = 0.0

    async def validate(self, question: ChallengeQuestion) -> Outcome:
        """Whether the challenge in the CSR is good for it; raises :class:`Unavailable`."""
        request = {
            "transactionId": question.transaction,
            "certificateRequest": question.csr_base64,
            "callerInfo": self.settings.caller,
        }
        answer = await self._tried("validateRequest", request)
        code = answer.get("code")
        if not isinstance(code, str):
            raise Unavailable(f"connector {self.name}: the service answers, and does not say what", retry_after=30)
        if code == "Success":
            return Shown(question.subject)
        return Denied(Step.PASSWORD, f"the service says {_plain(code)}: {_plain(answer.get('errorDescription'))}")

    async def resume(self, question: PollQuestion) -> Outcome:
        """Yes: the service has no such question, and has said yes to the request when it came."""
        return Shown(question.name)

    @property
    def wants_reports(self) -> bool:
        """Yes."""
        return True

    async def report(self, question: ChallengeQuestion, result: Issued | Refused) -> None:
        """Tell success or failure; raises :class:`Unavailable`."""
        common = {
            "transactionId": question.transaction,
            "certificateRequest": question.csr_base64,
            "callerInfo": self.settings.caller,
        }
        if isinstance(result, Refused):
            failure = {**common, "hResult": -2147467259, "errorDescription": result.text[:255]}
            await self._tried("failureNotification", failure)
            return
        made = x509.load_der_x509_certificate(result.certificate)
        success = {
            **common,
            # SHA-1 is what the interface identifies certificates by; nothing rests on it
            "certificateThumbprint": hashlib.sha1(result.certificate, usedforsecurity=False).hexdigest().upper(),
            "certificateSerialNumber": f"{made.serial_number:x}".upper(),
            "certificateExpirationDateUtc": made.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "issuingCertificateAuthority": result.authority,
        }
        await self._tried("successNotification", success)

    async def check(self, name: str | None, password: Secret | None) -> tuple[Finding, ...]:
        """Get a token."""
        del name, password
        server = str(self.settings.token_url)
        try:
            self._token = None
            await self._bearer()
        except OutboundError as error:
            return (finding(error),)
        except SecretUnreadable as error:
            return (Finding(Step.SETTINGS, server, str(error)),)
        return (Finding(Step.FINE, server, "gives out tokens"),)

    def close(self) -> None:
        """Nothing is kept open."""

    async def _tried(self, action: str, request: Mapping[str, object]) -> dict[str, Any]:
        try:
            return await self._act(action, request)
        except (OutboundError, SecretUnreadable) as error:
            raise Unavailable(f"connector {self.name}: {error}", retry_after=30) from error

    async def _act(self, action: str, request: Mapping[str, object]) -> dict[str, Any]:
        address = WebAddress.parse(f"{str(self.settings.url).rstrip('/')}/ScepActions/{action}")
        body = json.dumps({"request": request}).encode()
        for last in (False, True):
            headers = {"Authorization": f"Bearer {(await self._bearer()).reveal_text()}"}
            status, answer = await self._post(address, body, {**headers, "Content-Type": "application/json"})
            if status != _UNAUTHORIZED or last:
                break
            self._token = None  # it was withdrawn before its time
        if status not in {200, 204}:
            raise OutboundError(Trouble.ANSWER, str(address), f"it answers with status {status}")
        return answer

    async def _bearer(self) -> Secret:
        if self._token is not None and self._clock.monotonic() < self._until:
            return self._token
        form = {
            "grant_type": "client_credentials",
            "client_id": self.settings.client_id,
            "client_secret": self.settings.client_secret.read().reveal_text(),
            "scope": self.settings.scope,
        }
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        address = self.settings.token_url
        status, answer = await self._post(address, urlencode(form).encode(), kind)
        if status in {400, 401} and answer.get("error") in _REFUSED:
            why = ": ".join(_plain(answer[key]) for key in ("error", "error_description") if key in answer)
            raise OutboundError(Trouble.BIND, str(address), f"client_id or client_secret is refused: {why}")
        token, lasting = answer.get("access_token"), answer.get("expires_in", 300)
        if status != 200 or not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise OutboundError(Trouble.ANSWER, str(address), f"it gives no token (status {status})")
        self._token = Secret(token)
        self._until = self._clock.monotonic() + max(0.0, (lasting if type(lasting) is int else 0) - _EARLY)
        return self._token

    async def _post(self, address: WebAddress, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        rules = self.settings.tls
        answer = await fetch(
            address,
            trust=None if rules is None else rules.to_trust(),
            timeouts=Timeouts(self.settings.connect_timeout, self.settings.answer_timeout),
            body=body,
            headers={**headers, "User-Agent": "pkiserver", "Accept": "application/json"},
            limit=MAX_ANSWER,
        )
        try:
            value = json.loads(answer.body) if answer.body else {}
        except (ValueError, RecursionError) as error:
            raise OutboundError(Trouble.ANSWER, str(address), "its answer is no JSON") from error
        if not isinstance(value, dict):
            raise OutboundError(Trouble.ANSWER, str(address), "its answer is no object")
        return answer.status, value


def _plain(value: object) -> str:
    """What the service wrote, as it may be shown."""
    return "".join(char for char in str(value) if char.isprintable())[:200]
