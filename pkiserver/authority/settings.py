"""What can be set about an authority: the TOML object that the database keeps and ``pkiserver apply`` edits."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import attrs

from pkiserver.authority.delegates.ra_policy import ScepPolicy
from pkiserver.authority.status.policy import CrlPolicy, OcspPolicy
from pkiserver.foundation.tomlfile import Invalid
from pkiserver.keys.algorithms import SignatureScheme

_PLACEHOLDER = re.compile(r"\{[^{}]*\}?|\}")
_BASE = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(/[!-~]*)?")


def _urls(instance: object, attribute: attrs.Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    del instance
    for url in value:
        if not re.fullmatch(r"(http://|https://|ldap://|\{base\})[!-~]*", url):
            allowed = "http://..., https://..., ldap://... or {base}/..., without blanks"
            raise Invalid(f"{url!r} is not an http or ldap URL", key=attribute.name, allowed=allowed)
        if unknown := set(_PLACEHOLDER.findall(url)) - {"{base}", "{path}", "{name}"}:
            text = f"{url!r} has a placeholder that is not known: {', '.join(sorted(unknown))}"
            raise Invalid(text, key=attribute.name, allowed="{base}, {path} and {name}")


def _base_url(instance: object, attribute: attrs.Attribute[str], value: str) -> None:
    # best plain HTTP: whoever checks a certificate for TLS cannot use TLS to do so (RFC 5280 section 8)
    del instance, attribute
    if value and (not _BASE.fullmatch(value) or not urlsplit(value).hostname or "?" in value or "#" in value):
        raise Invalid(f"{value!r} is not where answers are found", allowed="for instance http://pki.example.com")


@attrs.frozen
class Publication:
    """Where what an authority publishes is found, as it stands in certificates (RFC 5280 section 4.2.1.13, 4.2.2.1).

    In each URL ``{base}`` stands for ``base_url`` and ``{path}`` for the path of the key generation, which every
    generation has of its own; for CRLs with what tells the distribution point from others of the generation.
    ``{name}`` is the same in one piece, ``.`` for ``/``, as CRL targets name LDAP entries. Without ``base_url``, URLs
    that need it are left out of certificates.
    """

    base_url: str = attrs.field(
        default="", validator=_base_url, metadata={"comment": "plain HTTP, for instance http://pki.example.com"}
    )
    crl: tuple[str, ...] = attrs.field(default=("{base}/crl/{path}.crl",), validator=_urls)
    delta: tuple[str, ...] = attrs.field(default=("{base}/crl/{path}/delta.crl",), validator=_urls)
    ca_issuers: tuple[str, ...] = attrs.field(default=("{base}/ca/{path}.cer",), validator=_urls)
    ocsp: tuple[str, ...] = attrs.field(default=("{base}/ocsp",), validator=_urls)

    def __attrs_post_init__(self) -> None:
        if same := set(self.crl) & set(self.delta):
            text = f"a complete list and a delta cannot both be at {min(same)!r}"
            raise Invalid(text, key="delta", allowed="URLs that are not those of crl")

    def urls(self, patterns: tuple[str, ...], path: str) -> tuple[str, ...]:
        """The URLs of a generation; those that need a base that is not set are left out."""
        base = self.base_url.rstrip("/")
        return tuple(
            pattern.replace("{base}", base).replace("{path}", path).replace("{name}", entry_name(path))
            for pattern in patterns
            if base or "{base}" not in pattern
        )


def entry_name(path: str) -> str:
    """A list's path as the name of an LDAP entry."""
    return path.replace("/", ".")


def _known_scheme(instance: object, attribute: attrs.Attribute[str], value: str) -> None:
    del instance, attribute
    if value:
        SignatureScheme.parse(value)


@attrs.frozen
class AuthoritySettings:
    """One authority.

    Attributes:
        description: For people.
        scheme: The signature scheme, for instance ``rsa-pss-sha256``; by default the one that suits the key.
        publication: URLs in certificates.
        crl: When lists of revoked certificates are issued.
        ocsp: How certificate status is answered.
        scep: Whose keys SCEP works with.
    """

    description: str = ""
    scheme: str = attrs.field(default="", validator=_known_scheme)
    publication: Publication = attrs.field(factory=Publication)
    crl: CrlPolicy = attrs.field(factory=CrlPolicy)
    ocsp: OcspPolicy = attrs.field(factory=OcspPolicy)
    scep: ScepPolicy = attrs.field(factory=ScepPolicy)
