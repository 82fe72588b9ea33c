"""The attributes of a distinguished name: OID, length limit and string type (X.520, RFC 4519, RFC 5280 appendix A)."""

from __future__ import annotations

from enum import StrEnum

import attrs
from cryptography.x509 import ObjectIdentifier
from cryptography.x509.name import _ASN1Type

UTF8 = _ASN1Type.UTF8String
PRINTABLE = _ASN1Type.PrintableString
IA5 = _ASN1Type.IA5String


@attrs.frozen
class AttributeRule:
    """One attribute type: ``limit`` is in characters; ``least`` is 2 where the length is fixed at two (countries)."""

    oid: ObjectIdentifier
    limit: int
    string_type: _ASN1Type
    least: int = 1


class DnAttribute(StrEnum):
    """The distinguished name attributes that a template may use, by the name that a template file gives them."""

    COMMON_NAME = "common_name"
    SURNAME = "surname"
    SERIAL_NUMBER = "serial_number"
    COUNTRY = "country"
    LOCALITY = "locality"
    STATE_OR_PROVINCE = "state_or_province"
    STREET = "street"
    ORGANIZATION = "organization"
    ORGANIZATIONAL_UNIT = "organizational_unit"
    TITLE = "title"
    DESCRIPTION = "description"
    BUSINESS_CATEGORY = "business_category"
    POSTAL_CODE = "postal_code"
    POST_OFFICE_BOX = "post_office_box"
    PHYSICAL_DELIVERY_OFFICE = "physical_delivery_office"
    TELEPHONE_NUMBER = "telephone_number"
    NAME = "name"
    GIVEN_NAME = "given_name"
    INITIALS = "initials"
    GENERATION_QUALIFIER = "generation_qualifier"
    DN_QUALIFIER = "dn_qualifier"
    HOUSE_IDENTIFIER = "house_identifier"
    PSEUDONYM = "pseudonym"
    ORGANIZATION_IDENTIFIER = "organization_identifier"
    USER_ID = "user_id"
    DOMAIN_COMPONENT = "domain_component"
    EMAIL_ADDRESS = "email_address"
    UNSTRUCTURED_NAME = "unstructured_name"
    UNSTRUCTURED_ADDRESS = "unstructured_address"
    JURISDICTION_LOCALITY = "jurisdiction_locality"
    JURISDICTION_STATE_OR_PROVINCE = "jurisdiction_state_or_province"
    JURISDICTION_COUNTRY = "jurisdiction_country"
    TRADEMARK_OFFICE_NAME = "trademark_office_name"
    TRADEMARK_COUNTRY = "trademark_country"
    TRADEMARK_REGISTRATION = "trademark_registration"
    LEGAL_ENTITY_IDENTIFIER = "legal_entity_identifier"
    WORD_MARK = "word_mark"
    MARK_TYPE = "mark_type"
    STATUTE_COUNTRY = "statute_country"
    STATUTE_STATE_OR_PROVINCE = "statute_state_or_province"
    STATUTE_LOCALITY = "statute_locality"
    STATUTE_CITATION = "statute_citation"
    STATUTE_URL = "statute_url"

    @property
    def rule(self) -> AttributeRule:
        """OID, limits and string type."""
        return RULES[self]


def _rule(oid: str, limit: int, string_type: _ASN1Type = UTF8, least: int = 1) -> AttributeRule:
    return AttributeRule(ObjectIdentifier(oid), limit, string_type, least)


# ub-name is 32768 in RFC 5280, which no reader of a certificate expects: X.520's older bound of 64 (surname, ...) is
# not binding either. 256 is our cap wherever the standards give no bound below it.
_MARK = "1.3.6.1.4.1.53087"
RULES: dict[DnAttribute, AttributeRule] = {
    DnAttribute.COMMON_NAME: _rule("2.5.4.3", 64),
    DnAttribute.SURNAME: _rule("2.5.4.4", 256),
    DnAttribute.SERIAL_NUMBER: _rule("2.5.4.5", 64, PRINTABLE),
    DnAttribute.COUNTRY: _rule("2.5.4.6", 2, PRINTABLE, 2),
    DnAttribute.LOCALITY: _rule("2.5.4.7", 128),
    DnAttribute.STATE_OR_PROVINCE: _rule("2.5.4.8", 128),
    DnAttribute.STREET: _rule("2.5.4.9", 128),
    DnAttribute.ORGANIZATION: _rule("2.5.4.10", 64),
    DnAttribute.ORGANIZATIONAL_UNIT: _rule("2.5.4.11", 64),
    DnAttribute.TITLE: _rule("2.5.4.12", 64),
    DnAttribute.DESCRIPTION: _rule("2.5.4.13", 256),
    DnAttribute.BUSINESS_CATEGORY: _rule("2.5.4.15", 128),
    DnAttribute.POSTAL_CODE: _rule("2.5.4.17", 40),
    DnAttribute.POST_OFFICE_BOX: _rule("2.5.4.18", 40),
    DnAttribute.PHYSICAL_DELIVERY_OFFICE: _rule("2.5.4.19", 128),
    DnAttribute.TELEPHONE_NUMBER: _rule("2.5.4.20", 32, PRINTABLE),
    DnAttribute.NAME: _rule("2.5.4.41", 256),
    DnAttribute.GIVEN_NAME: _rule("2.5.4.42", 256),
    DnAttribute.INITIALS: _rule("2.5.4.43", 256),
    DnAttribute.GENERATION_QUALIFIER: _rule("2.5.4.44", 256),
    DnAttribute.DN_QUALIFIER: _rule("2.5.4.46", 256, PRINTABLE),
    DnAttribute.HOUSE_IDENTIFIER: _rule("2.5.4.51", 256),
    DnAttribute.PSEUDONYM: _rule("2.5.4.65", 128),
    DnAttribute.ORGANIZATION_IDENTIFIER: _rule("2.5.4.97", 256),
    DnAttribute.USER_ID: _rule("0.9.2342.19200300.100.1.1", 256),
    DnAttribute.DOMAIN_COMPONENT: _rule("0.9.2342.19200300.100.1.25", 63, IA5),
    DnAttribute.EMAIL_ADDRESS: _rule("1.2.840.113549.1.9.1", 255, IA5),
    DnAttribute.UNSTRUCTURED_NAME: _rule("1.2.840.113549.1.9.2", 255),
    DnAttribute.UNSTRUCTURED_ADDRESS: _rule("1.2.840.113549.1.9.8", 255),
    DnAttribute.JURISDICTION_LOCALITY: _rule("1.3.6.1.4.1.311.60.2.1.1", 128),
    DnAttribute.JURISDICTION_STATE_OR_PROVINCE: _rule("1.3.6.1.4.1.311.60.2.1.2", 128),
    DnAttribute.JURISDICTION_COUNTRY: _rule("1.3.6.1.4.1.311.60.2.1.3", 2, PRINTABLE, 2),
    DnAttribute.TRADEMARK_OFFICE_NAME: _rule(f"{_MARK}.1.2", 256),
    DnAttribute.TRADEMARK_COUNTRY: _rule(f"{_MARK}.1.3", 2, PRINTABLE, 2),
    DnAttribute.TRADEMARK_REGISTRATION: _rule(f"{_MARK}.1.4", 256),
    DnAttribute.LEGAL_ENTITY_IDENTIFIER: _rule(f"{_MARK}.1.5", 20),
    DnAttribute.WORD_MARK: _rule(f"{_MARK}.1.6", 256),
    DnAttribute.MARK_TYPE: _rule(f"{_MARK}.1.13", 64),
    DnAttribute.STATUTE_COUNTRY: _rule(f"{_MARK}.3.2", 2, PRINTABLE, 2),
    DnAttribute.STATUTE_STATE_OR_PROVINCE: _rule(f"{_MARK}.3.3", 128),
    DnAttribute.STATUTE_LOCALITY: _rule(f"{_MARK}.3.4", 128),
    DnAttribute.STATUTE_CITATION: _rule(f"{_MARK}.3.5", 256),
    DnAttribute.STATUTE_URL: _rule(f"{_MARK}.3.6", 256),
}

BY_OID: dict[ObjectIdentifier, DnAttribute] = {rule.oid: attribute for attribute, rule in RULES.items()}
