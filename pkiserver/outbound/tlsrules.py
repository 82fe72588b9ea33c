"""How a connection outwards is secured, as a setting; and the bounds of its waits."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import attrs

from pkiserver.foundation.tomlfile import Invalid
from pkiserver.outbound.pem import PemCertificates, PemFile

if TYPE_CHECKING:
    from pkiserver.outbound.trust import TlsTrust


def positive(_instance: object, _attribute: object, value: timedelta) -> None:
    """A validator: longer than nothing, and not forever."""
    if not timedelta() < value <= timedelta(minutes=2):
        raise Invalid("is out of range", allowed="more than 0s, at most 2m")


@attrs.frozen
class TlsRules:
    """Whom to trust, and how to show oneself. ``trust``: PEM text or ``file:/path``; there is no default.

    ``certificate``, ``key``: PEM files, read when they are needed.
    """

    trust: PemCertificates
    certificate: PemFile | None = None
    key: PemFile | None = None

    def __attrs_post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise Invalid("certificate and key go together", key="certificate")

    def to_trust(self, alpn: tuple[bytes, ...] = ()) -> TlsTrust:
        """As the connections want it."""
        from pkiserver.outbound.trust import ClientIdentity, TlsTrust

        pair = (self.certificate, self.key)
        identity = ClientIdentity(pair[0].path, pair[1].path) if pair[0] is not None and pair[1] is not None else None
        return TlsTrust(self.trust, identity, alpn)
