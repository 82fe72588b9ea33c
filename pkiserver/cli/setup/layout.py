"""Where an instance made by quickstart keeps what, and on which ports it listens."""

from __future__ import annotations

import socket
import tomllib
from pathlib import Path

import attrs

HTTP_OFFSET = 80
HTTPS_OFFSET = 443
MANAGEMENT_OFFSET = 90
API_OFFSET = 91
LDAP_OFFSET = 389
LDAPS_OFFSET = 636
DEFAULT_PORT_BASE = 8000
ROOT = "root"
ISSUING = "issuing"
DEMO_ACCOUNT = "demo"
DEMO_MAIL = "demo@example.com"
"""That account's mail address, for an S/MIME certificate."""


@attrs.frozen
class Layout:
    """One instance: its folder (absolute) and its ports, which are offsets from ``port_base``."""

    directory: Path
    port_base: int = DEFAULT_PORT_BASE

    @property
    def config(self) -> Path:
        """The node's settings."""
        return self.directory / "pkiserver.toml"

    @property
    def finished(self) -> Path:
        """Exists once everything has been set up; what an interrupted set-up left without it is made anew."""
        return self.directory / ".set-up"

    @property
    def schema(self) -> Path:
        """The database's schema revision at the last start, so that a start need not ask."""
        return self.directory / ".schema"

    @property
    def token(self) -> Path:
        """The SoftHSM token's folder."""
        return self.directory / "token"

    @property
    def keys(self) -> Path:
        """Encrypted key files, where no PKCS#11 library can be had."""
        return self.directory / "keys"

    @property
    def secrets(self) -> Path:
        """PIN, passphrase and the demonstration account's password, mode 0600 in a folder of mode 0700."""
        return self.directory / "secrets"

    @property
    def tls(self) -> Path:
        """The server's own TLS certificate and key."""
        return self.directory / "tls"

    @property
    def root_certificate(self) -> Path:
        """The root's certificate, PEM: what clients are told to trust."""
        return self.directory / "root.pem"

    @property
    def database(self) -> Path:
        """The SQLite database."""
        return self.directory / "pkiserver.db"

    @property
    def http_port(self) -> int:
        """OCSP, CRLs, CA certificates."""
        return self.port_base + HTTP_OFFSET

    @property
    def https_port(self) -> int:
        """EST."""
        return self.port_base + HTTPS_OFFSET

    @property
    def management_port(self) -> int:
        """Health and metrics."""
        return self.port_base + MANAGEMENT_OFFSET

    @property
    def api_port(self) -> int:
        """The management API."""
        return self.port_base + API_OFFSET

    @property
    def api_url(self) -> str:
        """The base of the management API."""
        return f"https://localhost:{self.api_port}/api/v1"

    @property
    def has_api(self) -> bool:
        """Whether the node's settings have the management API; those written by earlier versions have it not."""
        return "api" in tomllib.loads(self.config.read_text(encoding="utf-8"))

    @property
    def ldap_port(self) -> int:
        """The address book, with StartTLS."""
        return self.port_base + LDAP_OFFSET

    @property
    def ldaps_port(self) -> int:
        """The address book over TLS."""
        return self.port_base + LDAPS_OFFSET

    @property
    def http_url(self) -> str:
        """The base of URLs in certificates. This machine's own name for itself: the instance is for trying out."""
        return f"http://localhost:{self.http_port}"

    @property
    def https_url(self) -> str:
        """The base of EST URLs."""
        return f"https://localhost:{self.https_port}"


def host_names() -> tuple[str, ...]:
    """The names under which the TLS certificate lets this machine be reached."""
    own = socket.gethostname()
    return ("localhost", own) if own and own != "localhost" else ("localhost",)
