"""Settings of an MDM whose challenges are asked about."""

from __future__ import annotations

from datetime import timedelta

import attrs

from pkiserver.foundation.tomlfile import Invalid
from pkiserver.keys.secretref import SecretReference
from pkiserver.outbound.addresses import WebAddress
from pkiserver.outbound.tlsrules import TlsRules, positive


@attrs.frozen
class IntuneSettings:
    """The service: ``/ScepActions/...`` is appended to ``url``; ``token_url`` gives tokens to ``client_id``."""

    url: WebAddress
    token_url: WebAddress
    client_id: str
    client_secret: SecretReference
    tls: TlsRules | None = None
    scope: str = "https://api.manage.microsoft.com/.default"
    caller: str = "pkiserver"
    connect_timeout: timedelta = attrs.field(default=timedelta(seconds=3), validator=positive)
    answer_timeout: timedelta = attrs.field(default=timedelta(seconds=10), validator=positive)

    def __attrs_post_init__(self) -> None:
        for key in ("url", "token_url"):
            address: WebAddress = getattr(self, key)
            if address.scheme == "http" and not address.is_local:
                raise Invalid("secrets would travel in the clear; http:// is for this machine only", key=key)
            if address.scheme == "https" and self.tls is None:
                raise Invalid("https:// needs [intune.tls]", key=key)
