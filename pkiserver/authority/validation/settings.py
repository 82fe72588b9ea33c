"""What is set about an authority whose certificates' status is answered here: one TOML document each."""

from __future__ import annotations

import enum
import re
from datetime import timedelta
from typing import Literal
from urllib.parse import unquote, urlsplit

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.authority.model import CaCertificate
from pkiserver.authority.status.policy import NeverIssued, NoncePolicy, OcspPolicy, ResponderIdentity
from pkiserver.foundation.bounds import lasting, spelled
from pkiserver.foundation.errors import Rejected
from pkiserver.foundation.tomlfile import Invalid, load
from pkiserver.outbound.ldapfilter import Filter

KIND = "foreign-ca"
"""Its kind among the configuration objects."""
_ALLOWED = (
    "http://HOST[:PORT]/PATH, file:///PATH, or ldap://HOST[:PORT]/DN?ATTRIBUTE[?base[?FILTER]],"
    " without user, password and fragment"
)
_USER = re.compile(r"//[^/]*@")
"""What a message does not repeat."""
_EVER = timedelta(days=365_000)
_YEAR = timedelta(days=365)
_name = spelled(
    "[A-Za-z0-9][A-Za-z0-9._-]{0,31}", "1 to 32 of letters, digits, '.', '_' and '-', beginning with a letter or digit"
)
_time = lasting(timedelta(seconds=1), _YEAR)


class Unlisted(enum.StrEnum):
    """What is said of a serial number that is on no list of revoked certificates."""

    GOOD = "good"
    UNKNOWN = "unknown"
    ALLOW_LIST = "allow-list"
    """Good when it is on the list of issued serial numbers, unknown when it is not."""


_EVERYTHING = "(objectClass=*)"


@attrs.frozen
class LdapFeed:
    """An LDAP URL (RFC 4516) taken apart: one attribute of one entry, as distribution points name it."""

    server: str
    dn: str
    attribute: str
    scope: str
    filter: Filter

    @classmethod
    def parse(cls, url: str) -> LdapFeed:
        """From a feed's URL.

        Raises:
            ValueError, Invalid: it has more parts than one list needs, or its filter is none.
        """
        parts = urlsplit(url)
        attribute, scope, filtered, *more = (*map(unquote, parts.query.split("?")), "", "")
        if any(more):
            raise ValueError("LDAP extensions are not understood")
        text = filtered or _EVERYTHING
        text = text if text.startswith("(") else f"({text})"
        return cls(f"ldap://{parts.netloc}", unquote(parts.path[1:]), attribute, scope, Filter.parse(text))

    @property
    def is_one_list(self) -> bool:
        """Whether it means one attribute of the entry itself."""
        return bool(self.attribute) and "," not in self.attribute and self.scope in ("", "base")


def _feeds(_instance: object, _attribute: object, value: tuple[str, ...]) -> None:
    if not value or len(set(value)) != len(value):
        raise Invalid("has no feed, or one twice", key="feeds", allowed="one feed or more, each once")
    wrong = [
        Invalid(f'"{_USER.sub("//...@", url)}" is not where a list can be had', key="feeds", allowed=_ALLOWED)
        for url in value
        if not _can_be_fetched(url)
    ]
    if wrong:
        raise ExceptionGroup("feeds", wrong)


def _can_be_fetched(url: str) -> bool:
    """Whether a URL means one list, and nothing in it would be left out when it is fetched."""
    if not url.isascii() or not url.isprintable() or " " in url or "#" in url:
        return False
    try:
        parts = urlsplit(url)
        if "@" in parts.netloc or parts.netloc.endswith(":") or parts.port == 0:
            return False
        match parts.scheme:
            case "http":
                return bool(parts.hostname)
            case "file":
                return not parts.netloc and "?" not in url and parts.path.startswith("/") and parts.path[-1] != "/"
            case "ldap":
                return bool(parts.hostname) and len(parts.path) > 1 and LdapFeed.parse(url).is_one_list
    except (ValueError, Invalid):
        pass
    return False


@attrs.frozen
class ForeignAnswers:
    """How answers look; as the fields of that name of an authority's ``ocsp`` table."""

    validity: timedelta = attrs.field(default=timedelta(hours=1), validator=_time)
    unknown_validity: timedelta = attrs.field(default=timedelta(minutes=5), validator=_time)
    nonce: NoncePolicy = NoncePolicy.ANSWER
    identity: ResponderIdentity = ResponderIdentity.KEY
    include_certificate: bool = True
    invalidity_date: bool = True
    crl_reference: bool = False
    never_issued: NeverIssued = NeverIssued.UNKNOWN

    def policy(self) -> OcspPolicy:
        """The same as the policy of an authority of ours, with no end to the archive."""
        longest = max(self.validity, self.unknown_validity, OcspPolicy().renew_before)
        return OcspPolicy(
            **attrs.asdict(self, recurse=False),
            renew_before=longest,
            certificate_validity=longest * 2,
            archive=_EVER,
        )


@attrs.frozen
class ForeignCa:
    """An authority whose lists are fed in.

    Attributes:
        name: By which it is called here.
        certificate: Its certificate, PEM: lists and responder certificates must be signed by its key.
        feeds: Where its lists are: complete, delta and partitioned ones, each with a URL of its own.
        interval: How often each is looked at.
        tolerance: How long after its nextUpdate a list is still believed; from then on the answer is ``tryLater``.
        unlisted: What is said of serial numbers on none of them.
        ocsp: How answers look.
    """

    name: str = attrs.field(validator=_name)
    certificate: str = attrs.field(repr=False)
    feeds: tuple[str, ...] = attrs.field(validator=_feeds)
    kind: Literal["foreign-ca"] = "foreign-ca"
    description: str = ""
    enabled: bool = True
    interval: timedelta = attrs.field(default=timedelta(minutes=5), validator=_time)
    tolerance: timedelta = attrs.field(default=timedelta(hours=1), validator=lasting(timedelta(0), _YEAR))
    unlisted: Unlisted = Unlisted.UNKNOWN
    ocsp: ForeignAnswers = attrs.field(factory=ForeignAnswers)

    def __attrs_post_init__(self) -> None:
        self.ca()

    def ca(self) -> CaCertificate:
        """The certificate, decoded; raises :class:`Invalid`."""
        try:
            [found] = x509.load_pem_x509_certificates(self.certificate.encode())
            return CaCertificate.load(found.public_bytes(Encoding.DER))
        except Rejected as error:
            raise Invalid(str(error), key="certificate") from error
        except ValueError as error:
            raise Invalid("is not one certificate", key="certificate", allowed="one certificate in PEM") from error


def load_foreign(text: str, file: str) -> ForeignCa:
    """A document; raises :class:`ConfigurationError` with every problem."""
    return load(ForeignCa, text, file)
