"""Reading SignedData (RFC 5652 section 5), in BER or DER, and checking its signatures.

Parsing says what is there; :func:`verify` checks one signer against a certificate that the caller has found and trusts
for reasons of its own.
"""

from __future__ import annotations

import hmac

import attrs
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509 import ObjectIdentifier

from pkiserver.foundation.der import SET, tlv
from pkiserver.foundation.errors import Refusal, Rejected
from protocols.cms import messages, oids
from protocols.cms.algorithms import NO_LEGACY, SHAKE256_512_BITS, LegacyDigests, digest, verify_signature
from protocols.cms.ber import DEFAULT_LIMITS, BerLimits, children, malformed, only_child, to_der
from protocols.cms.recipients import names_issuer, subject_key_identifier

_SEQUENCE, _SET = b"\x30", b"\x31"
_MAX_SIGNERS = 16


@attrs.frozen
class Attributes:
    """Attributes as (dotted OID, DER values) pairs, in the order in which they were sent."""

    items: tuple[tuple[str, tuple[bytes, ...]], ...] = ()

    def values(self, oid: str) -> tuple[bytes, ...]:
        """The DER values of the attribute, empty where it is absent. Raises :class:`Rejected` if it is there twice."""
        found = [values for name, values in self.items if name == oid]
        if len(found) > 1:
            raise malformed(f"attribute {oid} appears more than once")
        return found[0] if found else ()

    def single(self, oid: str) -> bytes | None:
        """The one DER value of the attribute, or None. Raises :class:`Rejected` if there is not exactly one value."""
        values = self.values(oid)
        if len(values) > 1 or (not values and any(name == oid for name, _ in self.items)):
            raise malformed(f"attribute {oid} must have exactly one value")
        return values[0] if values else None


@attrs.frozen
class Signer:
    """One SignerInfo. Exactly one of ``key_identifier`` and ``issuer``/``serial`` names the signer."""

    issuer: bytes | None
    serial: int | None
    key_identifier: bytes | None
    digest: str
    signed: Attributes
    unsigned: Attributes
    signature_algorithm: messages.AlgorithmIdentifier
    signature: bytes = attrs.field(repr=False)
    signed_octets: bytes | None = attrs.field(repr=False)

    def is_signed_by(self, certificate: x509.Certificate) -> bool:
        """Whether ``certificate`` is the one that the SignerInfo names (which proves nothing yet)."""
        if self.key_identifier is not None:
            return subject_key_identifier(certificate) == self.key_identifier
        return (
            certificate.serial_number == self.serial
            and self.issuer is not None
            and names_issuer(self.issuer, certificate)
        )


@attrs.frozen
class SignedMessage:
    """A parsed SignedData; ``content`` is None where it travels beside the message."""

    content_type: str
    content: bytes | None = attrs.field(repr=False)
    certificates: tuple[bytes, ...] = attrs.field(repr=False)
    crls: tuple[bytes, ...] = attrs.field(repr=False)
    signers: tuple[Signer, ...]

    def only_signer(self) -> Signer:
        """The signer of a message that must have exactly one. Raises :class:`Rejected` (malformed) otherwise."""
        if len(self.signers) != 1:
            raise malformed("the message must have exactly one signer")
        return self.signers[0]


def parse_signed(data: bytes, limits: BerLimits = DEFAULT_LIMITS) -> SignedMessage:
    """Read a ContentInfo with SignedData.

    Raises:
        Rejected: not a SignedData, or over a limit.
    """
    info = messages.decode(messages.ContentInfo, to_der(data, limits), "CMS ContentInfo")
    if info.content_type.dotted_string != oids.SIGNED_DATA:
        raise malformed("not a CMS SignedData")
    signed = messages.decode(messages.SignedData, messages.octets(info.content), "CMS SignedData")
    infos = list(children(_set_content(signed.signer_infos)))
    if len(infos) > _MAX_SIGNERS:
        raise Rejected.because(Refusal.LIMIT, "the message has too many signers")
    return SignedMessage(
        content_type=signed.encap_content_info.content_type.dotted_string,
        content=signed.encap_content_info.content,
        certificates=tuple(messages.octets(item) for item in signed.certificates or () if item.tag_bytes == _SEQUENCE),
        crls=tuple(messages.octets(item) for item in signed.crls or () if item.tag_bytes == _SEQUENCE),
        signers=tuple(_signer(item.whole) for item in infos),
    )


def verify(
    message: SignedMessage,
    signer: Signer,
    public_key: CertificatePublicKeyTypes,
    *,
    detached: bytes | None = None,
    legacy: LegacyDigests = NO_LEGACY,
) -> None:
    """Check that ``public_key`` signed this content with these attributes.

    Args:
        message: the parsed message.
        signer: one of its signers.
        public_key: the key to check against; the caller has decided that it is the right one.
        detached: the content, where it is not in the message.
        legacy: which old digests are allowed.

    Raises:
        Rejected: bad proof of possession where digest, content type or signature do not fit; bad algorithm; malformed.
    """
    content = message.content if message.content is not None else detached
    if content is None:
        raise malformed("the signed content is missing")
    covered: tuple[bytes, ...] = (content,)
    if signer.signed_octets is not None:
        _check_attributes(message, signer, digest(signer.digest, content, legacy))
        covered = _encodings(signer.signed_octets)
    elif message.content_type != oids.DATA:
        raise malformed("signed attributes are missing")
    if len(covered) > 1 and _fits(signer, public_key, covered[0], legacy):
        return
    _verify(signer, public_key, covered[-1], legacy)


def _verify(signer: Signer, public_key: CertificatePublicKeyTypes, data: bytes, legacy: LegacyDigests) -> None:
    """The signature alone."""
    verify_signature(
        public_key, signer.signature_algorithm, signer.signature, data, digest_oid=signer.digest, legacy=legacy
    )


def _fits(signer: Signer, public_key: CertificatePublicKeyTypes, data: bytes, legacy: LegacyDigests) -> bool:
    """Whether the signature is one over ``data``."""
    try:
        _verify(signer, public_key, data, legacy)
    except Rejected as refused:
        if refused.has(Refusal.BAD_PROOF):
            return False
        raise
    return True


def _check_attributes(message: SignedMessage, signer: Signer, actual: bytes) -> None:
    """content-type, message-digest and, where present, algorithm protection say what the message says."""
    content_type = signer.signed.single(oids.CONTENT_TYPE)
    if content_type is None or content_type != messages.octets(ObjectIdentifier(message.content_type)):
        raise Rejected.because(Refusal.BAD_PROOF, "the signed content type is not that of the message")
    claimed = messages.decode(bytes, signer.signed.single(oids.MESSAGE_DIGEST) or b"", "message-digest attribute")
    if not hmac.compare_digest(claimed, actual):
        raise Rejected.because(Refusal.BAD_PROOF, "the message digest does not fit the content")
    protection = signer.signed.single(oids.ALGORITHM_PROTECTION)
    if protection is not None:
        named = list(children(only_child(protection).content))
        algorithms = [
            messages.decode(messages.AlgorithmIdentifier, b"\x30" + item.whole[1:], "algorithm") for item in named[:2]
        ]
        expected = [signer.digest, signer.signature_algorithm.algorithm.dotted_string]
        if [item.algorithm.dotted_string for item in algorithms] != expected:
            raise Rejected.because(Refusal.BAD_PROOF, "the signed algorithms are not those of the message")


def _encodings(content: bytes) -> tuple[bytes, ...]:
    """What the signature may cover: the SET OF as it was sent, and in DER order where that differs.

    RFC 5652 section 5.4 wants the DER encoding signed; signers exist that sign what they send.
    """
    as_sent = tlv(SET, content)
    ordered = messages.set_of(item.whole for item in children(content))
    return (as_sent,) if ordered == as_sent else (as_sent, ordered)


def _signer(der: bytes) -> Signer:
    """One SignerInfo."""
    info = messages.decode(messages.SignerInfo, der, "SignerInfo")
    digest_oid = info.digest_algorithm.algorithm.dotted_string
    if digest_oid == oids.SHAKE256_LEN and messages.parameters_of(info.digest_algorithm) != SHAKE256_512_BITS:
        raise Rejected.because(Refusal.BAD_ALGORITHM, "SHAKE256 with another length than 512 bits is not accepted")
    by_name = isinstance(info.sid, messages.IssuerAndSerialNumber)
    signed = None if info.signed_attrs is None else b"".join(messages.octets(item) for item in info.signed_attrs)
    return Signer(
        issuer=messages.octets(info.sid.issuer) if isinstance(info.sid, messages.IssuerAndSerialNumber) else None,
        serial=info.sid.serial_number if isinstance(info.sid, messages.IssuerAndSerialNumber) else None,
        key_identifier=None if by_name or not isinstance(info.sid, bytes) else info.sid,
        digest=digest_oid,
        signed=parse_attributes(signed or b""),
        unsigned=parse_attributes(b"".join(messages.octets(item) for item in info.unsigned_attrs or ())),
        signature_algorithm=info.signature_algorithm,
        signature=info.signature,
        signed_octets=signed,
    )


def parse_attributes(content: bytes) -> Attributes:
    """The Attributes whose DER encodings lie side by side in ``content``."""
    items = []
    for element in children(content):
        parsed = messages.decode(messages.Attribute, element.whole, "Attribute")
        values = tuple(value.whole for value in children(_set_content(parsed.values)))
        items.append((parsed.attr_type.dotted_string, values))
    return Attributes(tuple(items))


def _set_content(value: asn1.TLV) -> bytes:
    """The content of a universal SET. Raises :class:`Rejected` for anything else."""
    if value.tag_bytes != _SET:
        raise malformed("expected an ASN.1 SET")
    return bytes(value.data)
