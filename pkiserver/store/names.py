"""Names as the store compares and searches them: folded in case and space, bounded in length, printable.

These forms serve search and duplicate policies only. What a certificate says stands in its DER.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import ipaddress
import json
import unicodedata
from collections.abc import Iterable

import attrs
from cryptography import x509

from pkiserver.foundation import der

KEY_LENGTH = 255
"""Characters of an indexed name; a longer one ends in its SHA-256, so that equality still holds."""
_KEPT = KEY_LENGTH - 65
_SMTP_UTF8 = "1.3.6.1.5.5.7.8.9="
_UPN = "1.3.6.1.4.1.311.20.2.3"


class SanKind(enum.StrEnum):
    """The kinds of subject alternative names that can be searched for (RFC 5280 section 4.2.1.6)."""

    DNS = "dns"
    EMAIL = "email"
    URI = "uri"
    IP = "ip"
    DIRECTORY = "directory"
    UPN = "upn"
    OTHER = "other"
    REGISTERED = "registered-id"

    @classmethod
    def named(cls, text: str) -> SanKind:
        """The kind that people call so: ``mail``, as templates and challenges have it, is ``email`` too.

        Raises:
            ValueError: it is none; the text says which there are.
        """
        try:
            return cls.EMAIL if text == "mail" else cls(text)
        except ValueError:
            raise ValueError(f"{text!r} is no kind of name (there are: {', '.join(cls)})") from None


@attrs.frozen
class San:
    """A subject alternative name. ``value`` is text: of an ``OTHER`` name ``oid=hexadecimal DER``."""

    kind: SanKind
    value: str


def printable(text: str) -> str:
    r"""Text that every engine can store and no log line can be forged with: control characters become ``\xNN``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text)


def folded(text: str) -> str:
    """Text as names are compared: compatibility form, no case, single spaces."""
    return printable(" ".join(unicodedata.normalize("NFKC", text).casefold().split()))


def bounded(text: str) -> str:
    """Text short enough for an index; texts that differ stay different."""
    if len(text) <= KEY_LENGTH:
        return text
    return text[:_KEPT] + "#" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def subject_key(subject: str) -> str:
    """The key by which a subject (RFC 4514 text) is found."""
    return bounded(folded(subject))


def san_key(san: San) -> str:
    """The key by which an alternative name is found: normalised after its kind."""
    value = san.value.strip()
    if san.kind is SanKind.DNS:
        value = folded(value.rstrip("."))
    elif san.kind is SanKind.IP:
        value = _ip_key(value)
    elif san.kind is SanKind.URI:
        scheme, colon, rest = value.partition(":")
        value = printable(scheme.lower() + colon + rest)
    else:
        value = folded(value)
    return bounded(value)


def san_of(name: x509.GeneralName) -> San:
    """The store's form of a general name.

    Raises:
        ValueError: a kind that RFC 5280 leaves undefined for certificates (x400Address, ediPartyName).
    """
    match name:
        case x509.DNSName():
            return San(SanKind.DNS, name.value)
        case x509.RFC822Name():
            return San(SanKind.EMAIL, name.value)
        case x509.UniformResourceIdentifier():
            return San(SanKind.URI, name.value)
        case x509.IPAddress():
            return San(SanKind.IP, str(name.value))
        case x509.DirectoryName():
            return San(SanKind.DIRECTORY, name.value.rfc4514_string())
        case x509.RegisteredID():
            return San(SanKind.REGISTERED, name.value.dotted_string)
        case x509.OtherName():
            return _other(name)
    raise ValueError(f"{type(name).__name__} is not a kind of name that is stored")


def sans_of(names: Iterable[x509.GeneralName]) -> tuple[San, ...]:
    """The store's forms of several general names, in order."""
    return tuple(san_of(name) for name in names)


def sans_to_text(sans: Iterable[San]) -> str:
    """The stored form of a list of names: JSON pairs."""
    return json.dumps([[san.kind.value, printable(san.value)] for san in sans], ensure_ascii=False)


def sans_from_text(text: str) -> tuple[San, ...]:
    """The names behind :func:`sans_to_text`."""
    return () if text == "[]" else tuple(San(SanKind(kind), value) for kind, value in json.loads(text))


def address_keys(sans: Iterable[San]) -> frozenset[str]:
    """The keys of the mail addresses among names, those beyond ASCII (SmtpUTF8Mailbox, RFC 9598) too."""
    found = set()
    for san in sans:
        if san.kind is SanKind.EMAIL:
            found.add(san_key(san))
        elif san.kind is SanKind.OTHER and san.value.startswith(_SMTP_UTF8):
            with contextlib.suppress(der.NotDer):  # what is no text is nobody's address
                text = der.read_utf8_string(bytes.fromhex(san.value.removeprefix(_SMTP_UTF8)))
                found.add(san_key(San(SanKind.EMAIL, text)))
    return frozenset(found)


def _other(name: x509.OtherName) -> San:
    oid = name.type_id.dotted_string
    if oid == _UPN:
        with contextlib.suppress(der.NotDer):  # another form of it is kept as it is
            return San(SanKind.UPN, der.read_utf8_string(name.value))
    return San(SanKind.OTHER, f"{oid}={name.value.hex()}")


def _ip_key(value: str) -> str:
    try:
        return ipaddress.ip_address(value).compressed
    except ValueError:
        return folded(value)
