"""Certs-only messages: SignedData without signers (RFC 5652 section 5, RFC 5272 section 4.1), as in a ``.p7c``."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from pkiserver.foundation import der
from protocols.cms import oids
from protocols.cms.ber import DEFAULT_LIMITS, BerLimits, malformed, to_der
from protocols.cms.messages import ContentInfo, SignedData, content_info, decode, octets

_SEQUENCE = b"\x30"
_NO_SIGNERS = der.tlv(der.SET)
_BEFORE = der.integer(1) + der.tlv(der.SET) + der.sequence(der.object_identifier(oids.DATA))
"""Of each such SignedData: version, no digest algorithms, no content."""


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
    signed = der.sequence(_BEFORE, _implicit_set(0, certificates), _implicit_set(1, crls), _NO_SIGNERS)
    return content_info(oids.SIGNED_DATA, signed)


def _implicit_set(number: int, items: Iterable[bytes]) -> bytes:
    """``[number] IMPLICIT SET OF`` structures; nothing where there are none."""
    ordered = sorted(set(items))
    for item in ordered:
        try:
            der.whole(item)
        except der.NotDer as error:
            raise malformed("not a certificate or CRL") from error
    return der.tlv(der.context(number), *ordered) if ordered else b""


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
