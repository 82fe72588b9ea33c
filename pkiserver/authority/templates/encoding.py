"""DER of the extensions that cryptography has no class for, and the little reading that requests need."""

from __future__ import annotations

from collections.abc import Iterable

from pkiserver.authority import der
from pkiserver.authority.templates.model_extensions import Psd2, Psd2Role, QcRules, QcSemantics, QcType
from pkiserver.authority.templates.usages import Usage

SID_EXTENSION = "1.3.6.1.4.1.311.25.2"
TEMPLATE_NAME = "1.3.6.1.4.1.311.20.2"
APPLICATION_POLICIES = "1.3.6.1.4.1.311.21.10"
QC_STATEMENTS = "1.3.6.1.5.5.7.1.3"

_INTEGER, _BIT_STRING, _OCTETS, _OID, _UTF8, _PRINTABLE, _IA5, _BMP = 0x02, 0x03, 0x04, 0x06, 0x0C, 0x13, 0x16, 0x1E
_CONTEXT_0 = 0xA0
_ETSI = "0.4.0.1862.1"
_QC_TYPES = {QcType.ESIGN: f"{_ETSI}.6.1", QcType.ESEAL: f"{_ETSI}.6.2", QcType.WEB: f"{_ETSI}.6.3"}
_SEMANTICS = {
    QcSemantics.NATURAL: "0.4.0.194121.1.1",
    QcSemantics.LEGAL: "0.4.0.194121.1.2",
    QcSemantics.EIDAS_NATURAL: "0.4.0.194121.1.3",
    QcSemantics.EIDAS_LEGAL: "0.4.0.194121.1.4",
}
_ROLES = {
    Psd2Role.ACCOUNT_SERVICING: "0.4.0.19495.1.1",
    Psd2Role.PAYMENT_INITIATION: "0.4.0.19495.1.2",
    Psd2Role.ACCOUNT_INFORMATION: "0.4.0.19495.1.3",
    Psd2Role.CARD_ISSUING: "0.4.0.19495.1.4",
}


def sequence(*items: bytes) -> bytes:
    """A SEQUENCE of DER items."""
    return der.wrap(der.SEQUENCE, b"".join(items))


def integer(value: int) -> bytes:
    """An INTEGER."""
    return der.wrap(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def oid(text: str) -> bytes:
    """An OBJECT IDENTIFIER from checked dotted text."""
    first, second, *rest = (int(arc) for arc in text.split("."))
    return der.wrap(_OID, b"".join(_base128(arc) for arc in (first * 40 + second, *rest)))


def _base128(arc: int) -> bytes:
    octets = [arc & 0x7F]
    while arc := arc >> 7:
        octets.append(0x80 | (arc & 0x7F))
    return bytes(reversed(octets))


def read_oid(content: bytes) -> str:
    """Dotted text from the content octets of an OBJECT IDENTIFIER; raises :class:`der.DerError`."""
    arcs, value = [], 0
    for octet in content:
        if value == 0 and octet == 0x80:
            raise der.DerError("an arc is not minimal")
        value = value << 7 | octet & 0x7F
        if value.bit_length() > 128:
            raise der.DerError("an arc is too long")
        if octet < 0x80:
            arcs.append(value)
            value = 0
    if not arcs or content[-1] >= 0x80:
        raise der.DerError("an object identifier ends too early")
    first = min(arcs[0] // 40, 2)
    return ".".join(str(arc) for arc in (first, arcs[0] - 40 * first, *arcs[1:]))


def utf8(text: str) -> bytes:
    """A UTF8String."""
    return der.wrap(_UTF8, text.encode())


def sid(text: str) -> bytes:
    """Microsoft's SID extension (MS-WCCE section 2.2.2.7.7.4): an otherName with the SID in an OCTET STRING."""
    value = der.wrap(_CONTEXT_0, der.wrap(_OCTETS, text.encode("ascii")))
    return sequence(der.wrap(_CONTEXT_0, oid("1.3.6.1.4.1.311.25.2.1") + value))


def template_name(text: str) -> bytes:
    """Microsoft's v1 template name: a BMPString."""
    return der.wrap(_BMP, text.encode("utf-16-be"))


def application_policies(purposes: Iterable[str]) -> bytes:
    """Microsoft's application policies: extended key usages in the form of certificate policies."""
    return sequence(*(sequence(oid(purpose)) for purpose in purposes))


def _psd2(rules: Psd2) -> bytes:
    roles = sequence(*(sequence(oid(_ROLES[role]), utf8(role)) for role in rules.roles))
    return sequence(roles, utf8(rules.authority_name), utf8(rules.authority_id))


def qc_statements(rules: QcRules) -> bytes:
    """The QCStatements extension (RFC 3739 section 3.2.6; ETSI EN 319 412-5 section 4; TS 119 495 section 5.1)."""
    statements: list[tuple[str, bytes]] = []
    if rules.semantics is not None:
        statements.append(("1.3.6.1.5.5.7.11.2", sequence(oid(_SEMANTICS[rules.semantics]))))
    if rules.compliance:
        statements.append((f"{_ETSI}.1", b""))
    if rules.limit is not None:
        limit = rules.limit
        currency = der.wrap(_PRINTABLE, limit.currency.encode("ascii"))
        statements.append((f"{_ETSI}.2", sequence(currency, integer(limit.amount), integer(limit.exponent))))
    if rules.retention_years is not None:
        statements.append((f"{_ETSI}.3", integer(rules.retention_years)))
    if rules.sscd:
        statements.append((f"{_ETSI}.4", b""))
    if rules.disclosures:
        items = (
            sequence(der.wrap(_IA5, item.url.encode("ascii")), der.wrap(_PRINTABLE, item.language.encode("ascii")))
            for item in rules.disclosures
        )
        statements.append((f"{_ETSI}.5", sequence(*items)))
    if rules.types:
        statements.append((f"{_ETSI}.6", sequence(*(oid(_QC_TYPES[kind]) for kind in rules.types))))
    if rules.legislation:
        countries = (der.wrap(_PRINTABLE, country.encode("ascii")) for country in rules.legislation)
        statements.append((f"{_ETSI}.7", sequence(*countries)))
    if rules.psd2 is not None:
        statements.append(("0.4.0.19495.2", _psd2(rules.psd2)))
    statements += [(other.oid.value, other.der.data if other.der else b"") for other in rules.others]
    return sequence(*(sequence(oid(name), information) for name, information in statements))


def read_purposes(data: bytes) -> tuple[str, ...]:
    """The OIDs of an ExtKeyUsageSyntax; raises :class:`der.DerError`."""
    outer = der.read(data)
    items = der.children(data, outer) if outer.tag == der.SEQUENCE and outer.end == len(data) else []
    if not items or any(item.tag != _OID for item in items):
        raise der.DerError("not an extended key usage")
    return tuple(read_oid(data[item.content : item.end]) for item in items)


def read_usages(data: bytes) -> frozenset[Usage]:
    """The bits of a KeyUsage; raises :class:`der.DerError`."""
    outer = der.read(data)
    if outer.tag != _BIT_STRING or outer.end != len(data) or not 2 <= outer.end - outer.content <= 3:
        raise der.DerError("not a key usage")
    bits = int.from_bytes(data[outer.content + 1 : outer.end].ljust(2, b"\0"), "big")
    return frozenset(usage for position, usage in enumerate(Usage) if bits >> (15 - position) & 1)


def asks_for_ca(data: bytes) -> bool:
    """Whether a BasicConstraints says anything but ``CA:FALSE``; what cannot be read counts as asking."""
    return data not in {b"\x30\x00", b"\x30\x03\x01\x01\x00"}
