"""The wire types of RFC 5652 and RFC 5083, declared; and the few helpers that declared types lack.

A SET OF whose order a peer may have got wrong is declared as a list under its implicit tag, or as a TLV whose children
are read one by one; what is built here is always sorted (X.690 section 11.6), since strict verifiers want that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, TypeVar

from cryptography.hazmat import asn1
from cryptography.x509 import ObjectIdentifier

from pkiserver.foundation import der
from protocols.cms.ber import malformed

T = TypeVar("T")


@asn1.sequence
class AlgorithmIdentifier:
    """AlgorithmIdentifier (RFC 5280 section 4.1.1.2). The union with Null lets ``parameters`` be absent."""

    algorithm: ObjectIdentifier
    parameters: asn1.TLV | asn1.Null | None


@asn1.sequence
class ContentInfo:
    """ContentInfo (RFC 5652 section 3)."""

    content_type: ObjectIdentifier
    content: Annotated[asn1.TLV, asn1.Explicit(0)]


@asn1.sequence
class Attribute:
    """Attribute (RFC 5652 section 5.3); ``values`` is the SET OF, unsorted where the peer left it so."""

    attr_type: ObjectIdentifier
    values: asn1.TLV


@asn1.sequence
class IssuerAndSerialNumber:
    """IssuerAndSerialNumber (RFC 5652 section 10.2.4)."""

    issuer: asn1.TLV
    serial_number: int


@asn1.sequence
class EncapsulatedContentInfo:
    """EncapsulatedContentInfo (RFC 5652 section 5.2)."""

    content_type: ObjectIdentifier
    content: Annotated[bytes | None, asn1.Explicit(0)]


@asn1.sequence
class SignerInfo:
    """SignerInfo (RFC 5652 section 5.3)."""

    version: int
    sid: IssuerAndSerialNumber | Annotated[bytes, asn1.Implicit(0)]
    digest_algorithm: AlgorithmIdentifier
    signed_attrs: Annotated[list[asn1.TLV] | None, asn1.Implicit(0)]
    signature_algorithm: AlgorithmIdentifier
    signature: bytes
    unsigned_attrs: Annotated[list[asn1.TLV] | None, asn1.Implicit(1)]


@asn1.sequence
class SignedData:
    """SignedData (RFC 5652 section 5.1). ``digest_algorithms`` and ``signer_infos`` are the universal SETs."""

    version: int
    digest_algorithms: asn1.TLV
    encap_content_info: EncapsulatedContentInfo
    certificates: Annotated[list[asn1.TLV] | None, asn1.Implicit(0)]
    crls: Annotated[list[asn1.TLV] | None, asn1.Implicit(1)]
    signer_infos: asn1.TLV


@asn1.sequence
class KeyTransRecipientInfo:
    """KeyTransRecipientInfo (RFC 5652 section 6.2.1)."""

    version: int
    rid: IssuerAndSerialNumber | Annotated[bytes, asn1.Implicit(0)]
    key_encryption_algorithm: AlgorithmIdentifier
    encrypted_key: bytes


@asn1.sequence
class OriginatorPublicKey:
    """OriginatorPublicKey (RFC 5652 section 6.2.2)."""

    algorithm: AlgorithmIdentifier
    public_key: asn1.BitString


@asn1.sequence
class RecipientKeyIdentifier:
    """RecipientKeyIdentifier (RFC 5652 section 6.2.2)."""

    subject_key_identifier: bytes
    date: asn1.GeneralizedTime | None
    other: asn1.TLV | asn1.Null | None


@asn1.sequence
class RecipientEncryptedKey:
    """RecipientEncryptedKey (RFC 5652 section 6.2.2)."""

    rid: IssuerAndSerialNumber | Annotated[RecipientKeyIdentifier, asn1.Implicit(0)]
    encrypted_key: bytes


@asn1.sequence
class KeyAgreeRecipientInfo:
    """KeyAgreeRecipientInfo (RFC 5652 section 6.2.2)."""

    version: int
    originator: Annotated[
        IssuerAndSerialNumber | Annotated[bytes, asn1.Implicit(0)] | Annotated[OriginatorPublicKey, asn1.Implicit(1)],
        asn1.Explicit(0),
    ]
    ukm: Annotated[bytes | None, asn1.Explicit(1)]
    key_encryption_algorithm: AlgorithmIdentifier
    recipient_encrypted_keys: list[RecipientEncryptedKey]


@asn1.sequence
class KekIdentifier:
    """KEKIdentifier (RFC 5652 section 6.2.3)."""

    key_identifier: bytes
    date: asn1.GeneralizedTime | None
    other: asn1.TLV | asn1.Null | None


@asn1.sequence
class KekRecipientInfo:
    """KEKRecipientInfo (RFC 5652 section 6.2.3)."""

    version: int
    kekid: KekIdentifier
    key_encryption_algorithm: AlgorithmIdentifier
    encrypted_key: bytes


@asn1.sequence
class PasswordRecipientInfo:
    """PasswordRecipientInfo (RFC 5652 section 6.2.4)."""

    version: int
    key_derivation_algorithm: Annotated[AlgorithmIdentifier | None, asn1.Implicit(0)]
    key_encryption_algorithm: AlgorithmIdentifier
    encrypted_key: bytes


@asn1.sequence
class OneRecipientInfo:
    """A RecipientInfo (RFC 5652 section 6.2) inside a SEQUENCE of its own: a CHOICE cannot be decoded alone."""

    info: (
        KeyTransRecipientInfo
        | Annotated[KeyAgreeRecipientInfo, asn1.Implicit(1)]
        | Annotated[KekRecipientInfo, asn1.Implicit(2)]
        | Annotated[PasswordRecipientInfo, asn1.Implicit(3)]
    )


@asn1.sequence
class EncryptedContentInfo:
    """EncryptedContentInfo (RFC 5652 section 6.1), as it is written; readers meet a segmented form as well."""

    content_type: ObjectIdentifier
    content_encryption_algorithm: AlgorithmIdentifier
    encrypted_content: Annotated[bytes | None, asn1.Implicit(0)]


@asn1.sequence
class EnvelopedData:
    """EnvelopedData (RFC 5652 section 6.1)."""

    version: int
    originator_info: Annotated[list[asn1.TLV] | None, asn1.Implicit(0)]
    recipient_infos: asn1.TLV
    encrypted_content_info: asn1.TLV
    unprotected_attrs: Annotated[list[asn1.TLV] | None, asn1.Implicit(1)]


@asn1.sequence
class AuthEnvelopedData:
    """AuthEnvelopedData (RFC 5083 section 2.1)."""

    version: int
    originator_info: Annotated[list[asn1.TLV] | None, asn1.Implicit(0)]
    recipient_infos: asn1.TLV
    auth_encrypted_content_info: asn1.TLV
    auth_attrs: Annotated[list[asn1.TLV] | None, asn1.Implicit(1)]
    mac: bytes
    unauth_attrs: Annotated[list[asn1.TLV] | None, asn1.Implicit(2)]


@asn1.sequence
class GcmParameters:
    """GCMParameters (RFC 5084 section 3.2)."""

    nonce: bytes
    icv_length: Annotated[int, asn1.Default(12)]


@asn1.sequence
class Pbkdf2Parameters:
    """PBKDF2-params (RFC 8018 appendix A.2) with a specified salt; an absent ``prf`` is HMAC-SHA-1."""

    salt: bytes
    iteration_count: int
    key_length: int | None
    prf: AlgorithmIdentifier | None


@asn1.sequence
class OaepParameters:
    """RSAES-OAEP-params (RFC 8017 appendix A.2.1)."""

    hash_algorithm: Annotated[AlgorithmIdentifier | None, asn1.Explicit(0)]
    mask_gen_algorithm: Annotated[AlgorithmIdentifier | None, asn1.Explicit(1)]
    p_source_algorithm: Annotated[AlgorithmIdentifier | None, asn1.Explicit(2)]


@asn1.sequence
class PssParameters:
    """RSASSA-PSS-params (RFC 8017 appendix A.2.3)."""

    hash_algorithm: Annotated[AlgorithmIdentifier | None, asn1.Explicit(0)]
    mask_gen_algorithm: Annotated[AlgorithmIdentifier | None, asn1.Explicit(1)]
    salt_length: Annotated[int | None, asn1.Explicit(2)]
    trailer_field: Annotated[int | None, asn1.Explicit(3)]


@asn1.sequence
class EccSharedInfo:
    """ECC-CMS-SharedInfo (RFC 5753 section 7.2)."""

    key_info: AlgorithmIdentifier
    entity_u_info: Annotated[bytes | None, asn1.Explicit(0)]
    supp_pub_info: Annotated[bytes, asn1.Explicit(2)]


def decode(kind: type[T], data: bytes, what: str) -> T:
    """``data`` as a declared type. Raises :class:`Rejected` (malformed), naming ``what`` it should have been."""
    try:
        return asn1.decode_der(kind, data)
    except ValueError as error:
        raise malformed(f"not a well-formed {what}") from error


def tlv(data: bytes) -> asn1.TLV:
    """One DER element as a TLV value. Raises :class:`Rejected` where it is none."""
    return decode(asn1.TLV, data, "ASN.1 element")


def octets(value: object) -> bytes:
    """The DER encoding of a declared value or TLV."""
    return asn1.encode_der(value)


def set_of(items: Iterable[bytes]) -> bytes:
    """A DER SET OF: the encodings in ascending order (X.690 section 11.6)."""
    return der.tlv(der.SET, *sorted(items))


def set_tlv(items: Iterable[bytes]) -> asn1.TLV:
    """:func:`set_of` for a declared type."""
    return tlv(set_of(items))


def algorithm(oid: str, parameters: bytes | None = None) -> AlgorithmIdentifier:
    """An AlgorithmIdentifier; ``parameters`` is DER or None for absent."""
    return AlgorithmIdentifier(
        algorithm=ObjectIdentifier(oid), parameters=None if parameters is None else tlv(parameters)
    )


def parameters_of(identifier: AlgorithmIdentifier) -> bytes | None:
    """The DER of an AlgorithmIdentifier's parameters, or None where they are absent."""
    return None if identifier.parameters is None else octets(identifier.parameters)


def content_info(content_type: str, content: bytes) -> bytes:
    """A DER ContentInfo around the DER of its content."""
    return der.sequence(der.object_identifier(content_type), der.explicit(0, content))
