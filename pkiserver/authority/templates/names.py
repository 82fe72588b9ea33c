"""Building distinguished names and checking what is in them."""

from __future__ import annotations

from collections.abc import Iterable

from cryptography import x509

from pkiserver.authority.templates.attributes import BY_OID, IA5, PRINTABLE, DnAttribute
from pkiserver.authority.templates.text import character_problem, is_label, is_printable_string, mail_problem

_COUNTRIES = frozenset(
    {DnAttribute.COUNTRY, DnAttribute.JURISDICTION_COUNTRY, DnAttribute.TRADEMARK_COUNTRY, DnAttribute.STATUTE_COUNTRY}
)


def subject_value_problem(attribute: DnAttribute, value: str, limit: int | None = None) -> str | None:
    """Why ``value`` cannot stand in a subject as this attribute: characters, length (in characters), form."""
    rule = attribute.rule
    most = rule.limit if limit is None else limit
    if not rule.least <= len(value) <= most:
        return f"has {len(value)} characters; {attribute} takes {rule.least} to {most}"
    if problem := character_problem(value):
        return problem
    if rule.string_type is PRINTABLE and not is_printable_string(value):
        return f"has characters outside PrintableString, which {attribute} is"
    if rule.string_type is IA5 and not value.isascii():
        return f"has characters outside ASCII, which {attribute} takes"
    return _form_problem(attribute, value)


def _form_problem(attribute: DnAttribute, value: str) -> str | None:
    if attribute in _COUNTRIES and not (value.isalpha() and value.isupper()):
        return "is not a country code of two capital letters"
    if attribute is DnAttribute.EMAIL_ADDRESS:
        return mail_problem(value)
    if attribute is DnAttribute.DOMAIN_COMPONENT and not is_label(value):
        return "is not one label of a host name"
    return None


def name_attribute(attribute: DnAttribute, value: str) -> x509.NameAttribute[str]:
    """The attribute as it stands in a certificate, in the string type of its rule; the value has been checked."""
    rule = attribute.rule
    return x509.NameAttribute(rule.oid, value, rule.string_type, _validate=False)


def attribute_label(oid: x509.ObjectIdentifier) -> str:
    """The template name of an attribute type, or its OID."""
    known = BY_OID.get(oid)
    return str(known) if known is not None else oid.dotted_string


def name_problems(name: x509.Name) -> Iterable[str]:
    """What is wrong with a name as a whole: unknown attributes, values that are no text, values out of bounds."""
    for item in name:
        attribute = BY_OID.get(item.oid)
        if attribute is None:
            yield f"has the attribute {item.oid.dotted_string}, which no template can take"
        elif not isinstance(item.value, str):
            yield f"has a {attribute} that is no text"
        elif problem := subject_value_problem(attribute, item.value):
            yield f"has a {attribute} that {problem}"
