"""What can be set about an authority: the TOML object that the database keeps and ``pkiserver apply`` edits."""

from __future__ import annotations

import attrs

from pkiserver.authority.ra_policy import ScepPolicy
from pkiserver.authority.status.policy import CrlPolicy, OcspPolicy
from pkiserver.foundation.tomlfile import Invalid
from pkiserver.keys.algorithms import SignatureScheme


def _urls(instance: object, attribute: attrs.Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    del instance
    for url in value:
        if not url.isascii() or not url.startswith(("http://", "https://", "ldap://", "{base}")):
            raise Invalid(f"{url!r} is not an http or ldap URL", key=attribute.name)


@attrs.frozen
class Publication:
    """Where what an authority publishes is found, as it stands in certificates (RFC 5280 section 4.2.1.13, 4.2.2.1).

    In each URL ``{base}`` stands for ``base_url`` and ``{path}`` for the path of the key generation, which every
    generation has of its own; for CRLs with what tells the distribution point from others of the generation. Without
    ``base_url``, URLs that need it are left out of certificates.
    """

    base_url: str = attrs.field(default="", metadata={"comment": "plain HTTP, for instance http://pki.example.com"})
    crl: tuple[str, ...] = attrs.field(default=("{base}/crl/{path}.crl",), validator=_urls)
    delta: tuple[str, ...] = attrs.field(default=("{base}/crl/{path}/delta.crl",), validator=_urls)
    ca_issuers: tuple[str, ...] = attrs.field(default=("{base}/ca/{path}.cer",), validator=_urls)
    ocsp: tuple[str, ...] = attrs.field(default=("{base}/ocsp",), validator=_urls)

    def urls(self, patterns: tuple[str, ...], path: str) -> tuple[str, ...]:
        """The URLs of a generation; those that need a base that is not set are left out."""
        base = self.base_url.rstrip("/")
        return tuple(
            pattern.replace("{base}", base).replace("{path}", path)
            for pattern in patterns
            if base or "{base}" not in pattern
        )


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
