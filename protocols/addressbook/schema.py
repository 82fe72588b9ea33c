"""The schema (RFC 4512, 4517, 4519, 4523, 2798): what is known of each attribute, and the subschema entry's texts."""

from __future__ import annotations

import enum

import attrs


class Matching(enum.Enum):
    """How values of an attribute are compared."""

    FOLDED = "caseIgnoreMatch"
    MAIL = "caseIgnoreIA5Match"
    PHONE = "telephoneNumberMatch"
    OID = "objectIdentifierMatch"
    DN = "distinguishedNameMatch"
    TIME = "generalizedTimeMatch"
    CERTIFICATE = "certificateExactMatch"
    NONE = ""


_SUBSTRINGS = {
    Matching.FOLDED: "caseIgnoreSubstringsMatch",
    Matching.MAIL: "caseIgnoreIA5SubstringsMatch",
    Matching.PHONE: "telephoneNumberSubstringsMatch",
}
_DIRECTORY_STRING = "1.3.6.1.4.1.1466.115.121.1.15"
_IA5 = "1.3.6.1.4.1.1466.115.121.1.26"
_OID = "1.3.6.1.4.1.1466.115.121.1.38"
_DN = "1.3.6.1.4.1.1466.115.121.1.12"
_TIME = "1.3.6.1.4.1.1466.115.121.1.24"
_PHONE = "1.3.6.1.4.1.1466.115.121.1.50"
_COUNTRY = "1.3.6.1.4.1.1466.115.121.1.11"
_BINARY = "1.3.6.1.4.1.1466.115.121.1.5"
_CERTIFICATE = "1.3.6.1.4.1.1466.115.121.1.8"
_CRL = "1.3.6.1.4.1.1466.115.121.1.9"
_PAIR = "1.3.6.1.4.1.1466.115.121.1.10"
_INTEGER = "1.3.6.1.4.1.1466.115.121.1.27"


@attrs.frozen
class AttributeType:
    """One attribute type."""

    oid: str
    names: tuple[str, ...]
    syntax: str
    matching: Matching = Matching.NONE
    sup: str = ""
    single: bool = False
    usage: str = ""
    """Empty for user attributes, else the usage of RFC 4512 section 4.1.2."""

    @property
    def binary(self) -> bool:
        """Whether it must be transferred with the option ``;binary`` (RFC 4523 section 2)."""
        return self.syntax in {_CERTIFICATE, _CRL, _PAIR, _BINARY} and self.names[0] != "jpegPhoto"

    @property
    def description(self) -> bytes:
        """Its name as it stands in entries."""
        return (self.names[0] + (";binary" if self.binary else "")).encode()

    def definition(self) -> str:
        """The AttributeTypeDescription (RFC 4512 section 4.1.2)."""
        parts = [self.oid, "NAME " + _quoted(self.names)]
        if self.sup:
            parts.append(f"SUP {self.sup}")
        if self.matching is not Matching.NONE:
            parts.append(f"EQUALITY {self.matching.value}")
            if self.matching is Matching.TIME:
                parts.append("ORDERING generalizedTimeOrderingMatch")
            if self.matching in _SUBSTRINGS:
                parts.append(f"SUBSTR {_SUBSTRINGS[self.matching]}")
        parts.append(f"SYNTAX {self.syntax}")
        if self.single:
            parts.append("SINGLE-VALUE")
        if self.usage:
            parts.append(f"NO-USER-MODIFICATION USAGE {self.usage}")
        return f"( {' '.join(parts)} )"


def _quoted(names: tuple[str, ...]) -> str:
    return f"'{names[0]}'" if len(names) == 1 else "( " + " ".join(f"'{one}'" for one in names) + " )"


def _name(oid: str, *names: str, syntax: str = _DIRECTORY_STRING) -> AttributeType:
    return AttributeType(oid, names, syntax, Matching.FOLDED, sup="name")


def _operational(
    oid: str, name: str, syntax: str, matching: Matching, usage: str = "directoryOperation"
) -> AttributeType:
    return AttributeType(oid, (name,), syntax, matching, single=usage != "dSAOperation", usage=usage)


_DSA = "dSAOperation"
ATTRIBUTES: tuple[AttributeType, ...] = (
    AttributeType("2.5.4.0", ("objectClass",), _OID, Matching.OID),
    AttributeType("2.5.4.41", ("name",), _DIRECTORY_STRING, Matching.FOLDED),
    _name("2.5.4.3", "cn", "commonName"),
    _name("2.5.4.4", "sn", "surname"),
    _name("2.5.4.42", "givenName", "gn"),
    _name("2.5.4.7", "l", "localityName"),
    _name("2.5.4.10", "o", "organizationName"),
    _name("2.5.4.11", "ou", "organizationalUnitName"),
    _name("2.5.4.12", "title"),
    _name("2.5.4.6", "c", "countryName", syntax=_COUNTRY),
    AttributeType("2.5.4.13", ("description",), _DIRECTORY_STRING, Matching.FOLDED),
    AttributeType("2.5.4.20", ("telephoneNumber",), _PHONE, Matching.PHONE),
    AttributeType("2.16.840.1.113730.3.1.241", ("displayName",), _DIRECTORY_STRING, Matching.FOLDED, single=True),
    AttributeType("0.9.2342.19200300.100.1.1", ("uid", "userid"), _DIRECTORY_STRING, Matching.FOLDED),
    AttributeType("0.9.2342.19200300.100.1.3", ("mail", "rfc822Mailbox"), _IA5, Matching.MAIL),
    AttributeType("0.9.2342.19200300.100.1.25", ("dc", "domainComponent"), _IA5, Matching.MAIL, single=True),
    AttributeType("2.5.4.36", ("userCertificate",), _CERTIFICATE, Matching.CERTIFICATE),
    AttributeType("2.16.840.1.113730.3.1.40", ("userSMIMECertificate",), _BINARY),
    AttributeType("2.5.4.37", ("cACertificate",), _CERTIFICATE, Matching.CERTIFICATE),
    AttributeType("2.5.4.38", ("authorityRevocationList",), _CRL),
    AttributeType("2.5.4.39", ("certificateRevocationList",), _CRL),
    AttributeType("2.5.4.40", ("crossCertificatePair",), _PAIR),
    AttributeType("2.5.4.53", ("deltaRevocationList",), _CRL),
    _operational("2.5.18.2", "modifyTimestamp", _TIME, Matching.TIME),
    _operational("2.5.18.10", "subschemaSubentry", _DN, Matching.DN),
    _operational("2.5.21.9", "structuralObjectClass", _OID, Matching.OID),
    _operational("1.3.6.1.1.20", "entryDN", _DN, Matching.DN),
    _operational("1.3.6.1.4.1.1466.101.120.5", "namingContexts", _DN, Matching.NONE, _DSA),
    _operational("1.3.6.1.4.1.1466.101.120.7", "supportedExtension", _OID, Matching.OID, _DSA),
    _operational("1.3.6.1.4.1.1466.101.120.13", "supportedControl", _OID, Matching.OID, _DSA),
    _operational("1.3.6.1.4.1.1466.101.120.14", "supportedSASLMechanisms", _DIRECTORY_STRING, Matching.NONE, _DSA),
    _operational("1.3.6.1.4.1.1466.101.120.15", "supportedLDAPVersion", _INTEGER, Matching.NONE, _DSA),
    _operational("1.3.6.1.4.1.4203.1.3.5", "supportedFeatures", _OID, Matching.OID, _DSA),
    _operational("1.3.6.1.1.4", "vendorName", _DIRECTORY_STRING, Matching.NONE, _DSA),
    _operational("1.3.6.1.1.5", "vendorVersion", _DIRECTORY_STRING, Matching.NONE, _DSA),
    _operational("2.5.21.5", "attributeTypes", "1.3.6.1.4.1.1466.115.121.1.3", Matching.NONE, _DSA),
    _operational("2.5.21.6", "objectClasses", "1.3.6.1.4.1.1466.115.121.1.37", Matching.NONE, _DSA),
    _operational("2.5.21.4", "matchingRules", "1.3.6.1.4.1.1466.115.121.1.30", Matching.NONE, _DSA),
    _operational("1.3.6.1.4.1.1466.101.120.16", "ldapSyntaxes", "1.3.6.1.4.1.1466.115.121.1.54", Matching.NONE, _DSA),
)  # fmt: skip
_BY_NAME = {name.lower(): one for one in ATTRIBUTES for name in (*one.names, one.oid)}
_BY_NAME |= {"email": _BY_NAME["mail"], "e": _BY_NAME["mail"], "emailaddress": _BY_NAME["mail"]}


def find_attribute(description: str) -> AttributeType | None:
    """The type behind an attribute description in lower case; None where it, or one of its options, is not known."""
    name, _, options = description.partition(";")
    found = _BY_NAME.get(name)
    if found is None or (options and (options != "binary" or not found.binary)):
        return None
    return found


def descriptions_of(description: str) -> tuple[bytes, ...]:
    """How what a client asks for stands in entries: the attribute itself and its subtypes (RFC 4512 section 2.5.1)."""
    found = find_attribute(description)
    if found is None:
        return ()
    return (found.description, *(one.description for one in ATTRIBUTES if one.sup == found.names[0]))


OBJECT_CLASSES: dict[str, str] = {
    "top": "( 2.5.6.0 NAME 'top' ABSTRACT MUST objectClass )",
    "person": "( 2.5.6.6 NAME 'person' SUP top STRUCTURAL MUST ( sn $ cn ) MAY ( telephoneNumber $ description ) )",
    "organizationalPerson": (
        "( 2.5.6.7 NAME 'organizationalPerson' SUP person STRUCTURAL MAY ( title $ telephoneNumber $ ou $ l ) )"
    ),
    "inetOrgPerson": (
        "( 2.16.840.1.113730.3.2.2 NAME 'inetOrgPerson' SUP organizationalPerson STRUCTURAL MAY ( displayName $ "
        "givenName $ mail $ o $ uid $ userCertificate $ userSMIMECertificate ) )"
    ),
    "organization": "( 2.5.6.4 NAME 'organization' SUP top STRUCTURAL MUST o MAY ( description $ l ) )",
    "organizationalUnit": "( 2.5.6.5 NAME 'organizationalUnit' SUP top STRUCTURAL MUST ou MAY ( description $ l ) )",
    "country": "( 2.5.6.2 NAME 'country' SUP top STRUCTURAL MUST c MAY description )",
    "locality": "( 2.5.6.3 NAME 'locality' SUP top STRUCTURAL MAY ( l $ description ) )",
    "domain": "( 0.9.2342.19200300.100.4.13 NAME 'domain' SUP top STRUCTURAL MUST dc MAY ( description $ o $ l ) )",
    "dcObject": "( 1.3.6.1.4.1.1466.344 NAME 'dcObject' SUP top AUXILIARY MUST dc )",
    "applicationProcess": (
        "( 2.5.6.11 NAME 'applicationProcess' SUP top STRUCTURAL MUST cn MAY ( ou $ l $ description ) )"
    ),
    "pkiCA": (
        "( 2.5.6.22 NAME 'pkiCA' SUP top AUXILIARY MAY ( cACertificate $ certificateRevocationList $ "
        "authorityRevocationList $ crossCertificatePair ) )"
    ),
    "deltaCRL": "( 2.5.6.23 NAME 'deltaCRL' SUP top AUXILIARY MAY deltaRevocationList )",
    "certificationAuthority": (
        "( 2.5.6.16 NAME 'certificationAuthority' SUP top AUXILIARY MUST ( authorityRevocationList $ "
        "certificateRevocationList $ cACertificate ) MAY crossCertificatePair )"
    ),
    "subschema": "( 2.5.20.1 NAME 'subschema' AUXILIARY MAY ( objectClasses $ attributeTypes $ matchingRules ) )",
    "subentry": "( 2.5.17.0 NAME 'subentry' SUP top STRUCTURAL MUST cn )",
}
CLASS_NAMES = {text.split()[1]: name.lower() for name, text in OBJECT_CLASSES.items()}
"""Object class OID to its name in lower case."""
_RULES = (
    ("2.5.13.0", "objectIdentifierMatch", _OID),
    ("2.5.13.1", "distinguishedNameMatch", _DN),
    ("2.5.13.2", "caseIgnoreMatch", _DIRECTORY_STRING),
    ("2.5.13.4", "caseIgnoreSubstringsMatch", "1.3.6.1.4.1.1466.115.121.1.58"),
    ("2.5.13.20", "telephoneNumberMatch", _PHONE),
    ("2.5.13.21", "telephoneNumberSubstringsMatch", "1.3.6.1.4.1.1466.115.121.1.58"),
    ("2.5.13.27", "generalizedTimeMatch", _TIME),
    ("2.5.13.28", "generalizedTimeOrderingMatch", _TIME),
    ("2.5.13.34", "certificateExactMatch", "1.3.6.1.1.15.1"),
    ("1.3.6.1.4.1.1466.109.114.2", "caseIgnoreIA5Match", _IA5),
    ("1.3.6.1.4.1.1466.109.114.3", "caseIgnoreIA5SubstringsMatch", "1.3.6.1.4.1.1466.115.121.1.58"),
)
RULE_NAMES = {key.lower(): name for oid, name, _ in _RULES for key in (oid, name)}
"""Matching rule, by OID or name in lower case, to its name."""
_SYNTAXES = {
    _DIRECTORY_STRING: "Directory String", _IA5: "IA5 String", _OID: "OID", _DN: "DN", _TIME: "Generalized Time",
    _PHONE: "Telephone Number", _COUNTRY: "Country String", _BINARY: "Binary", _CERTIFICATE: "Certificate",
    _CRL: "Certificate List", _PAIR: "Certificate Pair", _INTEGER: "INTEGER",
    "1.3.6.1.4.1.1466.115.121.1.58": "Substring Assertion", "1.3.6.1.1.15.1": "X.509 Certificate Exact Assertion",
    "1.3.6.1.4.1.1466.115.121.1.3": "Attribute Type Description",
    "1.3.6.1.4.1.1466.115.121.1.30": "Matching Rule Description",
    "1.3.6.1.4.1.1466.115.121.1.37": "Object Class Description",
    "1.3.6.1.4.1.1466.115.121.1.54": "LDAP Syntax Description",
}  # fmt: skip


def subschema() -> dict[str, tuple[str, ...]]:
    """The subschema entry's operational attributes (RFC 4512 section 4.2)."""
    return {
        "attributeTypes": tuple(one.definition() for one in ATTRIBUTES),
        "objectClasses": tuple(OBJECT_CLASSES.values()),
        "matchingRules": tuple(f"( {oid} NAME '{name}' SYNTAX {syntax} )" for oid, name, syntax in _RULES),
        "ldapSyntaxes": tuple(f"( {oid} DESC '{text}' )" for oid, text in _SYNTAXES.items()),
    }
