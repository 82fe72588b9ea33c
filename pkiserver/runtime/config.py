"""The node's settings: one TOML file, checked whole before anything listens.

What all nodes of a site must agree on (authorities, templates, accounts) is not here but in the database.
"""

from __future__ import annotations

import os
import re
import socket
from datetime import timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

import attrs

from pkiserver.authority.delivery.settings import CrlTarget
from pkiserver.foundation.bounds import node_like_name, some_time
from pkiserver.foundation.tomlfile import Invalid
from pkiserver.keys.secrets_by_reference import check_reference, read_secret
from pkiserver.keys.settings import ProviderSettings
from pkiserver.registration.guesssettings import GuessSettings
from pkiserver.registration.operationrules import DualControl
from pkiserver.registration.passwords import PasswordSettings
from pkiserver.runtime.endpoints import Endpoint, EndpointKind
from pkiserver.runtime.httplimits import HttpLimits
from pkiserver.runtime.ldapsettings import LdapPolicySettings
from pkiserver.runtime.logsettings import LogSettings
from pkiserver.runtime.protocolsettings import EstNodeSettings, OcspNodeSettings, ScepNodeSettings, SelfCheckSettings
from pkiserver.timestamping.timesettings import TimeSettings

MOST_WORKERS = 256


def _workers(_instance: object, _attribute: object, value: int | str) -> None:
    if isinstance(value, int) and not 1 <= value <= MOST_WORKERS:
        raise Invalid(f"{value} is not a number of workers", allowed=f'1 to {MOST_WORKERS}, or "cores"')


def _reference(_instance: object, _attribute: object, value: str | None) -> None:
    if value is not None:
        check_reference(value)


def _check_base_url(value: str, schemes: tuple[str, ...]) -> None:
    allowed = " or ".join(f"{scheme}://HOST[:PORT][/PATH] without a slash at the end" for scheme in schemes)
    try:
        parts = urlsplit(value)
        fine = parts.scheme in schemes and parts.hostname and not parts.query and not parts.fragment
    except ValueError:
        fine = False
    if not fine or value.endswith("/") or not value.isascii() or re.search(r"\s|@", value):
        raise Invalid(f'"{value}" is no base URL', allowed=allowed)


def _http_url(_instance: object, _attribute: object, value: str | None) -> None:
    if value is not None:
        _check_base_url(value, ("http",))


def _https_url(_instance: object, _attribute: object, value: str | None) -> None:
    if value is not None:
        _check_base_url(value, ("https",))


def _database_url(_instance: object, _attribute: object, value: str) -> None:
    allowed = "sqlite:///path/to/file or postgresql://user@host/database"
    try:
        parts = urlsplit(value)
    except ValueError:
        raise Invalid("is no URL", allowed=allowed) from None
    if parts.scheme not in {"sqlite", "postgresql"}:
        raise Invalid("is no database URL that is supported", allowed=allowed)
    if parts.password is not None or "password=" in parts.query:
        raise Invalid("must not contain a password: name it with password_source", allowed=allowed)
    if parts.scheme == "sqlite" and (parts.netloc or len(parts.path) < 2):
        raise Invalid("needs the path of a file", allowed=allowed)


@attrs.frozen
class DatabaseSettings:
    """Where everything but keys is kept."""

    url: str = attrs.field(validator=_database_url)
    """``sqlite:///relative``, ``sqlite:////absolute`` or ``postgresql://user@host:port/name``; never a password."""
    password_source: str | None = attrs.field(default=None, validator=_reference)
    """``file:/path``, ``env:NAME`` or ``credential:NAME``; PostgreSQL only. Without it libpq finds its own."""
    readers: int = attrs.field(default=2, validator=attrs.validators.in_(range(1, 65)))
    """Connections, and threads, of each worker that read."""

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a SQLite file."""
        return self.url.startswith("sqlite:")

    def full_url(self) -> str:
        """The URL with the password put in; not to be logged.

        Raises:
            SecretUnreadable: the password's source leads nowhere.
        """
        if self.password_source is None:
            return self.url
        parts = urlsplit(self.url)
        password = quote(read_secret(self.password_source).reveal_text(), safe="")
        host = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"{parts.username or ''}:{password}@{host}").geturl()


@attrs.frozen
class HttpSettings:
    """The plain HTTP listener: OCSP, CRLs and CA certificates, which are signed themselves."""

    listen: tuple[Endpoint, ...] = ()


@attrs.frozen
class TlsSettings:
    """What a TLS listener shows and demands."""

    certificate: Path
    """PEM: the server's certificate and, after it, the certificates between it and the root."""
    key: Path
    """PEM, not encrypted; mode 0600, or 0640 for a group of readers."""
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    ciphers: str | None = None
    """OpenSSL cipher list for TLS 1.2; the default has forward secrecy and authenticated encryption only."""


@attrs.frozen
class HttpsSettings:
    """The TLS listener: EST."""

    listen: tuple[Endpoint, ...] = ()
    tls: TlsSettings | None = None
    client_certificates: Literal["none", "request", "require"] = "request"
    """Whether the client is asked for a certificate. Whom one identifies is for the registration gate to say."""


@attrs.frozen
class LdapSettings(LdapPolicySettings):
    """The address book's listeners: LDAP, which StartTLS may make secure, and LDAP over TLS."""

    listen: tuple[Endpoint, ...] = ()
    listen_tls: tuple[Endpoint, ...] = ()
    tls: TlsSettings | None = None
    """By default the TLS listener's of HTTP."""


@attrs.frozen
class ManagementSettings:
    """Health and metrics. Nothing here asks who you are, so it listens on this machine only, unless told otherwise."""

    listen: tuple[Endpoint, ...] = ()
    allow_remote: bool = False


@attrs.frozen
class ApiSettings:
    """The management API: TLS, and every client shows an administrator's certificate."""

    listen: tuple[Endpoint, ...] = ()
    tls: TlsSettings | None = None
    connections: int = attrs.field(default=256, validator=attrs.validators.in_(range(1, 65537)))
    """Connections of each worker at the same time; further ones are closed at once."""
    body_bytes: int = attrs.field(default=1024 * 1024, validator=attrs.validators.in_(range(1024, 64 * 1024 * 1024)))
    """What a request may carry."""
    timeout: timedelta = attrs.field(default=timedelta(seconds=30), validator=some_time)
    """From the beginning of a connection or request to its end."""


@attrs.frozen
class ApprovalSettings:
    """How approvals are marked, and what nobody does alone."""

    marks_source: str | None = attrs.field(default=None, validator=_reference)
    """``file:/path``, ``env:NAME`` or ``credential:NAME`` of the key of the marks of votes, the same on all nodes.

    Without it the key is in the database, and whoever reads and writes all of that can approve.
    """
    dual_control: DualControl = attrs.field(factory=DualControl)


@attrs.frozen
class PublicSettings:
    """How the outside reaches this site: what certificates say about where CRLs, OCSP and issuers are."""

    http: str | None = attrs.field(default=None, validator=_http_url)
    """Base URL of the plain HTTP listener (RFC 5280 section 8: not https, which would need what it serves)."""
    https: str | None = attrs.field(default=None, validator=_https_url)
    """Base URL of the TLS listener."""


@attrs.frozen
class AuditSettings:
    """The audit log, which is in the database."""

    checkpoint_interval: timedelta = attrs.field(default=timedelta(hours=1), validator=some_time)
    """How often a key that is bound to checkpoints signs the heads of the log's chains."""


@attrs.frozen
class NodeSettings:
    """Everything that one node is told. Relative paths are relative to the file's folder once it is loaded."""

    database: DatabaseSettings
    state_dir: Path
    """Where the node keeps what is its own: run-time sockets, lock files, reports, the CRL numbers that it has seen."""
    node: str = attrs.field(factory=lambda: socket.gethostname()[:63] or "node", validator=node_like_name)
    """Its name in the audit log and on leases: another for each machine of a site."""
    workers: int | Literal["cores"] = attrs.field(default="cores", validator=_workers)
    user: str | None = None
    """Whom to become once the sockets are bound, when started as root."""
    group: str | None = None
    drain: timedelta = attrs.field(default=timedelta(seconds=30), validator=some_time)
    """How long running requests may take to end after SIGTERM."""
    key_store: tuple[ProviderSettings, ...] = ()
    crl_target: tuple[CrlTarget, ...] = ()
    """Where CRLs are brought besides being served."""
    self_check: SelfCheckSettings = attrs.field(factory=SelfCheckSettings)
    http: HttpSettings = HttpSettings()
    https: HttpsSettings = HttpsSettings()
    ldap: LdapSettings = attrs.field(factory=LdapSettings)
    management: ManagementSettings = ManagementSettings()
    api: ApiSettings = attrs.field(factory=ApiSettings)
    approvals: ApprovalSettings = attrs.field(factory=ApprovalSettings)
    public: PublicSettings = PublicSettings()
    limits: HttpLimits = attrs.field(factory=HttpLimits)
    passwords: PasswordSettings = attrs.field(factory=PasswordSettings)
    guesses: GuessSettings = attrs.field(factory=GuessSettings)
    est: EstNodeSettings = attrs.field(factory=EstNodeSettings)
    ocsp: OcspNodeSettings = attrs.field(factory=OcspNodeSettings)
    scep: ScepNodeSettings = attrs.field(factory=ScepNodeSettings)
    time: TimeSettings = attrs.field(factory=TimeSettings)
    audit: AuditSettings = AuditSettings()
    log: LogSettings = attrs.field(factory=LogSettings)

    def __attrs_post_init__(self) -> None:
        problems = [*self._listener_problems(), *self._other_problems()]
        if problems:
            raise ExceptionGroup("impossible combinations", problems)

    def _listener_problems(self) -> list[Invalid]:
        problems = []
        if self.https.listen and self.https.tls is None:
            problems.append(Invalid("https.listen needs https.tls.certificate and https.tls.key", key="https"))
        if self.api.listen and self.api.tls is None:
            problems.append(Invalid("api.listen needs api.tls.certificate and api.tls.key", key="api"))
        if not self.management.allow_remote:
            outside = [str(e) for e in self.management.listen if e.is_public]
            if outside:
                text = f"{', '.join(outside)} can be reached from outside: health and metrics ask nobody's name"
                problems.append(Invalid(text, key="management", allowed="loopback, or allow_remote = true"))
        if self.ldap.listen_tls and self.ldap_tls is None:
            problems.append(Invalid("ldap.listen_tls needs ldap.tls or https.tls", key="ldap"))
        return problems + self._taken_twice()

    def _taken_twice(self) -> list[Invalid]:
        parts = [
            ("http.listen", self.http.listen),
            ("https.listen", self.https.listen),
            ("ldap.listen", self.ldap.listen),
            ("ldap.listen_tls", self.ldap.listen_tls),
            ("management.listen", self.management.listen),
            ("api.listen", self.api.listen),
        ]
        problems: list[Invalid] = []
        seen: set[Endpoint] = set()
        for key, endpoint in ((key, one) for key, endpoints in parts for one in endpoints):
            if endpoint in seen and (endpoint.kind is not EndpointKind.TCP or endpoint.port):
                problems.append(Invalid(f"{endpoint} is listened on twice", key=key))
            seen.add(endpoint)
        return problems

    def _other_problems(self) -> list[Invalid]:
        names = [store.name for store in self.key_store]
        twice = sorted({name for name in names if names.count(name) > 1})
        problems = [Invalid(f"two key stores are named {name}", key="key_store") for name in twice]
        targets = [target.name for target in self.crl_target]
        twice = sorted({name for name in targets if targets.count(name) > 1})
        problems += [Invalid(f"two CRL targets are named {name}", key="crl_target") for name in twice]
        if self.group is not None and self.user is None:
            problems.append(Invalid("needs user as well", key="group"))
        if self.database.is_sqlite and self.database.password_source is not None:
            problems.append(Invalid("password_source is for PostgreSQL only", key="database"))
        return problems

    @property
    def ldap_tls(self) -> TlsSettings | None:
        """What the address book shows over TLS."""
        return self.ldap.tls or self.https.tls

    @property
    def crl_numbers(self) -> Path:
        """Where the node keeps the CRL numbers that it has seen."""
        return self.state_dir / "crl-numbers"

    @property
    def worker_count(self) -> int:
        """How many processes serve."""
        return len(os.sched_getaffinity(0)) if self.workers == "cores" else int(self.workers)
