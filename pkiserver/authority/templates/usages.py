"""Key usage and extended key usage by the names that templates use (RFC 5280 sections 4.2.1.3, 4.2.1.12)."""

from __future__ import annotations

from enum import StrEnum

from pkiserver.keys.algorithms import KeyFamily, KeyType


class Capability(StrEnum):
    """What a public key can be used for: RSA signs and transports, EC signs and agrees, the rest signs."""

    RSA = "RSA"
    EC = "EC"
    SIGNING = "signature-only"


def capability(key: KeyType) -> Capability:
    """What keys of this type can be used for."""
    if key.family is KeyFamily.RSA:
        return Capability.RSA
    return Capability.EC if key.family is KeyFamily.EC else Capability.SIGNING


class Usage(StrEnum):
    """Key usage bits, in the order of the BIT STRING."""

    DIGITAL_SIGNATURE = "digital_signature"
    CONTENT_COMMITMENT = "content_commitment"
    KEY_ENCIPHERMENT = "key_encipherment"
    DATA_ENCIPHERMENT = "data_encipherment"
    KEY_AGREEMENT = "key_agreement"
    KEY_CERT_SIGN = "key_cert_sign"
    CRL_SIGN = "crl_sign"
    ENCIPHER_ONLY = "encipher_only"
    DECIPHER_ONLY = "decipher_only"


SIGNING_USAGES = frozenset(
    {Usage.DIGITAL_SIGNATURE, Usage.CONTENT_COMMITMENT, Usage.KEY_CERT_SIGN, Usage.CRL_SIGN},
)
TRANSPORT_USAGES = frozenset({Usage.KEY_ENCIPHERMENT, Usage.DATA_ENCIPHERMENT})
AGREEMENT_USAGES = frozenset({Usage.KEY_AGREEMENT, Usage.ENCIPHER_ONLY, Usage.DECIPHER_ONLY})
CA_USAGES = frozenset({Usage.KEY_CERT_SIGN, Usage.CRL_SIGN})

# RFC 8813 section 3 forbids encipherment bits for EC keys, RFC 8410 section 5 all but signing for Edwards keys,
# RFC 9881 section 5 all but signing for ML-DSA; RFC 3279 section 2.3.1 gives RSA no key agreement.
USAGES_OF: dict[Capability, frozenset[Usage]] = {
    Capability.RSA: SIGNING_USAGES | TRANSPORT_USAGES,
    Capability.EC: SIGNING_USAGES | AGREEMENT_USAGES,
    Capability.SIGNING: SIGNING_USAGES,
}

ANY_EXTENDED = "2.5.29.37.0"
OCSP_SIGNING = "1.3.6.1.5.5.7.3.9"
TIME_STAMPING = "1.3.6.1.5.5.7.3.8"
SERVER_AUTH = "1.3.6.1.5.5.7.3.1"

EXTENDED_USAGES: dict[str, str] = {
    "server_auth": SERVER_AUTH,
    "client_auth": "1.3.6.1.5.5.7.3.2",
    "code_signing": "1.3.6.1.5.5.7.3.3",
    "email_protection": "1.3.6.1.5.5.7.3.4",
    "ipsec_end_system": "1.3.6.1.5.5.7.3.5",
    "ipsec_tunnel": "1.3.6.1.5.5.7.3.6",
    "ipsec_user": "1.3.6.1.5.5.7.3.7",
    "time_stamping": TIME_STAMPING,
    "ocsp_signing": OCSP_SIGNING,
    "eap_over_ppp": "1.3.6.1.5.5.7.3.13",
    "eap_over_lan": "1.3.6.1.5.5.7.3.14",
    "ipsec_ike": "1.3.6.1.5.5.7.3.17",
    "secure_shell_client": "1.3.6.1.5.5.7.3.21",
    "secure_shell_server": "1.3.6.1.5.5.7.3.22",
    "bundle_security": "1.3.6.1.5.5.7.3.35",
    "document_signing": "1.3.6.1.5.5.7.3.36",
    "cmc_ca": "1.3.6.1.5.5.7.3.27",
    "cmc_ra": "1.3.6.1.5.5.7.3.28",
    "cmp_kga": "1.3.6.1.5.5.7.3.32",
    "brand_indicator": "1.3.6.1.5.5.7.3.31",
    "kerberos_client": "1.3.6.1.5.2.3.4",
    "kerberos_kdc": "1.3.6.1.5.2.3.5",
    "smartcard_logon": "1.3.6.1.4.1.311.20.2.2",
    "enrollment_agent": "1.3.6.1.4.1.311.20.2.1",
    "efs": "1.3.6.1.4.1.311.10.3.4",
    "efs_recovery": "1.3.6.1.4.1.311.10.3.4.1",
    "ms_document_signing": "1.3.6.1.4.1.311.10.3.12",
    "bitlocker": "1.3.6.1.4.1.311.67.1.1",
    "bitlocker_recovery": "1.3.6.1.4.1.311.67.1.2",
    "remote_desktop": "1.3.6.1.4.1.311.54.1.2",
    "ms_kernel_mode_code_signing": "1.3.6.1.4.1.311.10.3.5",
    "piv_content_signing": "2.16.840.1.101.3.6.7",
    "piv_card_authentication": "2.16.840.1.101.3.6.8",
    "adobe_document_signing": "1.2.840.113583.1.1.5",
    "any": ANY_EXTENDED,
}
NAME_OF_USAGE: dict[str, str] = {oid: name for name, oid in EXTENDED_USAGES.items()}


def extended_usage_oid(name: str) -> str:
    """The OID that a template's name or dotted OID stands for; raises :class:`KeyError` for an unknown name."""
    return name if name[:1].isdigit() else EXTENDED_USAGES[name]
