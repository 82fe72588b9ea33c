"""What a name may look like: characters, host names (IDNA), mail addresses, URIs, service names.

Every check returns a text that says what is wrong, fit to be shown to the client, or None.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from urllib.parse import urlsplit

import idna

MAX_SHOWN = 80
MAX_HOST = 253
MAX_URI = 2048
MAX_OTHER = 1024

_PRINTABLE_STRING = re.compile(r"[A-Za-z0-9 '()+,\-./:=?]*")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,63}:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SERVICE = re.compile(r"_[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_OID = re.compile(r"[012](?:\.(?:0|[1-9][0-9]{0,38})){1,32}")
# Control, format (bidi overrides, zero width), surrogate, private use, unassigned; line and paragraph separators;
# spaces that look like U+0020.
_BAD_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def show(value: object) -> str:
    """A client's text as it may stand in a reason: ASCII, quoted, cut."""
    text = ascii(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 4]}...{text[0]}"


def character_problem(value: str) -> str | None:
    """Refuse characters that hide or reorder text, and text that is not in normal form C (RFC 5280 section 7.1)."""
    if value.isascii():
        if not value.isprintable():
            return "has a control character"
    else:
        for char in value:
            category = unicodedata.category(char)
            if category in _BAD_CATEGORIES or (category == "Zs" and char != " "):
                return f"has the character U+{ord(char):04X}, which does not show"
        if not unicodedata.is_normalized("NFC", value):
            return "is not in Unicode normal form C"
    if value[:1] == " " or value[-1:] == " ":
        return "begins or ends with a space"
    return None


def is_printable_string(value: str) -> bool:
    """Whether the text fits ASN.1 PrintableString."""
    return _PRINTABLE_STRING.fullmatch(value) is not None


def to_a_labels(value: str) -> str:
    """The host name with its U-labels turned into A-labels (RFC 5891); ASCII comes back as it is.

    Raises:
        ValueError: a label is not allowed by IDNA 2008.
    """
    if value.isascii():
        return value
    try:
        prefix = "*." if value.startswith("*.") else ""
        return prefix + idna.encode(value[len(prefix) :]).decode("ascii")
    except UnicodeError as error:
        raise ValueError(f"is not an internationalised host name: {show(str(error))}") from None


def host_problem(value: str, *, wildcard: bool = False) -> str | None:
    """Refuse what is not a host name in A-label form (RFC 1123 section 2.1, RFC 5890 section 2.3.2.1).

    A wildcard is the whole leftmost label, before at least two others (RFC 9525 section 6.3).
    """
    host = value
    if "*" in value:
        if not wildcard:
            return "is a wildcard, which the template does not allow"
        host = value.removeprefix("*.")
        if "*" in host or "." not in host:
            return "has a wildcard that is not the whole leftmost label of three or more"
    if len(value) > MAX_HOST or not _HOST.fullmatch(host):
        return "is not a host name"
    if "--" in host:
        return next((problem for label in host.split(".") if (problem := _label_problem(label))), None)
    return None


def _label_problem(label: str) -> str | None:
    if label[2:4] != "--":
        return None
    if label[:2].lower() != "xn":
        return "has a label with hyphens in positions 3 and 4 that is no A-label"
    try:
        idna.ulabel(label.lower())
    except UnicodeError:
        return "has a label that begins with xn-- and is no valid A-label"
    return None


def mail_problem(value: str, *, utf8: bool = False) -> str | None:
    """Refuse what is not a mail address (RFC 5280 section 4.2.1.6, rfc822Name) or, with ``utf8``, a SmtpUTF8Mailbox.

    RFC 9598 section 3 keeps SmtpUTF8Mailbox for local parts with non-ASCII characters; the domain is in A-labels.
    """
    local, at, domain = value.rpartition("@")
    if not at or not local or len(local.encode()) > 64 or len(value) > 254:
        return "is not a mail address"
    if utf8:
        if local.isascii():
            return "has an ASCII local part, which is for rfc822Name"
        if (problem := character_problem(local)) or not _ATOM.fullmatch(
            "".join(c if c.isascii() else "a" for c in local)
        ):
            return problem or "is not a mail address"
    elif not _ATOM.fullmatch(local):
        return "has a local part that is not ASCII dot-atom text"
    return None if host_problem(domain) is None else "has a domain that is not a host name"


def uri_problem(value: str) -> str | None:
    """Refuse what is not an absolute URI with a scheme (RFC 3986; RFC 5280 section 4.2.1.6)."""
    if len(value) > MAX_URI or not _URI.fullmatch(value) or _PERCENT.search(value):
        return "is not an absolute URI"
    try:
        parts = urlsplit(value)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        return "is not an absolute URI"
    if not parts.netloc and not value.partition(":")[2].startswith("//"):
        return None
    if parts.username is not None or parts.password is not None:
        return "carries user information"
    return None if host and (host_problem(host) is None or address_of(host)) else "has a host that is no host name"


def address_of(value: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that the text spells, or None; scope identifiers are not addresses here."""
    if "%" in value:
        return None
    try:
        return ipaddress.ip_address(value)
    except ValueError:
        return None


def principal_problem(value: str) -> str | None:
    """Refuse what is not a user principal name: ``name@realm``, one ``@``, no spaces."""
    local, at, realm = value.partition("@")
    if not at or not local or not realm or "@" in realm or len(value) > MAX_OTHER or " " in value:
        return "is not a user principal name"
    return character_problem(value)


def service_problem(value: str) -> str | None:
    """Refuse what is not an SRVName ``_Service.Name`` (RFC 4985 section 2)."""
    service, _, host = value.partition(".")
    if not _SERVICE.fullmatch(service) or host_problem(host):
        return "is not a service name such as _ldap.example.com"
    return None


def oid_problem(value: str) -> str | None:
    """Refuse what is not an object identifier in dotted form."""
    first, _, rest = value.partition(".")
    if not _OID.fullmatch(value) or (first in {"0", "1"} and int(rest.partition(".")[0]) > 39):
        return "is not an object identifier"
    return None


def is_label(value: str) -> bool:
    """Whether the text is one host name label."""
    return _LABEL.fullmatch(value) is not None
