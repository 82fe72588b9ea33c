"""Extensions of CRLs (RFC 5280 section 5.2) beyond those that every list has."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from pkiserver.foundation import der
from pkiserver.store.authority.crls import Cover, Covers

DELTA_INDICATOR = "2.5.29.27"
ISSUING_DISTRIBUTION_POINT = "2.5.29.28"
FRESHEST_CRL = "2.5.29.46"
EXPIRED_CERTS_ON_CRL = "2.5.29.60"

_TRUE = b"\x01\xff"


def distribution_point_name(urls: Iterable[str]) -> bytes:
    """The ``distributionPoint [0]`` field with these URLs, as certificates, freshestCRL and the IDP all have it."""
    full_name = der.tlv(0xA0, *(der.tlv(0x86, url.encode("ascii")) for url in urls))
    return der.tlv(0xA0, full_name)


def issuing_distribution_point(cover: Cover) -> tuple[bytes, ...]:
    """The critical extension that says what a list is about (RFC 5280 section 5.2.5).

    Nothing where it is about everything of its issuer.

    Raises:
        ValueError: the list is bounded to its distribution point, and has none.
    """
    fields = []
    if cover.bounded:
        if not cover.urls:
            raise ValueError("a list that is bounded to its distribution point needs one")
        fields.append(distribution_point_name(cover.urls))
    if cover.covers is Covers.USERS:
        fields.append(b"\x81" + _TRUE)
    elif cover.covers is Covers.AUTHORITIES:
        fields.append(b"\x82" + _TRUE)
    if not fields:
        return ()
    return (der.extension(ISSUING_DISTRIBUTION_POINT, der.sequence(*fields), critical=True),)


def delta_indicator(base_number: int) -> bytes:
    """The critical extension that makes a list a delta to a complete one (section 5.2.4)."""
    return der.extension(DELTA_INDICATOR, der.integer(base_number), critical=True)


def freshest_crl(urls: tuple[str, ...]) -> tuple[bytes, ...]:
    """Where the delta to a complete list is (section 5.2.6); nothing where there is none."""
    if not urls:
        return ()
    point = der.sequence(distribution_point_name(urls))
    return (der.extension(FRESHEST_CRL, der.sequence(point)),)


def expired_certs_on_crl(since: datetime) -> bytes:
    """Since when certificates that expired are still on the list (ITU-T X.509 clause 9.5.2.8)."""
    return der.extension(EXPIRED_CERTS_ON_CRL, der.generalized_time(since))
