"""Reading a time-stamp token and checking it against the data, its signer's certificate and trusted roots."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.timestamping.unit import ImprintHash
from protocols.cms import oids
from protocols.cms.algorithms import LegacyDigests
from protocols.cms.algorithms import digest as cms_digest
from protocols.cms.messages import AlgorithmIdentifier
from protocols.cms.verification import SignedMessage, Signer, parse_signed, verify
from protocols.timestamp.messages import HASH_NAMES, Imprint, Refused, read_imprint

_TIME = re.compile(rb"(\d{14})(?:\.(\d{1,6}))?Z")
_LONGEST_CHAIN = 8


@asn1.sequence
class _Accuracy:
    seconds: int | None
    millis: Annotated[int | None, asn1.Implicit(0)]
    micros: Annotated[int | None, asn1.Implicit(1)]


@asn1.sequence
class _Anything:
    value: asn1.TLV


@asn1.sequence
class _Extension:
    oid: x509.ObjectIdentifier
    critical: Annotated[bool, asn1.Default(False)]
    value: bytes


@asn1.sequence
class _TstInfo:
    version: int
    policy: x509.ObjectIdentifier
    imprint: asn1.TLV
    serial: int
    time: asn1.TLV
    accuracy: _Accuracy | None
    ordering: Annotated[bool, asn1.Default(False)]
    nonce: int | None
    tsa: Annotated[_Anything | None, asn1.Implicit(0)]
    extensions: Annotated[list[_Extension] | None, asn1.Implicit(1)]


@asn1.sequence
class _StatusInfo:
    status: int
    text: list[str] | None
    failure: asn1.BitString | None


@asn1.sequence
class _Granted:
    status: _StatusInfo
    token: asn1.TLV


@asn1.sequence
class _Refusal:
    status: _StatusInfo


@asn1.sequence
class _IssuerSerial:
    issuer: asn1.TLV
    serial: int


@asn1.sequence
class _CertificateId:
    """ESSCertID and ESSCertIDv2 (RFC 5035): the hash algorithm is v2's, SHA-256 where it is absent."""

    hash_algorithm: AlgorithmIdentifier | None
    digest: bytes
    issuer_serial: _IssuerSerial | None


@asn1.sequence
class _SigningCertificate:
    certificates: list[_CertificateId]
    policies: asn1.TLV | asn1.Null | None


@attrs.frozen
class Token:
    """What a token says. ``accuracy`` is None where it is not stated; ``extensions`` are their OIDs."""

    policy: str
    imprint: Imprint
    serial: int
    at: datetime
    accuracy: timedelta | None
    ordering: bool
    nonce: int | None
    extensions: tuple[str, ...]
    message: SignedMessage = attrs.field(repr=False)
    signer: Signer = attrs.field(repr=False)


def _malformed(text: str) -> Rejected:
    return Rejected.because(Refusal.MALFORMED, text)


def read_token(data: bytes) -> Token:
    """Read a TimeStampToken, or the TimeStampResp around one.

    Raises:
        Rejected: it is neither, or the answer says that there is no token.
    """
    message = parse_signed(_unwrap(data))
    if message.content_type != oids.TST_INFO or message.content is None:
        raise _malformed("the signed content is not a TSTInfo")
    try:
        info = asn1.decode_der(_TstInfo, message.content)
        imprint = read_imprint(asn1.encode_der(info.imprint))
    except (ValueError, Refused) as error:
        raise _malformed(f"not a TSTInfo: {error}") from error
    if info.version != 1:
        raise _malformed("not version 1 of TSTInfo")
    return Token(
        policy=info.policy.dotted_string,
        imprint=imprint,
        serial=info.serial,
        at=_time(bytes(info.time.data)),
        accuracy=None if info.accuracy is None else _accuracy(info.accuracy),
        ordering=info.ordering,
        nonce=info.nonce,
        extensions=tuple(one.oid.dotted_string for one in info.extensions or ()),
        message=message,
        signer=message.only_signer(),
    )


def _unwrap(data: bytes) -> bytes:
    try:
        return asn1.encode_der(asn1.decode_der(_Granted, data).token)
    except ValueError:
        pass
    try:
        status = asn1.decode_der(_Refusal, data).status
    except ValueError:
        return data
    said = "; ".join(status.text or ()) or f"status {status.status}"
    raise _malformed(f"the answer holds no token: {said}")


def _time(octets: bytes) -> datetime:
    match = _TIME.fullmatch(octets)
    if match is None or (match[2] is not None and match[2].endswith(b"0")):
        raise _malformed("genTime is not as RFC 3161 wants it")
    try:
        moment = datetime.strptime(match[1].decode(), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError as error:
        raise _malformed("genTime is no time") from error
    return moment + timedelta(microseconds=int((match[2] or b"0").ljust(6, b"0")))


def _accuracy(found: _Accuracy) -> timedelta:
    return timedelta(seconds=found.seconds or 0, milliseconds=found.millis or 0, microseconds=found.micros or 0)


@attrs.frozen
class Verified:
    """A token that holds: who signed it and the path to the root, leaf first."""

    token: Token
    path: tuple[x509.Certificate, ...]


def digest_of(name: str, chunks: Iterable[bytes]) -> bytes:
    """The digest of data by a hash that an imprint names."""
    digest = hashlib.new(HASH_NAMES[ImprintHash(name)], usedforsecurity=False)
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()


def verify_token(
    token: Token,
    digest: bytes,
    *,
    roots: Sequence[x509.Certificate],
    helpers: Sequence[x509.Certificate] = (),
    nonce: int | None = None,
) -> Verified:
    """Check a token (RFC 3161 section 2.2, RFC 5816 section 2.2).

    Args:
        token: From :func:`read_token`.
        digest: Of the data, by the imprint's hash.
        roots: Trusted certificates.
        helpers: Certificates that the token may lack; not trusted.
        nonce: What the request had, if that is known.

    Raises:
        Rejected: with everything that is wrong.
    """
    reasons: list[Reason] = []

    def wrong(code: Refusal, text: str) -> None:
        reasons.append(Reason(code, text))

    if not hmac.compare_digest(token.imprint.digest, digest):
        wrong(Refusal.BAD_PROOF, "the token is about other data")
    if nonce is not None and token.nonce != nonce:
        wrong(Refusal.BAD_PROOF, "the nonce is not the request's")
    certificates = [x509.load_der_x509_certificate(one) for one in token.message.certificates]
    known = [*certificates, *helpers, *roots]
    leaf = next((one for one in known if token.signer.is_signed_by(one)), None)
    if leaf is None:
        wrong(Refusal.UNKNOWN_CERTIFICATE, "the signer's certificate is not there: give it as well")
        raise Rejected(reasons)
    for text in _leaf_problems(token, leaf):
        wrong(Refusal.BAD_EXTENSION, text)
    try:
        verify(token.message, token.signer, leaf.public_key())
    except Rejected as error:
        reasons += error.reasons
    path: tuple[x509.Certificate, ...] = ()
    try:
        path = _path(leaf, known, roots, token.at)
    except Rejected as error:
        reasons += error.reasons
    if reasons:
        raise Rejected(reasons)
    return Verified(token, path)


def _leaf_problems(token: Token, leaf: x509.Certificate) -> Iterable[str]:
    """What is wrong with the signer's certificate, and with how the token names it (RFC 5035)."""
    usage = next((one for one in leaf.extensions if isinstance(one.value, x509.ExtendedKeyUsage)), None)
    if usage is None or not usage.critical or list(usage.value) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        yield "the signer's certificate is not for time-stamping alone, critically"
    period = next((one.value for one in leaf.extensions if isinstance(one.value, x509.PrivateKeyUsagePeriod)), None)
    if period is not None and period.not_after is not None and token.at >= _utc(period.not_after):
        yield "the signer's key was past its usage period"
    named = token.signer.signed.single(oids.SIGNING_CERTIFICATE_V2)
    old = token.signer.signed.single(oids.SIGNING_CERTIFICATE)
    if named is None and old is None:
        yield "the token does not say which certificate signed it"
    for attribute, default in ((named, oids.SHA256), (old, oids.SHA1)):
        if attribute is not None and not _names(attribute, default, leaf):
            yield "the signing-certificate attribute names another certificate"


def _names(attribute: bytes, default: str, leaf: x509.Certificate) -> bool:
    """Whether the first certificate of a signing-certificate attribute is ``leaf``."""
    try:
        found = asn1.decode_der(_SigningCertificate, attribute).certificates
    except ValueError:
        return False
    if not found:
        return False
    first = found[0]
    oid = default if first.hash_algorithm is None else first.hash_algorithm.algorithm.dotted_string
    serial = first.issuer_serial
    if serial is not None and serial.serial != leaf.serial_number:
        return False
    try:
        expected = cms_digest(oid, leaf.public_bytes(Encoding.DER), LegacyDigests(sha1=default == oids.SHA1))
    except Rejected:
        return False
    return hmac.compare_digest(expected, first.digest)


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _path(
    leaf: x509.Certificate, known: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], at: datetime
) -> tuple[x509.Certificate, ...]:
    """Leaf to root, each valid at that time and signed by the next."""
    path = [leaf]
    while True:
        last = path[-1]
        if not last.not_valid_before_utc <= at <= last.not_valid_after_utc:
            raise Rejected.because(Refusal.BAD_VALIDITY, f"{_name(last)} was not valid at the token's time")
        if last in roots:
            return tuple(path)
        issuer = next((one for one in known if one not in path and _issued(one, last)), None)
        if issuer is None or len(path) >= _LONGEST_CHAIN:
            text = f"the chain ends at {_name(last)}, which is not trusted"
            raise Rejected.because(Refusal.UNKNOWN_AUTHORITY, text)
        path.append(issuer)


def _issued(issuer: x509.Certificate, issued: x509.Certificate) -> bool:
    if issuer.subject != issued.issuer:
        return False
    constraints = next((one.value for one in issuer.extensions if isinstance(one.value, x509.BasicConstraints)), None)
    if constraints is None or not constraints.ca:
        return False
    try:
        issued.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()
