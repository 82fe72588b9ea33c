"""DER of the extensions that cryptography has no class for, and the little reading that requests need."""

from __future__ import annotations

from collections.abc import Iterable

from pkiserver.authority.templates.model_extensions import Psd2, Psd2Role, QcRules, QcSemantics, QcType
from pkiserver.authority.templates.usages import Usage
from pkiserver.foundation import der
from pkiserver.foundation.der import integer, object_identifier, sequence, utf8_string

SID_EXTENSION = "1.3.6.1.4.1.311.25.2"
TEMPLATE_NAME = "1.3.6.1.4.1.311.20.2"
APPLICATION_POLICIES = "1.3.6.1.4.1.311.21.10"
QC_STATEMENTS = "1.3.6.1.5.5.7.1.3"

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


def sid(text: str) -> bytes:
    """Microsoft's SID extension (MS-WCCE section 2.2.2.7.7.4): an otherName with the SID in an OCTET STRING."""
    value = der.explicit(0, der.octet_string(text.encode("ascii")))
    return sequence(der.explicit(0, object_identifier("1.3.6.1.4.1.311.25.2.1") + value))


def template_name(text: str) -> bytes:
    """Microsoft's v1 template name: a BMPString."""
    return der.tlv(der.BMP_STRING, text.encode("utf-16-be"))


def application_policies(purposes: Iterable[str]) -> bytes:
    """Microsoft's application policies: extended key usages in the form of certificate policies."""
    return sequence(*(sequence(object_identifier(purpose)) for purpose in purposes))


def _psd2(rules: Psd2) -> bytes:
    roles = sequence(*(sequence(object_identifier(_ROLES[role]), utf8_string(role)) for role in rules.roles))
    return sequence(roles, utf8_string(rules.authority_name), utf8_string(rules.authority_id))


def qc_statements(rules: QcRules) -> bytes:
    """The QCStatements extension (RFC 3739 section 3.2.6; ETSI EN 319 412-5 section 4; TS 119 495 section 5.1)."""
    statements: list[tuple[str, bytes]] = []
    if rules.semantics is not None:
        statements.append(("1.3.6.1.5.5.7.11.2", sequence(object_identifier(_SEMANTICS[rules.semantics]))))
    if rules.compliance:
        statements.append((f"{_ETSI}.1", b""))
    if rules.limit is not None:
        limit = rules.limit
        currency = der.tlv(der.PRINTABLE_STRING, limit.currency.encode("ascii"))
        statements.append((f"{_ETSI}.2", sequence(currency, integer(limit.amount), integer(limit.exponent))))
    if rules.retention_years is not None:
        statements.append((f"{_ETSI}.3", integer(rules.retention_years)))
    if rules.sscd:
        statements.append((f"{_ETSI}.4", b""))
    if rules.disclosures:
        items = (
            sequence(
                der.tlv(der.IA5_STRING, item.url.encode("ascii")),
                der.tlv(der.PRINTABLE_STRING, item.language.encode("ascii")),
            )
            for item in rules.disclosures
        )
        statements.append((f"{_ETSI}.5", sequence(*items)))
    if rules.types:
        statements.append((f"{_ETSI}.6", sequence(*(object_identifier(_QC_TYPES[kind]) for kind in rules.types))))
    if rules.legislation:
        countries = (der.tlv(der.PRINTABLE_STRING, country.encode("ascii")) for country in rules.legislation)
        statements.append((f"{_ETSI}.7", sequence(*countries)))
    if rules.psd2 is not None:
        statements.append(("0.4.0.19495.2", _psd2(rules.psd2)))
    statements += [(other.oid.value, other.der.data if other.der else b"") for other in rules.others]
    return sequence(*(sequence(object_identifier(name), information) for name, information in statements))


def read_purposes(data: bytes) -> tuple[str, ...]:
    """The OIDs of an ExtKeyUsageSyntax; raises :class:`der.NotDer`."""
    items = der.children(data, der.whole(data), at_most=len(data))
    if not items or any(item.tag != der.OBJECT_IDENTIFIER for item in items):
        raise der.NotDer("not an extended key usage")
    return tuple(der.read_object_identifier(data[item.body : item.end]) for item in items)


def read_usages(data: bytes) -> frozenset[Usage]:
    """The bits of a KeyUsage; raises :class:`der.NotDer`."""
    outer = der.whole(data, der.BIT_STRING)
    if not 2 <= outer.end - outer.body <= 3:
        raise der.NotDer("not a key usage")
    bits = int.from_bytes(data[outer.body + 1 : outer.end].ljust(2, b"\0"), "big")
    return frozenset(usage for position, usage in enumerate(Usage) if bits >> (15 - position) & 1)


def asks_for_ca(data: bytes) -> bool:
    """Whether a BasicConstraints says anything but ``CA:FALSE``; what cannot be read counts as asking."""
    return data not in {b"\x30\x00", b"\x30\x03\x01\x01\x00"}
