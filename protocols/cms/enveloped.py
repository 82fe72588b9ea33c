"""Building EnvelopedData (RFC 5652 section 6) and AuthEnvelopedData (RFC 5083)."""

from __future__ import annotations

import os

from cryptography.x509 import ObjectIdentifier

from protocols.cms import messages, oids
from protocols.cms.ciphers import ContentCipher, encrypt
from protocols.cms.recipients import EcRecipient, PasswordRecipient, Recipient, RsaRecipient, recipient_infos


def seal(
    content: bytes,
    recipients: tuple[Recipient, ...],
    *,
    cipher: ContentCipher = ContentCipher.AES256_CBC,
    content_type: str = oids.DATA,
) -> bytes:
    """Encrypt ``content`` for ``recipients`` under a fresh content key.

    Args:
        content: the octets of the inner content; for a type other than *data* its DER.
        recipients: at least one.
        cipher: a legacy cipher is used when given: whoever gives it has decided that.
        content_type: dotted OID of what is inside.

    Returns:
        A DER ContentInfo: EnvelopedData for CBC ciphers, AuthEnvelopedData for GCM.

    Raises:
        Rejected: a recipient's key does not suit its kind.
    """
    if not recipients:
        raise ValueError("an envelope needs a recipient")
    content_key = os.urandom(cipher.key_length)
    infos = recipient_infos(recipients, content_key)
    sealed = encrypt(cipher, content_key, content)
    inner = messages.tlv(
        messages.octets(
            messages.EncryptedContentInfo(
                content_type=ObjectIdentifier(content_type),
                content_encryption_algorithm=sealed.algorithm,
                encrypted_content=sealed.ciphertext,
            )
        )
    )
    if cipher.authenticated:
        authenticated = messages.AuthEnvelopedData(
            version=0,
            originator_info=None,
            recipient_infos=infos,
            auth_encrypted_content_info=inner,
            auth_attrs=None,
            mac=sealed.tag,
            unauth_attrs=None,
        )
        return messages.content_info(oids.AUTH_ENVELOPED_DATA, messages.octets(authenticated))
    enveloped = messages.EnvelopedData(
        version=_version(recipients),
        originator_info=None,
        recipient_infos=infos,
        encrypted_content_info=inner,
        unprotected_attrs=None,
    )
    return messages.content_info(oids.ENVELOPED_DATA, messages.octets(enveloped))


def _version(recipients: tuple[Recipient, ...]) -> int:
    """CMSVersion by the rules of RFC 5652 section 6.1, without originatorInfo and unprotectedAttrs."""
    if any(isinstance(recipient, PasswordRecipient) for recipient in recipients):
        return 3
    plain = all(isinstance(item, RsaRecipient | EcRecipient) and item.syntax_version == 0 for item in recipients)
    return 0 if plain else 2
