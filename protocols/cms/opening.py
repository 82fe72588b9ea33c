"""Opening EnvelopedData (RFC 5652 section 6) and AuthEnvelopedData (RFC 5083), BER or DER.

What is wrong with the public parts of a message is said. What depends on a secret is not: a wrong content key, wrong
padding or a wrong tag yield random octets in place of the content, so that every such failure ends where the caller
parses the content, after the same work (Bleichenbacher, Vaudenay; RFC 3218).
"""

from __future__ import annotations

import os
from typing import Protocol

import attrs
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.x509 import ObjectIdentifier

from pkiserver.foundation.der import sequence
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.secret import Secret
from protocols.cms import messages, oids
from protocols.cms.algorithms import NO_LEGACY, LegacyDigests, digest_algorithm
from protocols.cms.ber import DEFAULT_LIMITS, BerLimits, children, malformed, to_der
from protocols.cms.ciphers import ContentCipher, DecryptionFailed, Encrypted, KeyWrap, decrypt, pwri_unwrap, unwrap_key
from protocols.cms.recipients import KDF_HASHES, names_issuer, subject_key_identifier

MAX_PBKDF2_ITERATIONS = 2_000_000
_MAX_RECIPIENTS = 32
_MAX_SALT = 1024
_HMACS: dict[str, hashes.HashAlgorithm] = {
    oids.HMAC_SHA1: hashes.SHA1(),  # noqa: S303 - HMAC-SHA-1 is the default of PBKDF2 and still sound
    oids.HMAC_SHA256: hashes.SHA256(),
    oids.HMAC_SHA384: hashes.SHA384(),
    oids.HMAC_SHA512: hashes.SHA512(),
}

Rid = messages.IssuerAndSerialNumber | messages.RecipientKeyIdentifier | bytes
RecipientInfo = (
    messages.KeyTransRecipientInfo
    | messages.KeyAgreeRecipientInfo
    | messages.KekRecipientInfo
    | messages.PasswordRecipientInfo
)


class KeyOpener(Protocol):
    """The key room's door for envelopes: a content key comes out, a random one where anything was wrong."""

    async def rsa_pkcs1(self, encrypted_key: bytes, key_length: int) -> bytes:
        """RSAES-PKCS1-v1_5."""

    async def rsa_oaep(
        self, encrypted_key: bytes, key_length: int, digest: hashes.HashAlgorithm, *, label: bytes | None = None
    ) -> bytes:
        """RSAES-OAEP with one hash for label and MGF1."""

    async def ecdh(
        self,
        originator: ec.EllipticCurvePublicKey,
        wrapped_key: bytes,
        key_length: int,
        *,
        shared_info: bytes,
        kek_length: int,
        digest: hashes.HashAlgorithm,
    ) -> bytes:
        """Ephemeral-static ECDH, X9.63 KDF, AES key unwrap."""


@attrs.frozen
class Envelope:
    """A parsed envelope, still closed. ``associated`` is what an authenticated cipher covers beside the content."""

    content_type: str
    recipients: tuple[RecipientInfo, ...]
    sealed: Encrypted
    associated: bytes = b""

    def cipher(self, *, allow_legacy: bool = False) -> ContentCipher:
        """The content cipher. Raises :class:`Rejected` (bad algorithm) if it is unknown, or legacy and not allowed."""
        return ContentCipher.of(self.sealed.algorithm.algorithm.dotted_string, allow_legacy=allow_legacy)


def parse_envelope(data: bytes, limits: BerLimits = DEFAULT_LIMITS) -> Envelope:
    """Read a ContentInfo with EnvelopedData or AuthEnvelopedData.

    Raises:
        Rejected: it is neither, or over a limit.
    """
    info = messages.decode(messages.ContentInfo, to_der(data, limits), "CMS ContentInfo")
    content = messages.octets(info.content)
    kind = info.content_type.dotted_string
    if kind == oids.ENVELOPED_DATA:
        enveloped = messages.decode(messages.EnvelopedData, content, "CMS EnvelopedData")
        content_type, sealed = _encrypted(messages.octets(enveloped.encrypted_content_info), b"")
        envelope = Envelope(content_type, _recipients(enveloped.recipient_infos), sealed)
        authenticated = False
    elif kind == oids.AUTH_ENVELOPED_DATA:
        auth = messages.decode(messages.AuthEnvelopedData, content, "CMS AuthEnvelopedData")
        content_type, sealed = _encrypted(messages.octets(auth.auth_encrypted_content_info), auth.mac)
        attributes = auth.auth_attrs
        associated = b"" if attributes is None else messages.set_of(messages.octets(item) for item in attributes)
        envelope = Envelope(content_type, _recipients(auth.recipient_infos), sealed, associated)
        authenticated = True
    else:
        raise malformed("not a CMS EnvelopedData")
    if envelope.cipher(allow_legacy=True).authenticated is not authenticated:
        raise Rejected.because(Refusal.BAD_ALGORITHM, "the content cipher does not belong into this kind of envelope")
    return envelope


def is_for(envelope: Envelope, certificate: x509.Certificate) -> bool:
    """Whether a recipient of the envelope is named as ``certificate``."""
    for info in envelope.recipients:
        if isinstance(info, messages.KeyTransRecipientInfo) and _is_for(info.rid, certificate):
            return True
        if isinstance(info, messages.KeyAgreeRecipientInfo) and any(
            _is_for(one.rid, certificate) for one in info.recipient_encrypted_keys
        ):
            return True
    return False


async def open_with_key(
    envelope: Envelope,
    certificate: x509.Certificate,
    opener: KeyOpener,
    *,
    allow_legacy: bool = False,
    legacy_digests: LegacyDigests = NO_LEGACY,
) -> bytes:
    """Open an envelope that was made for ``certificate``, by RSA key transport or ECDH key agreement.

    Args:
        envelope: the parsed envelope.
        certificate: whose key ``opener`` holds; it says which recipient is meant.
        opener: the door.
        allow_legacy: whether DES and triple DES are allowed for the content.
        legacy_digests: SHA-1 in OAEP or in the key derivation of ECDH.

    Returns:
        The content; random octets where anything about the key or the padding was wrong.

    Raises:
        Rejected: nothing in the envelope is for this certificate, or an algorithm is not accepted.
        Unavailable: the key is away.
    """
    cipher = envelope.cipher(allow_legacy=allow_legacy)
    for info in envelope.recipients:
        if isinstance(info, messages.KeyTransRecipientInfo) and _is_for(info.rid, certificate):
            key = await _transported(info, cipher, opener, legacy_digests)
            return _content(envelope, cipher, key)
        if isinstance(info, messages.KeyAgreeRecipientInfo):
            for one in info.recipient_encrypted_keys:
                if _is_for(one.rid, certificate):
                    key = await _agreed(
                        info, one.encrypted_key, certificate, cipher=cipher, opener=opener, legacy=legacy_digests
                    )
                    return _content(envelope, cipher, key)
    raise malformed("the envelope is not for this certificate")


def open_with_password(envelope: Envelope, password: Secret, *, allow_legacy: bool = False) -> bytes:
    """Open an envelope with a PasswordRecipientInfo. Blocks for the iterations: not for the reactor's thread.

    Returns:
        The content; random octets where the password was wrong.

    Raises:
        Rejected: the envelope has no such recipient, or an algorithm or its parameters are not accepted.
    """
    cipher = envelope.cipher(allow_legacy=allow_legacy)
    info = next((one for one in envelope.recipients if isinstance(one, messages.PasswordRecipientInfo)), None)
    if info is None or info.key_derivation_algorithm is None:
        raise malformed("the envelope is not for a password")
    kek = _pbkdf2(info, password)
    try:
        key = pwri_unwrap(info.key_encryption_algorithm, kek, info.encrypted_key, allow_legacy=allow_legacy)
    except DecryptionFailed:
        key = b""
    return _content(envelope, cipher, _fitting(key, cipher))


def open_with_shared_key(envelope: Envelope, identifier: bytes, key: Secret, *, allow_legacy: bool = False) -> bytes:
    """Open an envelope with a KEKRecipientInfo for the shared AES key ``identifier``; as :func:`open_with_password`."""
    cipher = envelope.cipher(allow_legacy=allow_legacy)
    for info in envelope.recipients:
        if isinstance(info, messages.KekRecipientInfo) and info.kekid.key_identifier == identifier:
            wrap = KeyWrap.of(info.key_encryption_algorithm.algorithm.dotted_string)
            kek = key.reveal()
            if len(kek) != wrap.key_length:
                raise Rejected.because(Refusal.BAD_ALGORITHM, "the key wrap does not fit the shared key")
            try:
                content_key = unwrap_key(kek, info.encrypted_key)
            except DecryptionFailed:
                content_key = b""
            return _content(envelope, cipher, _fitting(content_key, cipher))
    raise malformed("the envelope is not for this shared key")


def _content(envelope: Envelope, cipher: ContentCipher, key: bytes) -> bytes:
    """The content, or as many random octets where decryption failed."""
    substitute = os.urandom(max(1, len(envelope.sealed.ciphertext)))
    try:
        return decrypt(cipher, key, envelope.sealed, envelope.associated)
    except DecryptionFailed:
        return substitute


def _fitting(key: bytes, cipher: ContentCipher) -> bytes:
    """``key`` if it has the cipher's length, else a random one."""
    substitute = os.urandom(cipher.key_length)
    return key if len(key) == cipher.key_length else substitute


async def _transported(
    info: messages.KeyTransRecipientInfo, cipher: ContentCipher, opener: KeyOpener, legacy: LegacyDigests
) -> bytes:
    identifier = info.key_encryption_algorithm
    oid = identifier.algorithm.dotted_string
    if oid == oids.RSA_ENCRYPTION:
        return await opener.rsa_pkcs1(info.encrypted_key, cipher.key_length)
    if oid != oids.RSA_OAEP:
        raise Rejected.because(Refusal.BAD_ALGORITHM, f"key transport algorithm {oid} is not accepted")
    parameters = messages.decode(
        messages.OaepParameters, messages.parameters_of(identifier) or b"\x30\x00", "RSAES-OAEP parameters"
    )
    label_digest, mask_digest = _oaep_digests(parameters)
    if label_digest != mask_digest:
        raise Rejected.because(Refusal.BAD_ALGORITHM, "OAEP with two different digests is not accepted")
    label = None
    if parameters.p_source_algorithm is not None:
        encoded = messages.parameters_of(parameters.p_source_algorithm) or b"\x04\x00"
        label = messages.decode(bytes, encoded, "OAEP label") or None
    algorithm = digest_algorithm(label_digest, legacy)
    return await opener.rsa_oaep(info.encrypted_key, cipher.key_length, algorithm, label=label)


def _oaep_digests(parameters: messages.OaepParameters) -> tuple[str, str]:
    """OIDs of the digests for the label and in MGF1; absent ones are SHA-1 (RFC 4055 section 4.1)."""
    label = mask = oids.SHA1
    if parameters.hash_algorithm is not None:
        label = parameters.hash_algorithm.algorithm.dotted_string
    if parameters.mask_gen_algorithm is not None:
        inner = messages.parameters_of(parameters.mask_gen_algorithm) or b""
        found = messages.decode(messages.AlgorithmIdentifier, inner, "MGF1 parameters")
        mask = found.algorithm.dotted_string
    return label, mask


async def _agreed(
    info: messages.KeyAgreeRecipientInfo,
    encrypted_key: bytes,
    certificate: x509.Certificate,
    *,
    cipher: ContentCipher,
    opener: KeyOpener,
    legacy: LegacyDigests,
) -> bytes:
    scheme = info.key_encryption_algorithm.algorithm.dotted_string
    if scheme not in KDF_HASHES or (scheme == oids.STD_DH_SHA1KDF and not legacy.sha1):
        raise Rejected.because(Refusal.BAD_ALGORITHM, f"key agreement algorithm {scheme} is not accepted")
    encoded = messages.parameters_of(info.key_encryption_algorithm) or b""
    wrap = messages.decode(messages.AlgorithmIdentifier, encoded, "key wrap algorithm")
    kek_length = KeyWrap.of(wrap.algorithm.dotted_string).key_length
    shared_info = messages.EccSharedInfo(
        key_info=wrap, entity_u_info=info.ukm, supp_pub_info=(kek_length * 8).to_bytes(4, "big")
    )
    return await opener.ecdh(
        _originator(info, certificate),
        encrypted_key,
        cipher.key_length,
        shared_info=messages.octets(shared_info),
        kek_length=kek_length,
        digest=KDF_HASHES[scheme](),
    )


def _originator(info: messages.KeyAgreeRecipientInfo, certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """The sender's ephemeral key, which is on the recipient's curve. Raises :class:`Rejected` for any other."""
    public_key = certificate.public_key()
    if not isinstance(info.originator, messages.OriginatorPublicKey):
        raise Rejected.because(Refusal.BAD_ALGORITHM, "only ephemeral-static key agreement is accepted")
    if not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise Rejected.because(Refusal.BAD_KEY, "key agreement with a certificate whose key cannot agree")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(public_key.curve, info.originator.public_key.as_bytes())
    except ValueError as error:
        raise malformed("the originator's key is not a point on the recipient's curve") from error


def _pbkdf2(info: messages.PasswordRecipientInfo, password: Secret) -> bytes:
    assert info.key_derivation_algorithm is not None
    if info.key_derivation_algorithm.algorithm.dotted_string != oids.PBKDF2:
        raise Rejected.because(Refusal.BAD_ALGORITHM, "only PBKDF2 is accepted for passwords")
    parameters = messages.decode(
        messages.Pbkdf2Parameters, messages.parameters_of(info.key_derivation_algorithm) or b"", "PBKDF2 parameters"
    )
    prf = oids.HMAC_SHA1 if parameters.prf is None else parameters.prf.algorithm.dotted_string
    inner = messages.parameters_of(info.key_encryption_algorithm) or b""
    kek_cipher = messages.decode(messages.AlgorithmIdentifier, inner, "PWRI-KEK parameters").algorithm.dotted_string
    length = ContentCipher.of(kek_cipher, allow_legacy=True).key_length
    fits = parameters.key_length in {None, length} and 1 <= parameters.iteration_count <= MAX_PBKDF2_ITERATIONS
    if prf not in _HMACS or not fits or len(parameters.salt) > _MAX_SALT:
        raise Rejected.because(Refusal.BAD_ALGORITHM, "these PBKDF2 parameters are not accepted")
    derive = PBKDF2HMAC(_HMACS[prf], length, parameters.salt, parameters.iteration_count)
    return derive.derive(password.reveal())


def _is_for(rid: Rid, certificate: x509.Certificate) -> bool:
    """Whether a recipient identifier names the certificate."""
    if isinstance(rid, messages.RecipientKeyIdentifier):
        rid = rid.subject_key_identifier
    if isinstance(rid, bytes):
        return subject_key_identifier(certificate) == rid
    return rid.serial_number == certificate.serial_number and names_issuer(messages.octets(rid.issuer), certificate)


def _recipients(infos: asn1.TLV) -> tuple[RecipientInfo, ...]:
    """The RecipientInfos of the universal SET; kinds that nobody here knows are passed over."""
    if infos.tag_bytes != b"\x31":
        raise malformed("expected a SET of RecipientInfo")
    found: list[RecipientInfo] = []
    for count, element in enumerate(children(bytes(infos.data)), 1):
        if count > _MAX_RECIPIENTS:
            raise Rejected.because(Refusal.LIMIT, "the envelope has too many recipients")
        if element.tag == b"\xa4":
            continue
        found.append(messages.decode(messages.OneRecipientInfo, sequence(element.whole), "RecipientInfo").info)
    return tuple(found)


def _encrypted(der: bytes, mac: bytes) -> tuple[str, Encrypted]:
    """Content type and ciphertext of an EncryptedContentInfo, whose content may come in segments."""
    parts = list(children(next(children(der)).content))
    if not 2 <= len(parts) <= 3:
        raise malformed("not a well-formed EncryptedContentInfo")
    content_type = messages.decode(ObjectIdentifier, parts[0].whole, "content type").dotted_string
    algorithm = messages.decode(messages.AlgorithmIdentifier, parts[1].whole, "content encryption algorithm")
    if len(parts) == 2:
        raise malformed("the encrypted content is missing")
    content = parts[2]
    if content.tag == b"\x80":
        return content_type, Encrypted(algorithm, content.content, mac)
    if content.tag != b"\xa0":
        raise malformed("not a well-formed EncryptedContentInfo")
    segments = list(children(content.content))
    if any(segment.tag != b"\x04" for segment in segments):
        raise malformed("encrypted content in segments that are not octet strings")
    return content_type, Encrypted(algorithm, b"".join(segment.content for segment in segments), mac)
