"""What can be set about an authority's registration authority for SCEP: whose key signs answers and opens envelopes."""

from __future__ import annotations

import enum
from collections.abc import Collection
from datetime import timedelta

import attrs

from pkiserver.foundation.bounds import lasting
from pkiserver.foundation.tomlfile import Invalid, format_duration
from pkiserver.keys.algorithms import KeyFamily, KeyType
from pkiserver.keys.doors import Door


class RaKeys(enum.StrEnum):
    """Which keys SCEP works with."""

    ONE = "one"
    """A registration authority's key of its own that signs and opens."""
    TWO = "two"
    """One that signs and one that opens."""
    AUTHORITY = "authority"
    """The CA's own key: RSA only, and made for it (``pkiserver ca create --scep``)."""


def opens_envelopes(key_type: KeyType, doors: Collection[str]) -> bool:
    """Whether a key of this type with these doors can sign SCEP's answers and open its envelopes."""
    return key_type.family is KeyFamily.RSA and Door.CMS in doors and Door.OPEN in doors


def _rsa(_instance: object, _attribute: object, value: str) -> None:
    if KeyType.parse(value).family is not KeyFamily.RSA:
        raise Invalid("envelopes are opened with an RSA key", allowed="rsa-2048 to rsa-8192")


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
    certificate_validity: timedelta = attrs.field(
        default=timedelta(days=365), validator=lasting(timedelta(hours=1), timedelta(days=36_500))
    )
    renew_before: timedelta = timedelta(days=60)

    def __attrs_post_init__(self) -> None:
        if not timedelta() <= self.renew_before < self.certificate_validity:
            allowed = f"0s to less than {format_duration(self.certificate_validity)}"
            raise Invalid("must be shorter than certificate_validity", key="renew_before", allowed=allowed)
