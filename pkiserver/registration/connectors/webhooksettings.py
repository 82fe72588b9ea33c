"""Settings of a webhook connector."""

from __future__ import annotations

from datetime import timedelta

import attrs

from pkiserver.foundation.tomlfile import Invalid
from pkiserver.keys.secretref import SecretReference
from pkiserver.outbound.addresses import Timeouts, WebAddress
from pkiserver.outbound.tlsrules import TlsRules, positive
from pkiserver.registration.connectors.mapping import AttributeMap


@attrs.frozen
class WebhookSettings:
    """A web service that is asked. Both directions are signed with ``secret`` (HMAC-SHA-256).

    ``tls`` names the authorities of the service's certificate, and our certificate for mutual TLS.
    """

    url: WebAddress
    secret: SecretReference
    tls: TlsRules | None = None
    connect_timeout: timedelta = attrs.field(default=timedelta(seconds=3), validator=positive)
    answer_timeout: timedelta = attrs.field(default=timedelta(seconds=10), validator=positive)
    attributes: tuple[AttributeMap, ...] = ()
    required_groups: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        if self.url.scheme == "http" and not self.url.is_local:
            raise Invalid("passwords would travel in the clear; http:// is for this machine only", key="url")
        if (self.url.scheme == "https") != (self.tls is not None):
            raise Invalid("[webhook.tls] goes with https://, which needs it", key="url")

    @property
    def timeouts(self) -> Timeouts:
        """How long to wait."""
        return Timeouts(self.connect_timeout, self.answer_timeout)
