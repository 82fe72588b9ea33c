"""Building SignedData (RFC 5652 section 5) with signed attributes, through a typed door of the key room.

:func:`prepare` and :meth:`Unsigned.finish` do no I/O; :func:`sign` awaits the door between them. Everything is strict
DER with every SET OF sorted, the certificates too, because strict verifiers of time-stamp tokens reject anything else.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

import attrs
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.x509 import ObjectIdentifier

from pkiserver.foundation.der import sequence
from pkiserver.keys.algorithms import Padding, SignatureScheme
from protocols.cms import messages, oids
from protocols.cms.algorithms import SHAKE256_512_BITS, digest
from protocols.cms.ber import children, only_child
from protocols.cms.recipients import issuer_and_serial

_UTC_TIME_YEARS = range(1950, 2050)


class AttributeSigner(Protocol):
    """A door that signs the signed attributes of one content type and nothing else."""

    async def sign_attributes(self, signed_attributes: bytes, scheme: SignatureScheme) -> bytes:
        """The signature over the DER SET OF Attribute; raises what the door raises, WrongDoor and Unavailable first."""


_HASH_OIDS = {"sha256": oids.SHA256, "sha384": oids.SHA384, "sha512": oids.SHA512}


@attrs.frozen
class SignerProfile:
    """What a SignerInfo says about its signer.

    ``plain_rsa`` writes rsaEncryption as the signature algorithm, which some receivers want and which names the same
    PKCS#1 v1.5 signature. ``by_key_identifier`` gives the SKI to name the signer by, else issuer and serial do.
    """

    certificate: x509.Certificate
    scheme: SignatureScheme
    plain_rsa: bool = False
    by_key_identifier: bytes | None = None

    @property
    def digest(self) -> str:
        """OID of the message digest: the scheme's hash; SHA-512 where it takes the message whole.

        RFC 8419 section 3.1 and RFC 9882 section 3.3; Ed448 goes with SHAKE256 of 512 bits.
        """
        if self.scheme.hash_name is not None:
            return _HASH_OIDS[self.scheme.hash_name]
        return oids.SHAKE256_LEN if self.scheme.name == "ed448" else oids.SHA512

    @property
    def signature_algorithm(self) -> bytes:
        """The DER AlgorithmIdentifier of the SignerInfo."""
        if self.plain_rsa and self.scheme.padding is Padding.PKCS1:
            return messages.octets(messages.algorithm(oids.RSA_ENCRYPTION, b"\x05\x00"))
        return self.scheme.identifier


@attrs.frozen
class SignedContent:
    """What is signed: the content's type, its octets, and whether they travel in the message or beside it."""

    content_type: str
    content: bytes = attrs.field(repr=False)
    detached: bool = False


def attribute(oid: str, *values: bytes) -> bytes:
    """The DER Attribute with these DER values."""
    return messages.octets(messages.Attribute(attr_type=ObjectIdentifier(oid), values=messages.set_tlv(values)))


def signing_time(moment: datetime) -> bytes:
    """The signing-time attribute (RFC 5652 section 11.3) of an aware datetime, to the second."""
    moment = moment.astimezone(UTC).replace(microsecond=0)
    if moment.year in _UTC_TIME_YEARS:
        return attribute(oids.SIGNING_TIME, messages.octets(asn1.UTCTime(moment)))
    return attribute(oids.SIGNING_TIME, messages.octets(asn1.GeneralizedTime(moment)))


def algorithm_protection(profile: SignerProfile) -> bytes:
    """The CMS algorithm protection attribute (RFC 6211) for ``profile``."""
    identifier = messages.octets(_digest_identifier(profile.digest))
    value = sequence(identifier, b"\xa1", profile.signature_algorithm[1:])
    return attribute(oids.ALGORITHM_PROTECTION, value)


@attrs.frozen
class Unsigned:
    """A SignedData that lacks nothing but the signature over ``signed_attrs`` (the DER SET OF Attribute)."""

    signed_attrs: bytes
    _content: SignedContent
    _profile: SignerProfile
    _certificates: tuple[bytes, ...]
    _crls: tuple[bytes, ...]

    def finish(self, signature: bytes, unsigned_attrs: tuple[bytes, ...] = ()) -> bytes:
        """The DER ContentInfo with ``signature`` and, where given, DER Attributes that are not signed."""
        profile, digest_identifier = self._profile, _digest_identifier(self._profile.digest)
        sid: messages.IssuerAndSerialNumber | bytes = (
            issuer_and_serial(profile.certificate) if profile.by_key_identifier is None else profile.by_key_identifier
        )
        signer_info = messages.SignerInfo(
            version=1 if profile.by_key_identifier is None else 3,
            sid=sid,
            digest_algorithm=digest_identifier,
            signed_attrs=_elements(self.signed_attrs),
            signature_algorithm=messages.decode(
                messages.AlgorithmIdentifier, profile.signature_algorithm, "AlgorithmIdentifier"
            ),
            signature=signature,
            unsigned_attrs=[messages.tlv(item) for item in sorted(unsigned_attrs)] or None,
        )
        content = self._content
        version = 3 if content.content_type != oids.DATA or profile.by_key_identifier is not None else 1
        signed = messages.SignedData(
            version=version,
            digest_algorithms=messages.set_tlv([messages.octets(digest_identifier)]),
            encap_content_info=messages.EncapsulatedContentInfo(
                content_type=ObjectIdentifier(content.content_type),
                content=None if content.detached else content.content,
            ),
            certificates=[messages.tlv(item) for item in self._certificates] or None,
            crls=[messages.tlv(item) for item in self._crls] or None,
            signer_infos=messages.set_tlv([messages.octets(signer_info)]),
        )
        return messages.content_info(oids.SIGNED_DATA, messages.octets(signed))


def prepare(
    content: SignedContent,
    profile: SignerProfile,
    *,
    attributes: tuple[bytes, ...] = (),
    certificates: tuple[bytes, ...] = (),
    crls: tuple[bytes, ...] = (),
) -> Unsigned:
    """Everything but the signature.

    Args:
        content: what is signed.
        profile: who signs, and with which algorithms.
        attributes: further DER Attributes to sign; content-type and message-digest are added here.
        certificates: DER certificates to carry; sorted, duplicates left out.
        crls: DER CRLs to carry, likewise.
    """
    signed = [
        attribute(oids.CONTENT_TYPE, messages.octets(ObjectIdentifier(content.content_type))),
        attribute(oids.MESSAGE_DIGEST, messages.octets(digest(profile.digest, content.content))),
        *attributes,
    ]
    return Unsigned(
        signed_attrs=messages.set_of(signed),
        content=content,
        profile=profile,
        certificates=tuple(sorted(set(certificates))),
        crls=tuple(sorted(set(crls))),
    )


async def sign(
    content: SignedContent,
    profile: SignerProfile,
    signer: AttributeSigner,
    *,
    attributes: tuple[bytes, ...] = (),
    certificates: tuple[bytes, ...] = (),
    crls: tuple[bytes, ...] = (),
) -> bytes:
    """:func:`prepare`, the door, :meth:`Unsigned.finish`. Raises what the door raises."""
    unsigned = prepare(content, profile, attributes=attributes, certificates=certificates, crls=crls)
    return unsigned.finish(await signer.sign_attributes(unsigned.signed_attrs, profile.scheme))


def _digest_identifier(oid: str) -> messages.AlgorithmIdentifier:
    """A digest's AlgorithmIdentifier: parameters absent (RFC 5754 section 2), but for SHAKE256 with a stated length."""
    return messages.algorithm(oid, SHAKE256_512_BITS if oid == oids.SHAKE256_LEN else None)


def _elements(set_der: bytes) -> list[asn1.TLV]:
    """The elements of a DER SET OF as TLVs."""
    return [messages.tlv(item.whole) for item in children(only_child(set_der).content)]
