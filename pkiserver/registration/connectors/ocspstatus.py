"""Whether certificates of other authorities are revoked, asked of their OCSP responder (RFC 6960).

Only responders that the settings name are asked: a URL in a certificate is its holder's or its issuer's to choose, and
this server is not theirs to send anywhere.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from pkiserver.authority.status.answersigner import WrongAnswerError, check_signer
from pkiserver.foundation.clock import Clock
from pkiserver.outbound.addresses import Timeouts, WebAddress
from pkiserver.outbound.http import fetch
from pkiserver.outbound.problems import OutboundError, Trouble

MAX_ANSWER = 64 * 1024
MOST_KEPT = 4096
"""Answers that are remembered; the one asked for longest ago is forgotten first."""
_SKEW = timedelta(minutes=5)
NONCE_OCTETS = 16


class OcspStatus:
    """Asks one responder, and remembers its answers until they end or are older than ``keep``."""

    def __init__(self, responder: WebAddress, timeouts: Timeouts, keep: timedelta, clock: Clock) -> None:
        self._responder = responder
        self._timeouts = timeouts
        self._keep = keep
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[str | None, datetime]] = OrderedDict()

    async def problem(self, certificate: x509.Certificate, issuer: x509.Certificate) -> str | None:
        """Why the certificate does not count: revoked, or unknown to the responder; None where it is good.

        Raises:
            OutboundError: nobody can say now, or what is said is not signed by who may say it.
        """
        mark = certificate.fingerprint(hashes.SHA256())
        kept = self._kept.get(mark)
        if kept is not None and self._clock.now() < kept[1]:
            return kept[0]
        found, until = await self._ask(certificate, issuer)
        self._kept[mark] = (found, until)
        self._kept.move_to_end(mark)
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return found

    async def reach(self, anchor: x509.Certificate) -> str:
        """How the responder answers a question about an anchor, which it need not know: that it speaks OCSP counts.

        Raises:
            OutboundError: it does not.
        """
        octets = await self._fetched(ocsp.OCSPRequestBuilder().add_certificate(anchor, anchor, hashes.SHA1()).build())  # noqa: S303
        try:
            return ocsp.load_der_ocsp_response(octets).response_status.name.lower()
        except ValueError as error:
            raise OutboundError(Trouble.ANSWER, str(self._responder), "what it answers is no OCSP") from error

    async def _ask(self, certificate: x509.Certificate, issuer: x509.Certificate) -> tuple[str | None, datetime]:
        nonce = secrets.token_bytes(NONCE_OCTETS)
        # SHA-1 names the issuer here, and protects nothing: it is what every responder knows (RFC 5019 section 2.1.1)
        builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA1())  # noqa: S303
        request = builder.add_extension(x509.OCSPNonce(nonce), critical=False).build()
        octets = await self._fetched(request)
        try:
            return self._read(octets, request, issuer, nonce)
        except (WrongAnswerError, ValueError) as error:
            raise OutboundError(Trouble.ANSWER, str(self._responder), str(error)) from error

    async def _fetched(self, request: ocsp.OCSPRequest) -> bytes:
        answer = await fetch(
            self._responder,
            trust=None,
            timeouts=self._timeouts,
            body=request.public_bytes(Encoding.DER),
            headers={"Content-Type": "application/ocsp-request"},
            limit=MAX_ANSWER,
        )
        if answer.status != 200:
            raise OutboundError(Trouble.ANSWER, str(self._responder), f"status {answer.status}")
        return answer.body

    def _read(
        self, octets: bytes, request: ocsp.OCSPRequest, issuer: x509.Certificate, nonce: bytes
    ) -> tuple[str | None, datetime]:
        now = self._clock.now()
        response = ocsp.load_der_ocsp_response(octets)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise WrongAnswerError(f"the responder says {response.response_status.name.lower()}")
        check_signer(response, octets, issuer, now)
        asked = (request.serial_number, request.issuer_key_hash, request.issuer_name_hash)
        if (response.serial_number, response.issuer_key_hash, response.issuer_name_hash) != asked:
            raise WrongAnswerError("the answer is about another certificate")
        if _nonce(response) not in {None, nonce}:
            raise WrongAnswerError("the answer is to another question")
        until = response.next_update_utc or response.this_update_utc + self._keep
        if response.this_update_utc > now + _SKEW or until + _SKEW < now:
            raise WrongAnswerError("the answer is not in force")
        status = response.certificate_status
        words = {ocsp.OCSPCertStatus.REVOKED: "is revoked", ocsp.OCSPCertStatus.UNKNOWN: "is unknown to its responder"}
        return words.get(status), min(until, now + self._keep)


def _nonce(response: ocsp.OCSPResponse) -> bytes | None:
    try:
        return response.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
    except x509.ExtensionNotFound:
        return None
