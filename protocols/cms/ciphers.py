"""Content encryption and key wrapping for CMS: AES-CBC, AES-GCM, AES key wrap; DES only where a caller allows it.

Everything that goes wrong while decrypting raises the one :class:`DecryptionFailed`, with no word about what it was.
"""

from __future__ import annotations

import enum
import os

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import keywrap, padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pkiserver.foundation.errors import Refusal, Rejected
from protocols.cms import oids
from protocols.cms.ber import malformed
from protocols.cms.messages import AlgorithmIdentifier, GcmParameters, algorithm, decode, octets, parameters_of

_DES_KEY, _DES_BLOCK, _AES_BLOCK = 8, 8, 16
_GCM_NONCE, _GCM_TAG = 12, 16


class DecryptionFailed(Exception):
    """Decryption did not work. Never says why: a padding oracle lives on the difference."""


class ContentCipher(enum.Enum):
    """A content-encryption algorithm as (OID, key octets, legacy, authenticated)."""

    AES128_CBC = (oids.AES128_CBC, 16, False, False)
    AES192_CBC = (oids.AES192_CBC, 24, False, False)
    AES256_CBC = (oids.AES256_CBC, 32, False, False)
    AES128_GCM = (oids.AES128_GCM, 16, False, True)
    AES192_GCM = (oids.AES192_GCM, 24, False, True)
    AES256_GCM = (oids.AES256_GCM, 32, False, True)
    DES_EDE3_CBC = (oids.DES_EDE3_CBC, 24, True, False)
    DES_CBC = (oids.DES_CBC, 8, True, False)

    def __init__(self, oid: str, key_length: int, legacy: bool, authenticated: bool) -> None:
        self.oid = oid
        self.key_length = key_length
        self.legacy = legacy
        self.authenticated = authenticated

    @classmethod
    def of(cls, oid: str, *, allow_legacy: bool = False) -> ContentCipher:
        """The cipher with this OID. Raises :class:`Rejected` (bad algorithm) if unknown, or legacy and not allowed."""
        for member in cls:
            if member.oid == oid and (allow_legacy or not member.legacy):
                return member
        raise Rejected.because(Refusal.BAD_ALGORITHM, f"content encryption algorithm {oid} is not accepted")


@attrs.frozen
class Encrypted:
    """Ciphertext with the parameters to open it; ``tag`` is empty where the cipher does not authenticate."""

    algorithm: AlgorithmIdentifier
    ciphertext: bytes = attrs.field(repr=False)
    tag: bytes = b""


def encrypt(cipher: ContentCipher, key: bytes, plaintext: bytes, associated: bytes = b"") -> Encrypted:
    """Encrypt under a fresh IV or nonce.

    Args:
        cipher: the algorithm; the caller decides whether a legacy one is right.
        key: ``cipher.key_length`` octets.
        plaintext: the content.
        associated: for authenticated ciphers, the DER authAttrs that are covered too.
    """
    if cipher.authenticated:
        nonce = os.urandom(_GCM_NONCE)
        sealed = AESGCM(key).encrypt(nonce, plaintext, associated or None)
        parameters = octets(GcmParameters(nonce=nonce, icv_length=_GCM_TAG))
        return Encrypted(algorithm(cipher.oid, parameters), sealed[:-_GCM_TAG], sealed[-_GCM_TAG:])
    block = _DES_BLOCK if cipher.legacy else _AES_BLOCK
    iv = os.urandom(block)
    padder = padding.PKCS7(block * 8).padder()
    encryptor = _cbc(cipher, key, iv).encryptor()
    padded = padder.update(plaintext) + padder.finalize()
    return Encrypted(algorithm(cipher.oid, octets(iv)), encryptor.update(padded) + encryptor.finalize())


def decrypt(cipher: ContentCipher, key: bytes, sealed: Encrypted, associated: bytes = b"") -> bytes:
    """Undo :func:`encrypt`.

    Raises:
        DecryptionFailed: wrong key, bad padding, bad tag or impossible lengths.
        Rejected: the algorithm parameters are malformed (they are public, so saying so gives nothing away).
    """
    if cipher.authenticated:
        parameters = decode(GcmParameters, parameters_of(sealed.algorithm) or b"", "GCMParameters")
        if parameters.icv_length != len(sealed.tag) or not _GCM_NONCE <= len(sealed.tag) <= _GCM_TAG:
            raise malformed("a GCM authentication tag of the wrong length")
        if not parameters.nonce:
            raise malformed("GCM without a nonce")
        return _open_gcm(key, parameters.nonce, sealed, associated)
    iv = decode(bytes, parameters_of(sealed.algorithm) or b"", "initialisation vector")
    block = _DES_BLOCK if cipher.legacy else _AES_BLOCK
    if len(iv) != block:
        raise malformed("an initialisation vector of the wrong length")
    if not sealed.ciphertext or len(sealed.ciphertext) % block:
        raise DecryptionFailed
    decryptor = _cbc(cipher, key, iv).decryptor()
    padded = decryptor.update(sealed.ciphertext) + decryptor.finalize()
    unpadder = padding.PKCS7(block * 8).unpadder()
    try:
        return unpadder.update(padded) + unpadder.finalize()
    except ValueError as error:
        raise DecryptionFailed from error


def _open_gcm(key: bytes, nonce: bytes, sealed: Encrypted, associated: bytes) -> bytes:
    """GCM with tags of 12 to 16 octets, which the one-shot interface cannot do."""
    try:
        mode = modes.GCM(nonce, sealed.tag, min_tag_length=_GCM_NONCE)
        decryptor = Cipher(algorithms.AES(key), mode).decryptor()
        decryptor.authenticate_additional_data(associated)
        return decryptor.update(sealed.ciphertext) + decryptor.finalize()
    except (InvalidTag, ValueError) as error:
        raise DecryptionFailed from error


def _cbc(cipher: ContentCipher, key: bytes, iv: bytes) -> Cipher[modes.CBC]:
    """A CBC cipher object; single DES is triple DES with one key three times."""
    if not cipher.legacy:
        return Cipher(algorithms.AES(key), modes.CBC(iv))
    return Cipher(TripleDES(key * 3 if len(key) == _DES_KEY else key), modes.CBC(iv))


class KeyWrap(enum.Enum):
    """AES key wrap (RFC 3394) as (OID, key octets)."""

    AES128 = (oids.AES128_WRAP, 16)
    AES192 = (oids.AES192_WRAP, 24)
    AES256 = (oids.AES256_WRAP, 32)

    def __init__(self, oid: str, key_length: int) -> None:
        self.oid = oid
        self.key_length = key_length

    @classmethod
    def of(cls, oid: str) -> KeyWrap:
        """The wrap with this OID. Raises :class:`Rejected` (bad algorithm) for any other."""
        for member in cls:
            if member.oid == oid:
                return member
        raise Rejected.because(Refusal.BAD_ALGORITHM, f"key wrap algorithm {oid} is not accepted")

    @property
    def identifier(self) -> AlgorithmIdentifier:
        """The AlgorithmIdentifier, whose parameters are absent (RFC 3565 section 2.3.2)."""
        return algorithm(self.oid)


def wrap_key(kek: bytes, key: bytes) -> bytes:
    """AES key wrap of a content key of 16 octets or more, in multiples of eight."""
    return keywrap.aes_key_wrap(kek, key)


def unwrap_key(kek: bytes, wrapped: bytes) -> bytes:
    """Undo :func:`wrap_key`. Raises :class:`DecryptionFailed`."""
    try:
        return keywrap.aes_key_unwrap(kek, wrapped)
    except (keywrap.InvalidUnwrap, ValueError) as error:
        raise DecryptionFailed from error


def pwri_wrap(cipher: ContentCipher, kek: bytes, key: bytes) -> tuple[AlgorithmIdentifier, bytes]:
    """Wrap a content key under a password-derived key: id-alg-PWRI-KEK (RFC 5652 section 6.2.4, RFC 3211).

    Returns:
        The key-encryption AlgorithmIdentifier and the wrapped key.
    """
    block = _DES_BLOCK if cipher.legacy else _AES_BLOCK
    iv = os.urandom(block)
    block_of_key = bytes((len(key), *(0xFF ^ octet for octet in key[:3]))) + key
    total = max(2 * block, -(-len(block_of_key) // block) * block)
    block_of_key += os.urandom(total - len(block_of_key))
    encryptor = _cbc(cipher, kek, iv).encryptor()
    wrapped = encryptor.update(block_of_key)
    wrapped = encryptor.update(wrapped)
    return algorithm(oids.PWRI_KEK, octets(algorithm(cipher.oid, octets(iv)))), wrapped


def pwri_unwrap(identifier: AlgorithmIdentifier, kek: bytes, wrapped: bytes, *, allow_legacy: bool = False) -> bytes:
    """Undo :func:`pwri_wrap`. Raises :class:`DecryptionFailed`, or :class:`Rejected` for parameters or algorithms."""
    inner = decode(AlgorithmIdentifier, parameters_of(identifier) or b"", "PWRI-KEK parameters")
    cipher = ContentCipher.of(inner.algorithm.dotted_string, allow_legacy=allow_legacy)
    iv = decode(bytes, parameters_of(inner) or b"", "initialisation vector")
    block = _DES_BLOCK if cipher.legacy else _AES_BLOCK
    if cipher.authenticated or len(iv) != block or len(kek) != cipher.key_length:
        raise malformed("PWRI-KEK parameters that do not fit together")
    if len(wrapped) < 2 * block or len(wrapped) % block:
        raise DecryptionFailed
    inner_iv_source = _cbc(cipher, kek, wrapped[-2 * block : -block]).decryptor()
    last = inner_iv_source.update(wrapped[-block:])
    once = _cbc(cipher, kek, last).decryptor().update(wrapped)
    plain = _cbc(cipher, kek, iv).decryptor().update(once)
    length, key = plain[0], plain[4 : 4 + plain[0]]
    check = bytes(0xFF ^ octet for octet in plain[4:7])
    if length > len(plain) - 4 or check != plain[1:4]:
        raise DecryptionFailed
    return key
