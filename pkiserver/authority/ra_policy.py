"""What can be set about an authority's registration authority for SCEP: whose key signs answers and opens envelopes."""

from __future__ import annotations

import enum
from datetime import timedelta

import attrs

from pkiserver.keys.algorithms import KeyFamily, KeyType


class RaKeys(enum.StrEnum):
    """Which keys SCEP works with."""

    ONE = "one"
    """A registration authority's key of its own that signs and opens."""
    TWO = "two"
    """One that signs and one that opens."""
    AUTHORITY = "authority"
    """The CA's own key: RSA only, and made for it (``pkiserver ca create --scep``)."""


def _rsa(_instance: object, _attribute: object, value: str) -> None:
    if KeyType.parse(value).family is not KeyFamily.RSA:
        raise ValueError("must be an RSA key type: envelopes are opened with it")


def _lasting(_instance: object, _attribute: object, value: timedelta) -> None:
    if value < timedelta(hours=1):
        raise ValueError("must be an hour or more")


@attrs.frozen
class ScepPolicy:
    """How SCEP speaks for an authority.

    Attributes:
        ra: Which keys SCEP works with.
        key_type: The type of a registration authority's key.
        certificate_validity: How long its certificates live; never longer than the CA's.
        renew_before: How long before its end a successor takes over.
    """

    ra: RaKeys = RaKeys.ONE
    key_type: str = attrs.field(default="rsa-2048", validator=_rsa)
    certificate_validity: timedelta = attrs.field(default=timedelta(days=365), validator=_lasting)
    renew_before: timedelta = timedelta(days=60)

    def __attrs_post_init__(self) -> None:
        if not timedelta() <= self.renew_before < self.certificate_validity:
            raise ValueError("renew_before must be shorter than certificate_validity")
