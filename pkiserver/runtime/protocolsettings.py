"""What an operator sets about protocols on this node.

The protocols' own settings classes are above this room, which the engine imports too; ``runtime.services`` hands these
over to them, and a test holds the names and defaults together.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Literal

import attrs

from pkiserver.foundation.bounds import lasting
from pkiserver.foundation.tomlfile import Invalid

Base64 = Literal["auto", "wrapped", "single_line"]


def _realm(_instance: object, _attribute: object, value: str) -> None:
    if not value.isascii() or not value.isprintable() or '"' in value or "\\" in value:
        raise Invalid(f"{value!r} cannot be shown", allowed="printable ASCII without quotes and backslashes")


@attrs.frozen
class EstNodeSettings:
    """Enrolment over EST (RFC 7030)."""

    default_template: str = ""
    """The template for paths without a label; empty: the only one that EST may use, if there is exactly one."""
    base64: Base64 = "auto"
    """How answers are written: in lines (RFC 7030), as one line (RFC 8951), or by what the client is known to read."""
    base64_by_label: Mapping[str, Base64] = attrs.field(factory=dict)
    realm: str = attrs.field(default="EST", validator=_realm)
    """Shown when a name and password are asked for."""
    keygen_parallel: int = attrs.field(default=1, validator=attrs.validators.in_(range(1, 33)))
    """Keys that each worker generates for clients at the same time."""
    keygen_waiting: int = attrs.field(default=16, validator=attrs.validators.in_(range(1, 1025)))
    """Requests for such keys that may wait; more are told to come back."""


@attrs.frozen
class OcspNodeSettings:
    """OCSP answers (RFC 6960)."""

    max_requests: int = attrs.field(default=16, validator=attrs.validators.in_(range(1, 101)))
    """Certificates that one request may ask about."""


@attrs.frozen
class ScepNodeSettings:
    """Enrolment over SCEP (RFC 8894)."""

    default_template: str = ""
    """The template for ``/cgi-bin/pkiclient.exe`` and ``/certsrv/mscep/mscep.dll``; empty: those paths do not exist."""
    password_parallel: int = attrs.field(default=1, validator=attrs.validators.in_(range(1, 33)))
    """Answers under a challengePassword that each worker makes at the same time."""
    password_waiting: int = attrs.field(default=16, validator=attrs.validators.in_(range(1, 1025)))
    """Such answers that may wait; more clients are told to come back."""


@attrs.frozen
class SelfCheckSettings:
    """Reading our own CRLs and OCSP answers back, as a client does, from the URLs in our certificates."""

    enabled: bool = True
    interval: timedelta = attrs.field(
        default=timedelta(minutes=1), validator=lasting(timedelta(seconds=1), timedelta(days=1))
    )
