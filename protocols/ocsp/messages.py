"""OCSP on the wire (RFC 6960, RFC 9654, RFC 9919): octets to frozen values and back.

Requests are decoded by declared types in one pass, whatever number of single requests they carry; the caller caps the
size first. Answers are written octet by octet around the CertID as the client sent it, so that it finds its own
identifier again whatever its hash parameters look like.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Annotated

import attrs
from cryptography import x509
from cryptography.hazmat import asn1

from pkiserver.foundation import der

NONCE = "1.3.6.1.5.5.7.48.1.2"
BASIC = "1.3.6.1.5.5.7.48.1.1"
CRL_REFERENCE = "1.3.6.1.5.5.7.48.1.3"
PREFERRED_ALGORITHMS = "1.3.6.1.5.5.7.48.1.8"
ARCHIVE_CUTOFF = "1.3.6.1.5.5.7.48.1.6"
EXTENDED_REVOKE = "1.3.6.1.5.5.7.48.1.9"
INVALIDITY_DATE = "2.5.29.24"

NONCE_OCTETS = range(1, 129)
"""RFC 9654 section 2.1: a nonce has 1 to 128 octets."""
MAX_SINGLE_REQUESTS = 64
"""No setting allows more certificates in one request."""
_KNOWN_CERT_ID = 192
"""Octets of the longest CertID that is remembered: SHA-512 and a serial number of 20 octets have 169."""
MAX_PREFERENCES = 16
"""Preferred algorithms beyond these are not looked at."""

HASH_OIDS = {
    "1.3.14.3.2.26": ("sha1", 20),
    "2.16.840.1.101.3.4.2.1": ("sha256", 32),
    "2.16.840.1.101.3.4.2.2": ("sha384", 48),
    "2.16.840.1.101.3.4.2.3": ("sha512", 64),
}
"""Hashes a CertID may use: OID to hashlib name and octets."""


class MalformedRequest(ValueError):
    """Not an OCSPRequest as RFC 6960 section 4.1 defines it. The text is for the log, not for the client."""


@asn1.sequence
class _AlgorithmIdentifier:
    algorithm: x509.ObjectIdentifier
    parameters: asn1.Null | None


@asn1.sequence
class _CertId:
    hash_algorithm: _AlgorithmIdentifier
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial_number: int


@asn1.sequence
class _Extension:
    oid: x509.ObjectIdentifier
    critical: Annotated[bool, asn1.Default(False)]
    value: bytes


@asn1.sequence
class _Anything:
    """One element of any kind: an ``[n] EXPLICIT`` is on the wire what an implicitly tagged SEQUENCE of one is."""

    value: asn1.TLV


@asn1.sequence
class _Preferences:
    wishes: list[list[asn1.TLV]]


@asn1.sequence
class _Request:
    cert_id: asn1.TLV
    extensions: Annotated[list[_Extension] | None, asn1.Explicit(0)]


@asn1.sequence
class _TbsRequest:
    version: Annotated[int, asn1.Explicit(0), asn1.Default(0)]
    requestor_name: Annotated[_Anything | None, asn1.Implicit(1)]
    requests: Annotated[list[_Request], asn1.Size(min=1, max=MAX_SINGLE_REQUESTS)]
    extensions: Annotated[list[_Extension] | None, asn1.Explicit(2)]


@asn1.sequence
class _OcspRequest:
    tbs: _TbsRequest
    signature: Annotated[_Anything | None, asn1.Implicit(0)]


@attrs.frozen
class CertId:
    """Which certificate is asked about (RFC 6960 section 4.1.1).

    ``hash_name`` is hashlib's name, or None for a hash nobody here knows; ``encoded`` the whole CertID as it came.
    """

    hash_name: str | None
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial: int
    encoded: bytes


@attrs.frozen
class Preference:
    """A signature algorithm that a client prefers, DER AlgorithmIdentifier, and for what kind of key, if it says so."""

    algorithm: bytes
    key_algorithm: bytes | None


@attrs.frozen
class OcspRequest:
    """A decoded request: what it asks about, in order, its nonce if it has one, and what signatures it prefers."""

    certificates: tuple[CertId, ...]
    nonce: bytes | None
    preferences: tuple[Preference, ...] = ()


_UNDERSTOOD = frozenset((NONCE, PREFERRED_ALGORITHMS))


def _extensions(found: list[_Extension] | None, understood: frozenset[str]) -> dict[str, bytes]:
    values: dict[str, bytes] = {}
    for extension in found or ():
        oid = extension.oid.dotted_string
        if oid in values:
            raise MalformedRequest(f"extension {oid} appears twice")
        if extension.critical and oid not in understood:
            raise MalformedRequest(f"critical extension {oid} is not understood")
        values[oid] = extension.value
    return values


def _nonce(value: bytes | None) -> bytes | None:
    if value is None:
        return None
    try:
        nonce = asn1.decode_der(bytes, value)
    except ValueError as error:
        raise MalformedRequest("the nonce is not an OCTET STRING") from error
    if len(nonce) not in NONCE_OCTETS:
        raise MalformedRequest("the nonce does not have 1 to 128 octets")
    return nonce


def _preferences(value: bytes | None) -> tuple[Preference, ...]:
    if value is None:
        return ()
    try:
        found = asn1.decode_der(_Preferences, der.sequence(value)).wishes
    except ValueError as error:
        raise MalformedRequest("not PreferredSignatureAlgorithms") from error
    if any(len(one) not in {1, 2} or any(part.tag_bytes != b"\x30" for part in one) for one in found):
        raise MalformedRequest("not PreferredSignatureAlgorithms")
    wishes = ([der.sequence(bytes(part.data)) for part in one] for one in found[:MAX_PREFERENCES])
    return tuple(Preference(wish[0], wish[1] if len(wish) > 1 else None) for wish in wishes)


def _cert_id(content: bytes) -> CertId:
    """A CertID from the octets of its SEQUENCE; clients ask about the same certificates again and again."""
    return _known_cert_id(content) if len(content) <= _KNOWN_CERT_ID else _read_cert_id(content)


@lru_cache(maxsize=20_000)
def _known_cert_id(content: bytes) -> CertId:
    return _read_cert_id(content)


def _read_cert_id(content: bytes) -> CertId:
    encoded = der.sequence(content)
    try:
        parsed = asn1.decode_der(_CertId, encoded)
    except ValueError as error:
        raise MalformedRequest("not a CertID") from error
    name, octets = HASH_OIDS.get(parsed.hash_algorithm.algorithm.dotted_string, (None, 0))
    if name is not None and not len(parsed.issuer_name_hash) == len(parsed.issuer_key_hash) == octets:
        raise MalformedRequest(f"a {name} hash has {octets} octets")
    return CertId(
        hash_name=name,
        issuer_name_hash=parsed.issuer_name_hash,
        issuer_key_hash=parsed.issuer_key_hash,
        serial=parsed.serial_number,
        encoded=encoded,
    )


def decode_request(data: bytes, *, max_requests: int = MAX_SINGLE_REQUESTS) -> OcspRequest:
    """Decode a DER OCSPRequest (RFC 6960 section 4.1).

    A requestor name and a signature are accepted and not looked at (RFC 9919 section 3.1.2).

    Raises:
        MalformedRequest: Not DER, not an OCSPRequest, more than ``max_requests`` certificates, a bad nonce, an
            extension twice or one that is critical and unknown.
    """
    try:
        request = asn1.decode_der(_OcspRequest, data)
    except ValueError as error:
        raise MalformedRequest("not an OCSPRequest") from error
    tbs = request.tbs
    if tbs.version != 0:
        raise MalformedRequest("not version 1")
    if len(tbs.requests) > max_requests:
        raise MalformedRequest("too many certificates in one request")
    extensions = _extensions(tbs.extensions, _UNDERSTOOD) if tbs.extensions else {}
    found = []
    for single in tbs.requests:
        if single.extensions:
            _extensions(single.extensions, frozenset())
        if single.cert_id.tag_bytes != b"\x30":
            raise MalformedRequest("not a CertID")
        found.append(_cert_id(bytes(single.cert_id.data)))
    return OcspRequest(
        certificates=tuple(found),
        nonce=_nonce(extensions.get(NONCE)),
        preferences=_preferences(extensions.get(PREFERRED_ALGORITHMS)),
    )


class ResponseStatus(enum.IntEnum):
    """OCSPResponseStatus (RFC 6960 section 4.2.1)."""

    SUCCESSFUL = 0
    MALFORMED_REQUEST = 1
    INTERNAL_ERROR = 2
    TRY_LATER = 3
    SIG_REQUIRED = 5
    UNAUTHORIZED = 6


@attrs.frozen
class Good:
    """Issued and not revoked."""


@attrs.frozen
class Revoked:
    """Revoked for good or on hold; ``reason`` is the CRLReason number, 0 is not written."""

    at: datetime
    reason: int


@attrs.frozen
class Unknown:
    """Not a certificate this responder knows."""


CertStatus = Good | Revoked | Unknown


def by_key(key_hash: bytes) -> bytes:
    """A ResponderID naming a key; ``key_hash`` is the SHA-1 of its subjectPublicKey bits."""
    return der.explicit(2, der.octet_string(key_hash))


def by_name(name: bytes) -> bytes:
    """A ResponderID naming a subject; ``name`` is a DER Name."""
    return der.explicit(1, name)


GOOD, UNKNOWN = Good(), Unknown()
_GOOD = b"\x80\x00"
_UNKNOWN = b"\x82\x00"


def _status(status: CertStatus) -> bytes:
    if isinstance(status, Good):
        return _GOOD
    if isinstance(status, Unknown):
        return _UNKNOWN
    why = der.explicit(0, der.enumerated(status.reason)) if status.reason else b""
    return der.tlv(0xA1, der.generalized_time(status.at), why)


def times(this_update: datetime, next_update: datetime) -> bytes:
    """The thisUpdate and nextUpdate of a SingleResponse."""
    return der.generalized_time(this_update) + der.explicit(0, der.generalized_time(next_update))


def single_response(cert_id: bytes, status: CertStatus, period: bytes, extensions: Sequence[bytes] = ()) -> bytes:
    """What is said of one certificate (RFC 6960 section 4.2.1).

    Args:
        cert_id: The request's encoding.
        status: The status.
        period: As made by :func:`times`.
        extensions: Whole Extensions.
    """
    more = der.explicit(1, der.sequence(*extensions)) if extensions else b""
    return der.sequence(cert_id, _status(status), period, more)


def opening(responder_id: bytes, produced_at: datetime) -> bytes:
    """What ResponseData begin with; ``responder_id`` is an encoded ResponderID, see :func:`by_key`, :func:`by_name`."""
    return responder_id + der.generalized_time(produced_at)


@lru_cache(maxsize=256)
def _before_nonce(octets: int) -> bytes:
    """What precedes a nonce of so many octets that is the only responseExtension."""
    whole = der.explicit(1, der.sequence(der.extension(NONCE, der.octet_string(bytes(octets)))))
    return whole[: len(whole) - octets]


def _response_extensions(nonce: bytes | None, extensions: Sequence[bytes]) -> bytes:
    if nonce is None:
        return der.explicit(1, der.sequence(*extensions)) if extensions else b""
    if not extensions:
        return _before_nonce(len(nonce)) + nonce
    return der.explicit(1, der.sequence(der.extension(NONCE, der.octet_string(nonce)), *extensions))


def response_data(
    begin: bytes, answers: Sequence[bytes], nonce: bytes | None = None, extensions: Sequence[bytes] = ()
) -> bytes:
    """The DER ResponseData (RFC 6960 section 4.2.1): the octets to be signed.

    Args:
        begin: As made by :func:`opening`.
        answers: As made by :func:`single_response`.
        nonce: The request's, where it is answered.
        extensions: Further responseExtensions, whole.
    """
    return der.sequence(begin, der.sequence(*answers), _response_extensions(nonce, extensions))


def crl_reference(url: str, number: int, moment: datetime) -> bytes:
    """The Extension that names the list a certificate is on (RFC 6960 section 4.4.2); an empty ``url`` is left out."""
    where = der.explicit(0, der.tlv(0x16, url.encode("ascii"))) if url else b""
    what = der.explicit(1, der.integer(number)), der.explicit(2, der.generalized_time(moment))
    return der.extension(CRL_REFERENCE, der.sequence(where, *what))


def archive_cutoff(moment: datetime) -> bytes:
    """The Extension that says how far back expired certificates keep their status (RFC 6960 section 4.4.4)."""
    return der.extension(ARCHIVE_CUTOFF, der.generalized_time(moment))


def invalidity_date(moment: datetime) -> bytes:
    """The Extension that says since when a key is suspected (RFC 5280 section 5.3.2, RFC 6960 section 4.4.5)."""
    return der.extension(INVALIDITY_DATE, der.generalized_time(moment))


EXTENDED_REVOKE_EXTENSION = der.extension(EXTENDED_REVOKE, b"\x05\x00")
"""The Extension of answers that call a certificate revoked which was never issued (RFC 6960 section 4.4.8)."""

_BASIC = der.object_identifier(BASIC)
_SUCCESSFUL = der.enumerated(ResponseStatus.SUCCESSFUL)


@lru_cache(maxsize=1024)
def _before_basic(length: int) -> bytes:
    """What precedes a BasicOCSPResponse of so many octets, which is the end of its OCSPResponse."""
    inner = _BASIC + der.header(der.OCTET_STRING, length)
    for tag, before in ((der.SEQUENCE, b""), (der.context(0), _SUCCESSFUL), (der.SEQUENCE, b"")):
        inner = before + der.header(tag, len(inner) + length) + inner
    return inner


def encode_response(basic_response: bytes) -> bytes:
    """A successful OCSPResponse around a DER BasicOCSPResponse."""
    return _before_basic(len(basic_response)) + basic_response


def encode_error(status: ResponseStatus) -> bytes:
    """An OCSPResponse that says only why there is no answer; it is never signed (RFC 6960 section 2.3)."""
    return der.sequence(der.enumerated(status))
