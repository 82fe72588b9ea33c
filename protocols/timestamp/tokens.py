"""Time-stamp tokens (RFC 3161 section 2.4.2, RFC 5816): everything that does not change is encoded once.

A :class:`TokenTemplate` belongs to one key and certificate of a unit. For each token it writes a TSTInfo around the
imprint, the SignedAttributes around its digest, and, once they are signed, the ContentInfo around both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.foundation import der
from pkiserver.timestamping.unit import Chain, Precision, TimestampUnit
from protocols.cms import messages as cms
from protocols.cms import oids
from protocols.cms.algorithms import SHAKE256_512_BITS
from protocols.cms.recipients import issuer_and_serial
from protocols.cms.signing import SignerProfile, algorithm_protection, attribute, signing_time

_QC_STATEMENTS = "1.3.6.1.5.5.7.1.3"
_TIMESTAMP_STATEMENT = "0.4.0.19422.1.1"
"""esi4-qtstStatement-1 (EN 319 422 section 9.1)."""
_VERSION_1 = der.integer(1)
_OCTET_STRING, _SET = 0x04, 0x31
_DIVISORS = {Precision.SECONDS: (0, 0), Precision.MILLISECONDS: (1000, 3), Precision.MICROSECONDS: (1, 6)}
_MICROSECOND = timedelta(microseconds=1)


def _shake256(data: bytes) -> bytes:
    return hashlib.shake_256(data).digest(64)


def _digester(oid: str) -> Callable[[bytes], bytes]:
    if oid == oids.SHAKE256_LEN:
        return _shake256
    make = {oids.SHA256: hashlib.sha256, oids.SHA384: hashlib.sha384, oids.SHA512: hashlib.sha512}[oid]
    return lambda data: make(data).digest()


def encode_accuracy(accuracy: timedelta) -> bytes:
    """Accuracy (RFC 3161 section 2.4.2): seconds, milliseconds and microseconds, what is zero left out."""
    micros = accuracy // _MICROSECOND
    seconds, rest = divmod(micros, 1_000_000)
    millis, micros = divmod(rest, 1000)
    return der.sequence(
        der.integer(seconds) if seconds else b"",
        b"\x80" + der.integer(millis)[1:] if millis else b"",
        b"\x81" + der.integer(micros)[1:] if micros else b"",
    )


def _ess_certificate(certificate: bytes, hash_name: str) -> bytes:
    """ESSCertID or ESSCertIDv2 (RFC 5035 section 4) with issuerSerial; SHA-256 is v2's default and not written."""
    parsed = x509.load_der_x509_certificate(certificate)
    digest = hashlib.new(hash_name, certificate, usedforsecurity=False).digest()
    issuer = der.sequence(der.explicit(4, parsed.issuer.public_bytes()))
    return der.sequence(der.octet_string(digest), der.sequence(issuer, der.integer(parsed.serial_number)))


def signing_certificates(certificate: bytes, *, with_v1: bool) -> tuple[bytes, ...]:
    """The signing-certificate-v2 attribute and, where wanted, signing-certificate, naming the signer's certificate."""
    found = [(oids.SIGNING_CERTIFICATE_V2, "sha256")]
    if with_v1:
        found.append((oids.SIGNING_CERTIFICATE, "sha1"))
    return tuple(attribute(oid, der.sequence(der.sequence(_ess_certificate(certificate, name)))) for oid, name in found)


def sent_certificates(unit: TimestampUnit, certificate: bytes, chain: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The certificates for a client that wants them, in DER order. ``chain`` is from the issuer to the root."""
    if unit.certificates in {Chain.NEVER, Chain.UNIT}:
        return (certificate,)
    kept = [one for one in chain if unit.certificates is Chain.ROOT or not _is_self_issued(one)]
    return tuple(sorted({certificate, *kept}))


def _is_self_issued(certificate: bytes) -> bool:
    parsed = x509.load_der_x509_certificate(certificate)
    return parsed.issuer == parsed.subject


@attrs.frozen
class Signable:
    """A token that lacks its signature: the TSTInfo and the SignedAttributes (a DER SET OF) over it."""

    info: bytes
    attributes: bytes


@attrs.frozen
class _Second:
    """What only changes with the second: genTime's digits, and the SignedAttributes before and after the digest."""

    number: datetime
    digits: str
    before: bytes
    after: bytes


class TokenTemplate:
    """Makes the octets of tokens for one unit, key and certificate."""

    def __init__(self, unit: TimestampUnit, profile: SignerProfile, chain: tuple[bytes, ...]) -> None:
        certificate = profile.certificate.public_bytes(Encoding.DER)
        self._profile = profile
        self._precision = unit.precision
        self._digest = _digester(profile.digest)
        self._digest_size = len(self._digest(b""))
        self._policies = {one: _VERSION_1 + der.object_identifier(one) for one in unit.policies}
        accuracy = encode_accuracy(unit.accuracy) if unit.state_accuracy else b""
        self._after_time = accuracy + (der.TRUE if unit.ordering else b"")
        self._tail = self._tsa(unit, certificate) + self._extensions(unit)
        self._signing_time = unit.signing_time
        self._constant = [
            attribute(oids.CONTENT_TYPE, der.object_identifier(oids.TST_INFO)),
            *signing_certificates(certificate, with_v1=unit.ess_cert_id_v1),
        ]
        if unit.algorithm_protection:
            self._constant.append(algorithm_protection(profile))
        self._second: _Second | None = None
        self._frame(profile, sent_certificates(unit, certificate, chain))

    @staticmethod
    def _tsa(unit: TimestampUnit, certificate: bytes) -> bytes:
        if not unit.tsa_name:
            return b""
        name = x509.load_der_x509_certificate(certificate).subject.public_bytes()
        return der.explicit(0, der.explicit(4, name))

    @staticmethod
    def _extensions(unit: TimestampUnit) -> bytes:
        if not unit.qualified:
            return b""
        statement = der.sequence(der.sequence(der.object_identifier(_TIMESTAMP_STATEMENT)))
        return der.explicit(1, der.extension(_QC_STATEMENTS, statement))

    def _frame(self, profile: SignerProfile, certificates: tuple[bytes, ...]) -> None:
        """What stands around TSTInfo, attributes and signature."""
        parameters = SHAKE256_512_BITS if profile.digest == oids.SHAKE256_LEN else None
        digest = cms.octets(cms.algorithm(profile.digest, parameters))
        self._signed_data = der.object_identifier(oids.SIGNED_DATA)
        self._head = der.integer(3) + der.tlv(_SET, digest)
        self._content_type = der.object_identifier(oids.TST_INFO)
        self._certificates = {False: b"", True: der.explicit(0, b"".join(certificates))}
        self._signer = _VERSION_1 + cms.octets(issuer_and_serial(profile.certificate)) + digest
        self._algorithm = profile.signature_algorithm

    def _now(self, moment: datetime) -> _Second:
        number = moment.replace(microsecond=0)
        current = self._second
        if current is not None and current.number == number:
            return current
        digest = attribute(oids.MESSAGE_DIGEST, der.octet_string(bytes(self._digest_size)))
        found = [*self._constant, digest]
        if self._signing_time:
            found.append(signing_time(number))
        found.sort()
        whole = der.tlv(_SET, *found)
        end = len(whole) - sum(map(len, found[found.index(digest) + 1 :]))
        digits = number.strftime("%Y%m%d%H%M%S")
        self._second = _Second(number, digits, whole[: end - self._digest_size], whole[end:])
        return self._second

    def signable(self, policy: str, imprint: bytes, serial: bytes, moment: datetime, nonce: bytes) -> Signable:
        """TSTInfo and SignedAttributes.

        Args:
            policy: One of the unit's policies.
            imprint: The request's MessageImprint, DER.
            serial: Content octets of the serial number.
            moment: genTime, aware UTC.
            nonce: The request's nonce as DER INTEGER, or nothing.
        """
        second = self._now(moment)
        divisor, digits = _DIVISORS[self._precision]
        fraction = f".{moment.microsecond // divisor:0{digits}d}".rstrip("0").rstrip(".") if divisor else ""
        time = f"{second.digits}{fraction}Z".encode()
        info = der.sequence(
            self._policies[policy],
            imprint,
            bytes((der.INTEGER, len(serial))),
            serial,
            bytes((der.GENERALIZED_TIME, len(time))),
            time,
            self._after_time,
            nonce,
            self._tail,
        )
        return Signable(info, second.before + self._digest(info) + second.after)

    def token(self, signed: Signable, signature: bytes, *, certificates: bool) -> bytes:
        """The DER ContentInfo."""
        info, attributes = signed.info, signed.attributes
        signer = der.tlv(
            der.SEQUENCE,
            self._signer,
            b"\xa0",
            attributes[1:],
            self._algorithm,
            der.header(_OCTET_STRING, len(signature)),
            signature,
        )
        data = der.sequence(
            self._head,
            der.sequence(self._content_type, der.explicit(0, der.octet_string(info))),
            self._certificates[certificates],
            der.tlv(_SET, signer),
        )
        return der.sequence(self._signed_data, der.explicit(0, data))
