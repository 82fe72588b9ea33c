"""The operator's settings as the protocols' own: the names are the same, only some types differ."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import attrs

from pkiserver.runtime.httplimits import HttpLimits
from pkiserver.runtime.protocolsettings import EstNodeSettings, OcspNodeSettings
from protocols.est.messages import Base64Form
from protocols.est.ports import EstSettings
from protocols.ocsp.edge import OcspSettings
from protocols.web.limits import AccessLog, WebLimits


def web_limits(limits: HttpLimits) -> WebLimits:
    """Limits of an HTTP listener."""
    edge: dict[str, Any] = {}
    for field in attrs.fields(HttpLimits):
        value = getattr(limits, field.name)
        if isinstance(value, timedelta):
            edge[f"{field.name}_seconds"] = value.total_seconds()
        else:
            edge[field.name] = AccessLog(value) if field.name == "access_log" else value
    return WebLimits(**edge)


def est_settings(settings: EstNodeSettings) -> EstSettings:
    """How EST answers."""
    return EstSettings(
        default_template=settings.default_template,
        base64=Base64Form(settings.base64),
        base64_by_label={label: Base64Form(form) for label, form in settings.base64_by_label.items()},
        realm=settings.realm,
        keygen_parallel=settings.keygen_parallel,
        keygen_waiting=settings.keygen_waiting,
    )


def ocsp_settings(settings: OcspNodeSettings) -> OcspSettings:
    """How OCSP answers."""
    return OcspSettings(max_requests=settings.max_requests)
