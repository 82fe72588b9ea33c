"""The template that most tests want: a device that names itself, and shows itself to servers by its certificate."""

from __future__ import annotations

import json
from collections.abc import Sequence

_HOSTS = '[[sans.parts]]\nkind = "dns"\nfrom = "request"\n'


def device_template(
    name: str = "device",
    *,
    issuer: str = "issuing",
    keys: Sequence[str] = ("ec-p256",),
    protocols: Sequence[str] = ("est",),
    usages: Sequence[str] = ("digital_signature",),
    hosts: bool = True,
    head: str = "",
    more: str = "",
) -> str:
    """Its TOML: valid for 90 days, the common name from the request.

    Args:
        name: Its name.
        issuer: The authority that issues.
        keys: Which keys it allows.
        protocols: By which requests may come.
        usages: The key usage.
        hosts: Whether host names are taken from the request too.
        head: More keys of its own, and tables that go before the subject's.
        more: More tables.
    """
    return f"""
name = "{name}"
issuer = "{issuer}"
keys = {json.dumps(keys)}
protocols = {json.dumps(protocols)}
{head}
[validity]
duration = "90d"
[[subject.parts]]
attribute = "common_name"
from = "request"
required = true
{_HOSTS if hosts else ""}[key_usage]
usages = {json.dumps(usages)}
[extended_key_usage]
usages = ["client_auth"]
{more}
"""
