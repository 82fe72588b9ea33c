"""Settings of a connector for client certificates of other authorities."""

from __future__ import annotations

import re
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from pkiserver.authority.templates.attributes import DnAttribute
from pkiserver.authority.templates.values import Oid
from pkiserver.foundation.tomlfile import Invalid
from pkiserver.outbound.addresses import WebAddress
from pkiserver.outbound.pem import PemCertificates
from pkiserver.outbound.tlsrules import positive
from pkiserver.registration.connectors.mapping import AttributeMap, Pattern

_OID = re.compile(r"[012](?:\.\d+)+")
SAN_FIELDS = ("dns", "mail", "uri", "ip", "upn", "hardware")
OTHER_FIELDS = ("subject", "issuer", "serial", "fingerprint", "policy")


class Revocation(StrEnum):
    """Whose revocation is checked: the whole chain's, the client certificate's only, or nobody's."""

    CHAIN = "chain"
    LEAF = "leaf"
    OFF = "off"


def field_problem(field: str) -> str | None:
    """Why a text names no field of a certificate; None when it does."""
    head, dot, rest = field.partition(".")
    if not dot:
        return None if field in OTHER_FIELDS else "names no field of a certificate"
    if head in {"subject", "issuer"}:
        known = rest in set(DnAttribute) or _OID.fullmatch(rest)
        return None if known else f"{rest!r} is no attribute of a name"
    if head == "san":
        return None if rest in SAN_FIELDS else f"{rest!r} is no kind of alternative name"
    return "names no field of a certificate"


ALLOWED_FIELDS = (
    f"subject.ATTRIBUTE, issuer.ATTRIBUTE, {', '.join(f'san.{kind}' for kind in SAN_FIELDS)}, {', '.join(OTHER_FIELDS)}"
)


@attrs.frozen
class CrlSource:
    """``http://...`` or ``file:/path`` of a CRL, DER or PEM."""

    text: str

    ALLOWED = "http://HOST/PATH or file:/absolute/path"

    @classmethod
    def parse(cls, text: str) -> CrlSource:
        """From a setting; raises :class:`Invalid`."""
        try:
            parts = urlsplit(text)
        except ValueError:
            raise Invalid(f'"{text}" is no URL', allowed=cls.ALLOWED) from None
        is_file = parts.scheme == "file" and Path(text.removeprefix("file:")).is_absolute()
        if not is_file and not (parts.scheme == "http" and parts.hostname):
            raise Invalid(f'"{text}" leads to no CRL', allowed=cls.ALLOWED)
        return cls(text)

    @property
    def path(self) -> Path | None:
        """The file, where it is one."""
        return Path(self.text.removeprefix("file:")) if self.text.startswith("file:") else None

    def __str__(self) -> str:
        return self.text


@attrs.frozen
class CertificateSettings:
    """Which certificates count, and who they show.

    ``anchors``: certificates to which a chain must lead; an intermediate one will do. ``name``: the field that names
    the requester. ``subject``, ``issuer``: patterns that the whole RFC 4514 text must match. ``policies``: one of them
    is asserted. ``crls``: where the authorities' CRLs are; they are read again after ``refresh``. ``ocsp``: the
    responder that is asked; where both are given both must be content.
    """

    anchors: PemCertificates
    name: str
    subject: Pattern | None = None
    issuer: Pattern | None = None
    policies: tuple[Oid, ...] = ()
    revocation: Revocation = Revocation.CHAIN
    crls: tuple[CrlSource, ...] = ()
    ocsp: WebAddress | None = None
    refresh: timedelta = timedelta(hours=1)
    answer_timeout: timedelta = attrs.field(default=timedelta(seconds=10), validator=positive)
    attributes: tuple[AttributeMap, ...] = ()

    def __attrs_post_init__(self) -> None:
        problems = []
        if problem := field_problem(self.name):
            problems.append(Invalid(problem, key="name", allowed=ALLOWED_FIELDS))
        problems += [
            Invalid(f"{one.source}: {problem}", key="attributes", allowed=ALLOWED_FIELDS)
            for one in self.attributes
            if (problem := field_problem(one.source))
        ]
        if self.ocsp is not None and self.ocsp.scheme != "http":
            problems.append(Invalid("answers are signed and speak plain HTTP", key="ocsp", allowed="http://HOST/PATH"))
        if self.revocation is not Revocation.OFF and not self.crls and self.ocsp is None:
            text = 'revocation is checked by CRLs or OCSP: say where they are, or revocation = "off"'
            problems.append(Invalid(text, key="crls"))
        if self.refresh < timedelta(seconds=1):
            problems.append(Invalid("is out of range", key="refresh", allowed="1s or more"))
        if problems:
            raise ExceptionGroup("certificate", problems)
