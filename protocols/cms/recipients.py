"""How a content key reaches a recipient: key transport, key agreement, a shared key or a password, on the sending side.

RSA by RFC 3370 section 4.2.1 and RFC 3560 (OAEP), ECDH by RFC 5753, key wrap by RFC 5652 section 6.2.3, passwords by
section 6.2.4 with PBKDF2 (RFC 8018).
"""

from __future__ import annotations

import os
from typing import Protocol

import attrs
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.extensionvalue import extension_value
from pkiserver.foundation.secret import Secret
from pkiserver.foundation.unreadable import UNREADABLE
from protocols.cms import messages, oids
from protocols.cms.ciphers import ContentCipher, KeyWrap, pwri_wrap, wrap_key

KDF_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    oids.STD_DH_SHA1KDF: hashes.SHA1,
    oids.STD_DH_SHA224KDF: hashes.SHA224,
    oids.STD_DH_SHA256KDF: hashes.SHA256,
    oids.STD_DH_SHA384KDF: hashes.SHA384,
    oids.STD_DH_SHA512KDF: hashes.SHA512,
}
"""dhSinglePass-stdDH schemes (RFC 5753 section 7.1.4) and the hash of their key derivation."""
PBKDF2_ITERATIONS = 600_000
_SALT = 16
_CURVE_SCHEMES: dict[str, tuple[str, KeyWrap]] = {
    "secp256r1": (oids.STD_DH_SHA256KDF, KeyWrap.AES128),
    "secp384r1": (oids.STD_DH_SHA384KDF, KeyWrap.AES256),
    "secp521r1": (oids.STD_DH_SHA512KDF, KeyWrap.AES256),
}


class Recipient(Protocol):
    """Somebody who is to be able to open an envelope."""

    @property
    def syntax_version(self) -> int:
        """The version of this RecipientInfo, from which the envelope's version follows."""

    def seal(self, content_key: bytes) -> bytes:
        """The DER RecipientInfo that carries ``content_key``."""


def subject_key_identifier(certificate: x509.Certificate) -> bytes | None:
    """The octets of a certificate's SKI extension, or None."""
    found = extension_value(certificate, x509.SubjectKeyIdentifier)
    return None if found is None else found.digest


def names_issuer(name: bytes, certificate: x509.Certificate) -> bool:
    """Whether a DER Name is that of the certificate's issuer: some clients write it anew, with other string types."""
    if name == certificate.issuer.public_bytes():
        return True
    try:
        return x509.Name.from_bytes(name) == certificate.issuer
    except UNREADABLE:
        return False


def issuer_and_serial(certificate: x509.Certificate, issuer: bytes | None = None) -> messages.IssuerAndSerialNumber:
    """The issuer name, octet for octet as in the certificate, and its serial number; ``issuer`` where that is known."""
    name = certificate.issuer.public_bytes() if issuer is None else issuer
    return messages.IssuerAndSerialNumber(issuer=messages.tlv(name), serial_number=certificate.serial_number)


@attrs.frozen
class RsaRecipient:
    """Key transport to an RSA key, named by issuer and serial, or by ``key_identifier`` where that is given.

    ``issuer`` is the issuer's DER where cryptography has none, or another, for the certificate.
    """

    certificate: x509.Certificate
    key_identifier: bytes | None = None
    oaep: bool = False
    issuer: bytes | None = None

    @property
    def syntax_version(self) -> int:
        """2 where the recipient is named by key identifier, else 0."""
        return 0 if self.key_identifier is None else 2

    def seal(self, content_key: bytes) -> bytes:
        """The DER KeyTransRecipientInfo. Raises :class:`Rejected` when the key is not RSA."""
        public_key = self.certificate.public_key()
        if not isinstance(public_key, rsa.RSAPublicKey):
            raise Rejected.because(Refusal.BAD_KEY, "key transport needs an RSA key")
        scheme: padding.AsymmetricPadding = padding.PKCS1v15()
        identifier = messages.algorithm(oids.RSA_ENCRYPTION, b"\x05\x00")
        if self.oaep:
            scheme = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
            identifier = messages.algorithm(oids.RSA_OAEP, messages.octets(_oaep_parameters(oids.SHA256)))
        return messages.octets(
            messages.KeyTransRecipientInfo(
                version=self.syntax_version,
                rid=self.key_identifier or issuer_and_serial(self.certificate, self.issuer),
                key_encryption_algorithm=identifier,
                encrypted_key=public_key.encrypt(content_key, scheme),
            )
        )


def _oaep_parameters(digest: str) -> messages.OaepParameters:
    """OAEP with one hash for the label and for MGF1."""
    hash_algorithm = messages.algorithm(digest, b"\x05\x00")
    return messages.OaepParameters(
        hash_algorithm=hash_algorithm,
        mask_gen_algorithm=messages.algorithm(oids.MGF1, messages.octets(hash_algorithm)),
        p_source_algorithm=None,
    )


@attrs.frozen
class EcRecipient:
    """Ephemeral-static ECDH to a key on P-256, P-384 or P-521 (RFC 5753 section 3.1)."""

    certificate: x509.Certificate
    key_identifier: bytes | None = None
    wrap: KeyWrap | None = None
    ukm: bytes | None = None

    @property
    def syntax_version(self) -> int:
        """Always 3 (RFC 5652 section 6.2.2)."""
        return 3

    def seal(self, content_key: bytes) -> bytes:
        """The DER KeyAgreeRecipientInfo. Raises :class:`Rejected` when the key is on no supported curve."""
        public_key = self.certificate.public_key()
        if not isinstance(public_key, ec.EllipticCurvePublicKey) or public_key.curve.name not in _CURVE_SCHEMES:
            raise Rejected.because(Refusal.BAD_KEY, "key agreement needs a key on P-256, P-384 or P-521")
        scheme, default_wrap = _CURVE_SCHEMES[public_key.curve.name]
        wrap = self.wrap or default_wrap
        ephemeral = ec.generate_private_key(public_key.curve)
        kek = derive_kek(ephemeral.exchange(ec.ECDH(), public_key), scheme, wrap.identifier, self.ukm)
        point = ephemeral.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        rid: messages.IssuerAndSerialNumber | messages.RecipientKeyIdentifier = issuer_and_serial(self.certificate)
        if self.key_identifier is not None:
            rid = messages.RecipientKeyIdentifier(subject_key_identifier=self.key_identifier, date=None, other=None)
        info = messages.octets(
            messages.KeyAgreeRecipientInfo(
                version=3,
                originator=messages.OriginatorPublicKey(
                    algorithm=messages.algorithm(oids.EC_PUBLIC_KEY), public_key=asn1.BitString(point, 0)
                ),
                ukm=self.ukm,
                key_encryption_algorithm=messages.algorithm(scheme, messages.octets(wrap.identifier)),
                recipient_encrypted_keys=[
                    messages.RecipientEncryptedKey(rid=rid, encrypted_key=wrap_key(kek, content_key))
                ],
            )
        )
        return b"\xa1" + info[1:]


def derive_kek(shared: bytes, scheme: str, wrap: messages.AlgorithmIdentifier, ukm: bytes | None) -> bytes:
    """The key-encryption key of RFC 5753 section 7.2 from an ECDH shared secret.

    Args:
        shared: the x coordinate, padded to the field size.
        scheme: one of :data:`KDF_HASHES`.
        wrap: the key wrap's AlgorithmIdentifier, exactly as sent.
        ukm: the user keying material of the message, or None.

    Raises:
        Rejected: an algorithm is not accepted.
    """
    if scheme not in KDF_HASHES:
        raise Rejected.because(Refusal.BAD_ALGORITHM, f"key agreement algorithm {scheme} is not accepted")
    length = KeyWrap.of(wrap.algorithm.dotted_string).key_length
    shared_info = messages.EccSharedInfo(
        key_info=wrap, entity_u_info=ukm, supp_pub_info=(length * 8).to_bytes(4, "big")
    )
    return X963KDF(KDF_HASHES[scheme](), length, messages.octets(shared_info)).derive(shared)


@attrs.frozen
class SharedKeyRecipient:
    """A previously distributed AES key-encryption key (RFC 5652 section 6.2.3)."""

    key_identifier: bytes
    key: Secret

    @property
    def syntax_version(self) -> int:
        """Always 4."""
        return 4

    def seal(self, content_key: bytes) -> bytes:
        """The DER KEKRecipientInfo. Raises :class:`Rejected` when the key has no AES length."""
        kek = self.key.reveal()
        wrap = next((member for member in KeyWrap if member.key_length == len(kek)), None)
        if wrap is None:
            raise Rejected.because(Refusal.BAD_KEY, "a shared key must have 16, 24 or 32 octets")
        info = messages.octets(
            messages.KekRecipientInfo(
                version=4,
                kekid=messages.KekIdentifier(key_identifier=self.key_identifier, date=None, other=None),
                key_encryption_algorithm=wrap.identifier,
                encrypted_key=wrap_key(kek, content_key),
            )
        )
        return b"\xa2" + info[1:]


@attrs.frozen
class PasswordRecipient:
    """A password, stretched by PBKDF2 with HMAC-SHA-256. Blocks the caller for the iterations."""

    password: Secret
    iterations: int = PBKDF2_ITERATIONS
    cipher: ContentCipher = ContentCipher.AES256_CBC

    @property
    def syntax_version(self) -> int:
        """Always 0."""
        return 0

    def seal(self, content_key: bytes) -> bytes:
        """The DER PasswordRecipientInfo."""
        salt = os.urandom(_SALT)
        kek = PBKDF2HMAC(hashes.SHA256(), self.cipher.key_length, salt, self.iterations).derive(self.password.reveal())
        identifier, wrapped = pwri_wrap(self.cipher, kek, content_key)
        parameters = messages.Pbkdf2Parameters(
            salt=salt,
            iteration_count=self.iterations,
            key_length=self.cipher.key_length,
            prf=messages.algorithm(oids.HMAC_SHA256, b"\x05\x00"),
        )
        info = messages.octets(
            messages.PasswordRecipientInfo(
                version=0,
                key_derivation_algorithm=messages.algorithm(oids.PBKDF2, messages.octets(parameters)),
                key_encryption_algorithm=identifier,
                encrypted_key=wrapped,
            )
        )
        return b"\xa3" + info[1:]


def recipient_infos(recipients: tuple[Recipient, ...], content_key: bytes) -> asn1.TLV:
    """The SET OF RecipientInfo for ``content_key``."""
    return messages.set_tlv(recipient.seal(content_key) for recipient in recipients)
