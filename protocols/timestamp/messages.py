"""RFC 3161 on the wire: strict DER requests to frozen values, answers to octets.

Requests are decoded by declared types in one pass. A message imprint is written back as it came: its algorithm with or
without NULL parameters, as the client had it.
"""

from __future__ import annotations

import enum
from functools import lru_cache
from typing import Annotated

import attrs
from cryptography import x509
from cryptography.hazmat import asn1

from pkiserver.foundation import der
from pkiserver.timestamping.unit import ImprintHash

QUERY_TYPE = "application/timestamp-query"
REPLY_TYPE = "application/timestamp-reply"
MAX_NONCE_OCTETS = 64
"""More is no nonce: RFC 3161 wants 64 bits."""

_OIDS = {
    ImprintHash.SHA1: "1.3.14.3.2.26",
    ImprintHash.SHA224: "2.16.840.1.101.3.4.2.4",
    ImprintHash.SHA256: "2.16.840.1.101.3.4.2.1",
    ImprintHash.SHA384: "2.16.840.1.101.3.4.2.2",
    ImprintHash.SHA512: "2.16.840.1.101.3.4.2.3",
    ImprintHash.SHA3_256: "2.16.840.1.101.3.4.2.8",
    ImprintHash.SHA3_384: "2.16.840.1.101.3.4.2.9",
    ImprintHash.SHA3_512: "2.16.840.1.101.3.4.2.10",
}
SIZES = {
    ImprintHash.SHA1: 20,
    ImprintHash.SHA224: 28,
    ImprintHash.SHA256: 32,
    ImprintHash.SHA384: 48,
    ImprintHash.SHA512: 64,
    ImprintHash.SHA3_256: 32,
    ImprintHash.SHA3_384: 48,
    ImprintHash.SHA3_512: 64,
}
"""Octets of each hash."""

HASH_NAMES = {one: one.value.replace("-", "_") for one in ImprintHash}
"""hashlib's names."""


class Failure(enum.IntEnum):
    """PKIFailureInfo (RFC 3161 section 2.4.2): the number of the bit."""

    BAD_ALG = 0
    BAD_REQUEST = 2
    BAD_DATA_FORMAT = 5
    TIME_NOT_AVAILABLE = 14
    UNACCEPTED_POLICY = 15
    UNACCEPTED_EXTENSION = 16
    ADD_INFO_NOT_AVAILABLE = 17
    SYSTEM_FAILURE = 25


class Refused(Exception):
    """No token, and why; the text is for the client."""

    def __init__(self, failure: Failure, text: str) -> None:
        super().__init__(text)
        self.failure = failure
        self.text = text


@asn1.sequence
class _AlgorithmIdentifier:
    algorithm: x509.ObjectIdentifier
    # The union is what lets parameters be absent; NULL comes as a TLV, too.
    parameters: asn1.TLV | asn1.Null | None


@asn1.sequence
class _MessageImprint:
    hash_algorithm: _AlgorithmIdentifier
    hashed_message: bytes


@asn1.sequence
class _Extension:
    oid: x509.ObjectIdentifier
    critical: Annotated[bool, asn1.Default(False)]
    value: bytes


@asn1.sequence
class _TimeStampReq:
    version: int
    message_imprint: _MessageImprint
    policy: x509.ObjectIdentifier | None
    nonce: int | None
    cert_req: Annotated[bool, asn1.Default(False)]
    extensions: Annotated[list[_Extension] | None, asn1.Implicit(0)]


@attrs.frozen
class Imprint:
    """A message imprint; ``encoded`` is the whole MessageImprint, DER."""

    hash: ImprintHash
    digest: bytes
    encoded: bytes = attrs.field(repr=False)


@attrs.frozen
class TimestampRequest:
    """A decoded request. ``nonce`` is the whole INTEGER, DER; ``policy`` a dotted OID."""

    imprint: Imprint
    policy: str | None
    nonce: bytes
    certificates: bool


def _prefix(oid: str, size: int, parameters: bytes) -> bytes:
    """All of a MessageImprint but the digest."""
    return der.sequence(der.sequence(der.object_identifier(oid), parameters), der.octet_string(bytes(size)))[:-size]


_KNOWN = {
    x509.ObjectIdentifier(_OIDS[one]): (one, SIZES[one], _prefix(_OIDS[one], SIZES[one], b""),
                                        _prefix(_OIDS[one], SIZES[one], b"\x05\x00"))
    for one in ImprintHash
}  # fmt: skip


_NULL = b"\x05\x00"


def _imprint(found: _MessageImprint) -> Imprint:
    identifier = found.hash_algorithm
    known = _KNOWN.get(identifier.algorithm)
    if known is None:
        raise Refused(Failure.BAD_ALG, "the hash algorithm is not known here")
    name, size, bare, with_null = known
    digest = found.hashed_message
    if len(digest) != size:
        raise Refused(Failure.BAD_DATA_FORMAT, f"a {name} imprint has {size} octets, not {len(digest)}")
    if identifier.parameters is None:
        return Imprint(name, digest, bare + digest)
    if isinstance(identifier.parameters, asn1.TLV) and asn1.encode_der(identifier.parameters) != _NULL:
        raise Refused(Failure.BAD_ALG, f"{name} takes no parameters")
    return Imprint(name, digest, with_null + digest)


def decode_request(data: bytes) -> TimestampRequest:
    """Decode a DER TimeStampReq (RFC 3161 section 2.4.1).

    Raises:
        Refused: it is none, or asks for what nobody here understands.
    """
    try:
        request = asn1.decode_der(_TimeStampReq, data)
    except ValueError:
        raise Refused(Failure.BAD_DATA_FORMAT, "not a DER TimeStampReq") from None
    if request.version != 1:
        raise Refused(Failure.BAD_REQUEST, "only version 1 of TimeStampReq is supported")
    if request.extensions is not None:
        raise Refused(Failure.UNACCEPTED_EXTENSION, "no request extension is supported")
    nonce = b""
    if request.nonce is not None:
        if request.nonce.bit_length() >= 8 * MAX_NONCE_OCTETS:
            raise Refused(Failure.BAD_DATA_FORMAT, f"a nonce has at most {MAX_NONCE_OCTETS} octets")
        nonce = der.integer(request.nonce)
    policy = None if request.policy is None else request.policy.dotted_string
    return TimestampRequest(_imprint(request.message_imprint), policy, nonce, request.cert_req)


def read_imprint(encoded: bytes) -> Imprint:
    """A MessageImprint, as a token has it; raises :class:`Refused`."""
    try:
        return _imprint(asn1.decode_der(_MessageImprint, encoded))
    except ValueError:
        raise Refused(Failure.BAD_DATA_FORMAT, "not a MessageImprint") from None


_GRANTED = der.sequence(der.integer(0))
_REJECTION = der.integer(2)


def encode_granted(token: bytes) -> bytes:
    """A TimeStampResp with a token (a DER ContentInfo)."""
    return der.sequence(_GRANTED, token)


@lru_cache(maxsize=128)
def encode_refusal(failure: Failure, text: str) -> bytes:
    """A TimeStampResp without a token: status *rejection*, the text, the one failure bit."""
    octets, bit = divmod(int(failure), 8)
    bits = bytes((7 - bit,)) + bytes(octets) + bytes((0x80 >> bit,))
    free_text = der.sequence(der.tlv(0x0C, text.encode()))
    return der.sequence(der.sequence(_REJECTION, free_text, der.tlv(der.BIT_STRING, bits)))


def encode_request(
    name: ImprintHash, digest: bytes, *, nonce: int | None = None, policy: str | None = None, certificates: bool = True
) -> bytes:
    """A TimeStampReq, as a client sends it."""
    return der.sequence(
        der.integer(1),
        _prefix(_OIDS[name], SIZES[name], b"") + digest,
        b"" if policy is None else der.object_identifier(policy),
        b"" if nonce is None else der.integer(nonce),
        der.TRUE if certificates else b"",
    )
