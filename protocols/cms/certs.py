"""Certs-only messages: SignedData without signers (RFC 5652 section 5, RFC 5272 section 4.1), as in a ``.p7c``."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
from cryptography.x509 import ObjectIdentifier

from protocols.cms import oids
from protocols.cms.ber import DEFAULT_LIMITS, BerLimits, malformed, only_child, to_der
from protocols.cms.messages import (
    ContentInfo,
    EncapsulatedContentInfo,
    SignedData,
    content_info,
    decode,
    octets,
    set_tlv,
    tlv,
)

_SEQUENCE = b"\x30"


@attrs.frozen
class CertificateBag:
    """What a certs-only message carries: DER certificates and DER CRLs, in the order in which they stood."""

    certificates: tuple[bytes, ...]
    crls: tuple[bytes, ...] = ()


def build_certs_only(certificates: Iterable[bytes], crls: Iterable[bytes] = ()) -> bytes:
    """A DER certs-only ContentInfo.

    Args:
        certificates: DER certificates. The SET OF is put in DER order, duplicates are left out.
        crls: DER CertificateLists, treated alike; the field is absent when there is none.

    Raises:
        Rejected: something is not one DER SEQUENCE.
    """
    sorted_certificates = sorted(set(certificates))
    sorted_crls = sorted(set(crls))
    for item in (*sorted_certificates, *sorted_crls):
        if only_child(item).tag != _SEQUENCE:
            raise malformed("not a certificate or CRL")
    signed = SignedData(
        version=1,
        digest_algorithms=set_tlv(()),
        encap_content_info=EncapsulatedContentInfo(content_type=ObjectIdentifier(oids.DATA), content=None),
        certificates=[tlv(item) for item in sorted_certificates] or None,
        crls=[tlv(item) for item in sorted_crls] or None,
        signer_infos=set_tlv(()),
    )
    return content_info(oids.SIGNED_DATA, octets(signed))


def parse_certs_only(data: bytes, limits: BerLimits = DEFAULT_LIMITS) -> CertificateBag:
    """The certificates and CRLs in a SignedData, BER or DER, whether or not anybody signed it.

    Attribute certificates and other tagged choices are passed over.

    Raises:
        Rejected: not a SignedData, or over a limit.
    """
    info = decode(ContentInfo, to_der(data, limits), "CMS ContentInfo")
    if info.content_type.dotted_string != oids.SIGNED_DATA:
        raise malformed("not a CMS SignedData")
    signed = decode(SignedData, octets(info.content), "CMS SignedData")
    return CertificateBag(
        certificates=tuple(octets(item) for item in signed.certificates or () if item.tag_bytes == _SEQUENCE),
        crls=tuple(octets(item) for item in signed.crls or () if item.tag_bytes == _SEQUENCE),
    )
