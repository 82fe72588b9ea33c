"""Settings of a RADIUS connector."""

from __future__ import annotations

import re
from datetime import timedelta
from enum import StrEnum
from functools import cache
from importlib.resources import files
from urllib.parse import urlsplit

import attrs

from pkiserver.foundation.tomlfile import Invalid
from pkiserver.keys.secretref import SecretReference
from pkiserver.outbound.tlsrules import positive
from pkiserver.registration.connectors.mapping import AttributeMap

_BY_NUMBER = re.compile(r"\d{1,10}/\d{1,3}")


@cache
def dictionary_text() -> str:
    """Our own dictionary of attributes; no file of the machine is read."""
    return files("pkiserver.registration.connectors").joinpath("radius.dictionary").read_text()


@cache
def known_names() -> tuple[str, ...]:
    """The names of attributes that answers may have."""
    return tuple(sorted(re.findall(r"^ATTRIBUTE\s+(\S+)", dictionary_text(), re.MULTILINE)))


def _name_problem(name: str, key: str) -> list[Invalid]:
    if name in known_names() or _BY_NUMBER.fullmatch(name):
        return []
    allowed = f"VENDOR/TYPE in numbers, {', '.join(known_names())}"
    return [Invalid(f'"{name}" is no attribute that is known here', key=key, allowed=allowed)]


@attrs.frozen
class RadiusServer:
    """``host`` or ``host:1812``; an IPv6 address in brackets."""

    host: str
    port: int

    ALLOWED = "HOST[:PORT]"

    @classmethod
    def parse(cls, text: str) -> RadiusServer:
        """From a setting; raises :class:`Invalid`."""
        try:
            parts = urlsplit(f"//{text}")
            port = parts.port or 1812
        except ValueError:
            raise Invalid(f'"{text}" is no server', allowed=cls.ALLOWED) from None
        if not parts.hostname or parts.path or parts.username or parts.query:
            raise Invalid(f'"{text}" is no server', allowed=cls.ALLOWED)
        return cls(parts.hostname, port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Method(StrEnum):
    """How the password travels."""

    PAP = "pap"
    CHAP = "chap"
    MSCHAPV2 = "mschapv2"


@attrs.frozen
class RadiusSettings:
    """RADIUS servers (RFC 2865) that share a secret; asked in their order.

    Each gets ``tries`` packets, ``answer_timeout`` apart. ``groups`` names the attribute whose values are groups.
    """

    servers: tuple[RadiusServer, ...]
    secret: SecretReference
    method: Method = Method.PAP
    nas_identifier: str = "pkiserver"
    tries: int = attrs.field(default=3, validator=attrs.validators.in_(range(1, 11)))
    answer_timeout: timedelta = attrs.field(default=timedelta(seconds=2), validator=positive)
    attributes: tuple[AttributeMap, ...] = ()
    groups: str | None = None
    required_groups: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        problems = []
        if not self.servers:
            problems.append(Invalid("names no server", key="servers"))
        if not 1 <= len(self.nas_identifier.encode()) <= 253:
            problems.append(Invalid("is empty or too long", key="nas_identifier"))
        if self.required_groups and self.groups is None:
            problems.append(Invalid("needs to know which attribute names groups", key="groups"))
        problems += [] if self.groups is None else _name_problem(self.groups, "groups")
        for one in self.attributes:
            problems += _name_problem(one.source, "attributes")
        if problems:
            raise ExceptionGroup("radius", problems)
