"""Where a listener listens, as one word of the configuration."""

from __future__ import annotations

import enum
import ipaddress
import re

import attrs

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,255}")


class EndpointKind(enum.Enum):
    """How a listening socket comes to be."""

    TCP = "tcp"
    UNIX = "unix"
    SYSTEMD = "systemd"


@attrs.frozen
class Endpoint:
    """One listening place: an address and port that we bind, a UNIX socket, or a socket that systemd hands over."""

    ALLOWED = '"ADDRESS:PORT", "[IPv6]:PORT", "unix:/path" or "systemd:NAME" (FileDescriptorName= of the .socket unit)'

    kind: EndpointKind
    host: str
    """IP address; for a UNIX socket its path; for systemd the descriptor's name."""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read ``127.0.0.1:8080``, ``[::]:80``, ``unix:/run/x.sock`` or ``systemd:http``. Port 0 means any free port.

        Raises:
            ValueError: it is none of these. Host names are refused, because what they mean may change.
        """
        scheme, _, rest = text.partition(":")
        if scheme == "systemd" and _NAME.fullmatch(rest):
            return cls(EndpointKind.SYSTEMD, rest)
        if scheme == "unix" and rest.startswith("/"):
            return cls(EndpointKind.UNIX, rest)
        match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})", text)
        if match is None:
            raise ValueError(f"{text!r} is no place to listen")
        address = ipaddress.ip_address(match[1] or match[2])
        if (address.version == 6) != bool(match[1]):
            raise ValueError(f"{text!r}: square brackets are for IPv6 addresses, and they need them")
        if int(match[3]) > 65535:
            raise ValueError(f"{text!r}: ports end at 65535")
        return cls(EndpointKind.TCP, str(address), int(match[3]))

    @property
    def is_public(self) -> bool:
        """Whether other machines can reach it. Where systemd's sockets listen is for their unit to say: seen later."""
        return self.kind is EndpointKind.TCP and not ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        if self.kind is EndpointKind.TCP:
            return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return f"{self.kind.value}:{self.host}"
