"""Settings of a SQL connector."""

from __future__ import annotations

import re
from datetime import timedelta
from enum import StrEnum
from urllib.parse import urlsplit

import attrs

from pkiserver.foundation.tomlfile import Invalid
from pkiserver.keys.secretref import SecretReference
from pkiserver.outbound.addresses import is_loopback
from pkiserver.outbound.pem import PemFile
from pkiserver.outbound.tlsrules import positive
from pkiserver.registration.connectors.mapping import AttributeMap

_DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "sqlite": "sqlite",
}
_PLACE = re.compile(r"(?<!:):([A-Za-z_]\w*)")


class HashFormat(StrEnum):
    """Ways of keeping passwords. ``crypt`` is crypt(3) with SHA-256, SHA-512 or yescrypt; the old ones have names."""

    ARGON2 = "argon2"
    BCRYPT = "bcrypt"
    PBKDF2 = "pbkdf2"
    CRYPT = "crypt"
    CRYPT_MD5 = "crypt_md5"
    CRYPT_DES = "crypt_des"


def _url(_instance: object, _attribute: object, value: str) -> None:
    allowed = "postgresql://USER@HOST/DATABASE, mysql://USER@HOST/DATABASE or sqlite:////PATH, without a password"
    try:
        parts = urlsplit(value)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        raise Invalid("is no URL", allowed=allowed) from None
    if parts.scheme not in _DRIVERS or not port_is_fine or parts.password is not None or parts.query:
        raise Invalid("is no database URL that is supported", allowed=allowed)
    if (parts.scheme == "sqlite") != (not parts.netloc):
        raise Invalid("is no database URL that is supported", allowed=allowed)
    if parts.scheme == "sqlite" and not parts.path.startswith("//"):
        raise Invalid("names a file that depends on where the program runs", allowed="sqlite:////PATH")


def _query(_instance: object, _attribute: object, value: str) -> None:
    places = set(_PLACE.findall(value))
    if places != {"userid"}:
        raise Invalid("has not :userid as its only parameter", allowed="SELECT ... WHERE login = :userid")
    if not re.match(r"\s*(select|with)\b", value, re.IGNORECASE) or ";" in value:
        raise Invalid("is not one query", allowed="SELECT ... WHERE login = :userid")


@attrs.frozen
class SqlSettings:
    """A table of the customer's own. ``query`` finds one row by ``:userid``; columns go by their names in it.

    ``trust``: PEM file of the authorities of the database's certificate; other machines are spoken to under TLS only,
    unless ``insecure`` says otherwise.
    """

    url: str = attrs.field(validator=_url)
    query: str = attrs.field(validator=_query)
    password: SecretReference | None = None
    trust: PemFile | None = None
    insecure: bool = False
    password_column: str = "password"  # noqa: S105 - a column's name
    formats: tuple[HashFormat, ...] = (HashFormat.ARGON2, HashFormat.BCRYPT, HashFormat.PBKDF2, HashFormat.CRYPT)
    groups: str | None = None
    groups_separator: str = ","
    required_groups: tuple[str, ...] = ()
    attributes: tuple[AttributeMap, ...] = ()
    connect_timeout: timedelta = attrs.field(default=timedelta(seconds=3), validator=positive)
    answer_timeout: timedelta = attrs.field(default=timedelta(seconds=5), validator=positive)

    def __attrs_post_init__(self) -> None:
        problems = []
        if not self.formats:
            problems.append(Invalid("accepts no password at all", key="formats"))
        if self.required_groups and self.groups is None:
            problems.append(Invalid("needs to know which column names groups", key="groups"))
        if self.scheme == "sqlite" and (self.trust or self.password):
            problems.append(Invalid("goes with a database server", key="trust" if self.trust else "password"))
        if self.scheme != "sqlite" and not (self.trust or self.insecure or is_loopback(urlsplit(self.url).hostname)):
            text = "passwords' hashes would travel in the clear: say trust = FILE (the authorities), or insecure = true"
            problems.append(Invalid(text, key="trust"))
        if problems:
            raise ExceptionGroup("sql", problems)

    @property
    def scheme(self) -> str:
        """The kind of database."""
        return urlsplit(self.url).scheme

    @property
    def driver_url(self) -> str:
        """The URL as SQLAlchemy wants it."""
        return _DRIVERS[self.scheme] + self.url[len(self.scheme) :]
