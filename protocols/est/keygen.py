"""Server-side key generation (RFC 7030 section 4.4): the key, a request in its name, and the form in which it leaves.

The client's public key and signature are ignored, as section 4.4.1 demands: the request is written anew around the key
that was generated here and signed with it, so that everything after this sees an ordinary request.
"""

from __future__ import annotations

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa

from pkiserver.authority.templates.model import Template
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.keys.algorithms import CURVES, KeyFamily, KeyType, PrivateKey, SignatureScheme
from protocols.cms import oids, signing
from protocols.cms.announcing import sign_with
from protocols.cms.ber import header
from protocols.cms.ciphers import ContentCipher, KeyWrap
from protocols.cms.enveloped import seal
from protocols.cms.messages import ContentInfo, decode, octets, tlv
from protocols.cms.recipients import EcRecipient, Recipient, RsaRecipient, SharedKeyRecipient, subject_key_identifier
from protocols.cms.signing import SignedContent
from protocols.est.messages import CHALLENGE_PASSWORD, RequestInfo, RequestOutline
from protocols.est.ports import EstEngine, PackageSigner

_LEFT_OUT = frozenset({CHALLENGE_PASSWORD, oids.DECRYPT_KEY_ID, oids.ASYMM_DECRYPT_KEY_ID, oids.SMIME_CAPABILITIES})
_WRAP_CIPHERS = {16: ContentCipher.AES128_CBC, 24: ContentCipher.AES192_CBC, 32: ContentCipher.AES256_CBC}


def key_type_for(template: Template) -> KeyType:
    """The type of key to generate. Raises :class:`Rejected` where the template does not offer key generation."""
    if not template.est.server_keygen:
        raise Rejected.because(Refusal.UNSUPPORTED, "this template does not offer server-side key generation")
    chosen = template.est.server_keygen_key or (template.keys[0] if template.keys else None)
    if chosen is None:
        raise Rejected.because(Refusal.CONFIGURATION, "the template names no type of key to generate")
    return chosen


def generate(kind: KeyType) -> PrivateKey:
    """A new private key. Takes seconds for large RSA keys: not for the reactor's thread."""
    if kind.family is KeyFamily.RSA:
        return rsa.generate_private_key(65537, kind.size)
    if kind.family is KeyFamily.EC:
        return ec.generate_private_key(CURVES[kind.size])
    if kind.family is KeyFamily.ED:
        return (ed25519.Ed25519PrivateKey if kind.size == 25519 else ed448.Ed448PrivateKey).generate()
    if kind.size == 44:
        return mldsa.MLDSA44PrivateKey.generate()
    return (mldsa.MLDSA65PrivateKey if kind.size == 65 else mldsa.MLDSA87PrivateKey).generate()


def pkcs8(key: PrivateKey) -> bytes:
    """The DER PrivateKeyInfo, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def request_for(key: PrivateKey, outline: RequestOutline) -> bytes:
    """A DER PKCS#10 request with subject and lasting attributes of the client's, for ``key`` and signed by it."""
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    kept = [
        signing.attribute(oid, *values) for oid, values in outline.attributes.items if oid not in _LEFT_OUT and values
    ]
    info = octets(
        RequestInfo(
            version=0,
            subject=tlv(outline.subject),
            public_key_info=tlv(spki),
            attributes=[tlv(item) for item in sorted(kept)],
        )
    )
    scheme = SignatureScheme.default_for(key.public_key())
    signature = b"\x00" + sign_with(key, scheme, info)
    content = info + scheme.algorithm_identifier() + header(b"\x03", len(signature)) + signature
    return header(b"\x30", len(content)) + content


@attrs.frozen
class Protection:
    """How the private key is to be encrypted on top of TLS, and who signs the package inside."""

    recipient: Recipient
    cipher: ContentCipher
    signer: PackageSigner


async def protection_for(
    engine: EstEngine, template: Template, outline: RequestOutline, client: x509.Certificate | None
) -> Protection | None:
    """The protection that the request asks for, or None where it asks for none.

    Args:
        engine: finds shared keys and the signer of packages.
        template: the template of the request.
        outline: the request.
        client: the certificate of the TLS connection, whose key is the only asymmetric one that can be named.

    Raises:
        Rejected: the named key is not known, its use is restricted, or no algorithm is shared.
    """
    if outline.decrypt_key_id is None and outline.asymmetric_decrypt_key_id is None:
        return None
    if outline.decrypt_key_id is not None and outline.asymmetric_decrypt_key_id is not None:
        raise Rejected.because(Refusal.MALFORMED, "the request names two keys to encrypt the new key to")
    if outline.capabilities is None:
        raise Rejected.because(
            Refusal.MALFORMED, "a request for an encrypted key needs SMIMECapabilities (RFC 7030 section 4.4.1)"
        )
    cipher = _cipher(outline.capabilities)
    if outline.decrypt_key_id is not None:
        recipient = await _shared(engine, outline.decrypt_key_id, outline.capabilities)
    else:
        recipient = _asymmetric(outline.asymmetric_decrypt_key_id or b"", outline.capabilities, client)
    signer = await engine.package_signer(template)
    if signer is None:
        raise Rejected.because(Refusal.UNSUPPORTED, "this server has no key to sign packages of encrypted keys with")
    return Protection(recipient, cipher, signer)


async def _shared(engine: EstEngine, identifier: bytes, capabilities: tuple[str, ...]) -> Recipient:
    key = await engine.shared_key(identifier)
    if key is None:
        raise Rejected.because(Refusal.NOT_AUTHORISED, "no symmetric key with that DecryptKeyIdentifier is known")
    wrap = next((one for one in KeyWrap if one.key_length == len(key.reveal())), None)
    if wrap is None or wrap.oid not in capabilities:
        raise Rejected.because(Refusal.BAD_ALGORITHM, "SMIMECapabilities do not list the key wrap of the named key")
    return SharedKeyRecipient(identifier, key)


def _asymmetric(identifier: bytes, capabilities: tuple[str, ...], client: x509.Certificate | None) -> Recipient:
    if client is None or identifier not in _identifiers(client):
        raise Rejected.because(
            Refusal.NOT_AUTHORISED,
            "no public key with that AsymmetricDecryptKeyIdentifier is known: give the subject key identifier of the "
            "certificate that the TLS connection was opened with",
        )
    public_key = client.public_key()
    by_key = subject_key_identifier(client)
    if isinstance(public_key, rsa.RSAPublicKey) and _may(client, "key_encipherment"):
        return RsaRecipient(client, by_key, oaep=oids.RSA_OAEP in capabilities)
    if isinstance(public_key, ec.EllipticCurvePublicKey) and _may(client, "key_agreement"):
        wrap = next((KeyWrap.of(oid) for oid in capabilities if oid in {one.oid for one in KeyWrap}), None)
        return EcRecipient(client, by_key, wrap)
    raise Rejected.because(Refusal.BAD_KEY, "the named key may be used neither for key transport nor for key agreement")


def _identifiers(certificate: x509.Certificate) -> frozenset[bytes]:
    """What a client may call the key of a certificate: the SKI in it, or the SHA-1 of RFC 5280 section 4.2.1.2."""
    computed = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest
    return frozenset({subject_key_identifier(certificate) or computed, computed})


def _may(certificate: x509.Certificate, usage: str) -> bool:
    """Whether key usage allows it, or is absent."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return bool(getattr(found, usage))


def _cipher(capabilities: tuple[str, ...]) -> ContentCipher:
    """The client's first content cipher that is ours too; a mere key wrap stands for AES-CBC of its size."""
    for oid in capabilities:
        for cipher in ContentCipher:
            if cipher.oid == oid and not cipher.legacy:
                return cipher
    for oid in capabilities:
        for wrap in KeyWrap:
            if wrap.oid == oid:
                return _WRAP_CIPHERS[wrap.key_length]
    raise Rejected.because(Refusal.BAD_ALGORITHM, "SMIMECapabilities list no encryption algorithm of this server (AES)")


async def protect(key: PrivateKey, protection: Protection) -> bytes:
    """The private key as AsymmetricKeyPackage (RFC 5958) in SignedData in EnvelopedData, DER.

    Raises:
        Unavailable: the signing key is away.
    """
    package = pkcs8(key)
    content = header(b"\x30", len(package)) + package
    signed = await signing.sign(
        SignedContent(oids.KEY_PACKAGE, content),
        protection.signer.profile,
        protection.signer.signer,
        certificates=protection.signer.certificates,
    )
    # What is encrypted is the SignedData itself: its type already stands in the EncryptedContentInfo.
    bare = octets(decode(ContentInfo, signed, "ContentInfo").content)
    return seal(bare, (protection.recipient,), cipher=protection.cipher, content_type=oids.SIGNED_DATA)
