"""Microsoft's older counter-signature: a PKCS#7 SignedData over the signature that is to be stamped.

The request is base64 of SEQUENCE { 1.3.6.1.4.1.311.3.2.1, SEQUENCE { data, [0] OCTET STRING } }, the answer base64 of a
SignedData whose content are those octets and whose signed attributes hold the time. There is no nonce and no policy.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated

import attrs
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.foundation.errors import PkiError
from protocols.cms import oids
from protocols.cms.signing import SignedContent, SignerProfile, sign, signing_time
from protocols.timestamp.directory import Active
from protocols.timestamp.errors import refused
from protocols.timestamp.messages import Failure, Refused
from protocols.timestamp.service import GRANTED, TimestampService
from protocols.timestamp.tokens import sent_certificates

CONTENT_TYPE = "application/octet-stream"
_REQUEST = "1.3.6.1.4.1.311.3.2.1"
_SIZES = range(32, 8193)
"""Octets of a signature: from Ed25519's to the largest RSA key's, roughly."""
_BLANKS = re.compile(rb"[\s\0]+")


@asn1.sequence
class _Content:
    content_type: x509.ObjectIdentifier
    content: Annotated[bytes, asn1.Explicit(0)]


@asn1.sequence
class _Request:
    kind: x509.ObjectIdentifier
    content: _Content


def read_request(body: bytes) -> bytes:
    """The signature that is to be stamped.

    Raises:
        Refused: it is no such request.
    """
    try:
        data = base64.b64decode(_BLANKS.sub(b"", body), validate=True)
        request = asn1.decode_der(_Request, data)
    except (binascii.Error, ValueError):
        raise Refused(Failure.BAD_DATA_FORMAT, "not an Authenticode time-stamp request") from None
    named = (request.kind.dotted_string, request.content.content_type.dotted_string)
    if named != (_REQUEST, oids.DATA) or len(request.content.content) not in _SIZES:
        raise Refused(Failure.BAD_DATA_FORMAT, "not an Authenticode time-stamp request")
    return request.content.content


@attrs.frozen
class AuthenticodeService:
    """Makes counter-signatures for units that have them switched on."""

    service: TimestampService

    async def answer(self, active: Active, body: bytes) -> bytes:
        """The base64 answer.

        Raises:
            Refused: with the reason; this protocol has no words for it.
        """
        name = active.unit.name
        try:
            answer = await self._answer(active, body)
        except (Refused, PkiError) as error:
            told = refused(error)
            self.service.counts[name, told.failure.name.lower()] += 1
            raise told from error
        self.service.counts[name, GRANTED] += 1
        return answer

    async def _answer(self, active: Active, body: bytes) -> bytes:
        octets = read_request(body)
        moment = self.service.moment(active)
        if active.countersigner is None:
            raise Refused(Failure.SYSTEM_FAILURE, "the unit's key is not bound to this form of time-stamp")
        certificate = active.profile.certificate.public_bytes(Encoding.DER)
        message = await sign(
            SignedContent(oids.DATA, octets),
            SignerProfile(active.profile.certificate, active.profile.scheme, plain_rsa=True),
            active.countersigner,
            attributes=(signing_time(moment),),
            certificates=sent_certificates(active.unit, certificate, active.chain),
        )
        return base64.encodebytes(message)
