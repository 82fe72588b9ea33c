"""Kinds of subject alternative names: from text to GeneralName and back (RFC 5280 section 4.2.1.6 and others)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from enum import StrEnum

from cryptography import x509

from pkiserver.authority.templates import text
from pkiserver.authority.templates.names import name_problems
from pkiserver.authority.templates.patterns import Pattern
from pkiserver.foundation import der

UPN_OID = x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")
SRV_OID = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7")
SMTP_UTF8_OID = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.9")


class SanKind(StrEnum):
    """The kinds a template may name. ``other`` is any otherName that holds a UTF8String."""

    DNS = "dns"
    IP = "ip"
    MAIL = "mail"
    URI = "uri"
    DIRECTORY = "directory"
    REGISTERED_ID = "registered_id"
    UPN = "upn"
    SRV = "srv"
    SMTP_UTF8 = "smtp_utf8"
    OTHER = "other"


SEPARATORS = {SanKind.DNS: ".", SanKind.MAIL: "@", SanKind.UPN: "@", SanKind.URI: "/", SanKind.SMTP_UTF8: "@"}
_IGNORE_CASE = frozenset({SanKind.DNS, SanKind.MAIL, SanKind.UPN, SanKind.SRV, SanKind.SMTP_UTF8})
_OTHER_KINDS = {UPN_OID: SanKind.UPN, SRV_OID: SanKind.SRV, SMTP_UTF8_OID: SanKind.SMTP_UTF8}

Matcher = Callable[[str], bool]


def compile_pattern(kind: SanKind, pattern: str) -> Matcher:
    """A test for values of this kind: a CIDR block for addresses, a pattern for the rest; raises ValueError."""
    if kind is not SanKind.IP:
        return Pattern(pattern, separators=SEPARATORS.get(kind, ""), ignore_case=kind in _IGNORE_CASE).matches
    network = ipaddress.ip_network(pattern)

    def inside(value: str) -> bool:
        address = text.address_of(value)
        return address is not None and address in network

    return inside


class SanError(ValueError):
    """A value that cannot be a name of its kind; the message continues a sentence that begins with the value."""


def _checked(problem: str | None) -> None:
    if problem:
        raise SanError(problem)


def make(kind: SanKind, value: str, *, wildcard: bool = False, oid: str | None = None) -> x509.GeneralName:
    """A name from its text; host names in Unicode become A-labels.

    Raises:
        SanError: the text is not a name of this kind.
    """
    if kind is SanKind.DNS:
        host = _a_labels(value)
        _checked(text.host_problem(host, wildcard=wildcard))
        return x509.DNSName(host)
    if kind is SanKind.MAIL:
        local, at, domain = value.rpartition("@")
        address = f"{local}{at}{_a_labels(domain)}"
        _checked(text.mail_problem(address))
        return x509.RFC822Name(address)
    if kind is SanKind.IP:
        parsed = text.address_of(value)
        if parsed is None:
            raise SanError("is not an IP address")
        return x509.IPAddress(parsed)
    return _make_rare(kind, value, oid)


def _make_rare(kind: SanKind, value: str, oid: str | None) -> x509.GeneralName:
    if kind is SanKind.URI:
        _checked(text.uri_problem(value))
        return x509.UniformResourceIdentifier(value)
    if kind is SanKind.REGISTERED_ID:
        _checked(text.oid_problem(value))
        return x509.RegisteredID(x509.ObjectIdentifier(value))
    if kind is SanKind.DIRECTORY:
        return x509.DirectoryName(directory_name(value))
    return _make_other(kind, value, oid)


def _make_other(kind: SanKind, value: str, oid: str | None) -> x509.GeneralName:
    if kind is SanKind.SRV:
        _checked(text.service_problem(value))
        return x509.OtherName(SRV_OID, der.tlv(der.IA5_STRING, value.encode("ascii")))
    if kind is SanKind.UPN:
        _checked(text.principal_problem(value))
        return x509.OtherName(UPN_OID, der.utf8_string(value))
    if kind is SanKind.SMTP_UTF8:
        _checked(text.mail_problem(value, utf8=True))
        return x509.OtherName(SMTP_UTF8_OID, der.utf8_string(value))
    if len(value) > text.MAX_OTHER or not value:
        raise SanError(f"has not 1 to {text.MAX_OTHER} characters")
    _checked(text.character_problem(value))
    return x509.OtherName(x509.ObjectIdentifier(oid or ""), der.utf8_string(value))


def directory_name(value: str) -> x509.Name:
    """A name from RFC 4514 text, its attributes checked; raises :class:`SanError`."""
    try:
        name = x509.Name.from_rfc4514_string(value)
    except (ValueError, UnicodeError):
        raise SanError("is not a distinguished name (RFC 4514)") from None
    if not name.rdns:
        raise SanError("is an empty name, which says nothing")  # RFC 5280 section 4.2.1.6: no empty GeneralName
    _checked(next(iter(name_problems(name)), None))
    return name


def _a_labels(host: str) -> str:
    try:
        return text.to_a_labels(host)
    except ValueError as error:
        raise SanError(str(error)) from None


def classify(name: x509.GeneralName) -> tuple[SanKind, str, str | None]:
    """Kind, text and (for ``other``) OID of a name from a request.

    Raises:
        SanError: the name is of no kind that a template can take, or does not hold what its kind says.
    """
    if isinstance(name, x509.DNSName):
        return SanKind.DNS, name.value, None
    if isinstance(name, x509.RFC822Name):
        return SanKind.MAIL, name.value, None
    if isinstance(name, x509.IPAddress):
        if not isinstance(name.value, ipaddress.IPv4Address | ipaddress.IPv6Address):
            raise SanError("is a network, not an address")
        return SanKind.IP, str(name.value), None
    if isinstance(name, x509.UniformResourceIdentifier):
        return SanKind.URI, name.value, None
    if isinstance(name, x509.RegisteredID):
        return SanKind.REGISTERED_ID, name.value.dotted_string, None
    if isinstance(name, x509.DirectoryName):
        return SanKind.DIRECTORY, name.value.rfc4514_string(), None
    if isinstance(name, x509.OtherName):
        kind = _OTHER_KINDS.get(name.type_id, SanKind.OTHER)
        return kind, _other_text(name, kind), name.type_id.dotted_string if kind is SanKind.OTHER else None
    raise SanError("is of a kind that is not supported")


def _other_text(name: x509.OtherName, kind: SanKind) -> str:
    wanted = der.IA5_STRING if kind is SanKind.SRV else der.UTF8_STRING
    try:
        element = der.element(name.value)
        if element.tag != wanted or element.end != len(name.value):
            raise SanError("is an otherName of another string type than its kind has")
        return name.value[element.body :].decode("ascii" if kind is SanKind.SRV else "utf-8")
    except (der.NotDer, UnicodeDecodeError):
        raise SanError("is an otherName that holds no well-formed text") from None


def comparable(name: x509.GeneralName) -> object:
    """A key under which two spellings of the same name are equal: host names without case."""
    if isinstance(name, x509.DNSName):
        return SanKind.DNS, name.value.lower()
    if isinstance(name, x509.RFC822Name):
        local, _, domain = name.value.rpartition("@")
        return SanKind.MAIL, local, domain.lower()
    return name
