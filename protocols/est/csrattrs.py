"""CSR attributes (RFC 7030 section 4.5.2, RFC 8951 section 4, RFC 9908): what a template would like to see in a CSR.

Both styles go out together: the list that older clients read, and the RFC 9908 section 3.4 template for newer ones.
Only what a client has to decide is asked for; what the server fills in anyway is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from cryptography.hazmat import asn1
from cryptography.x509 import ObjectIdentifier

from pkiserver.authority.templates.model import Template
from pkiserver.authority.templates.model_names import Source, SubjectPart
from pkiserver.keys.algorithms import KeyFamily, KeyType
from protocols.cms.ber import header
from protocols.cms.messages import AlgorithmIdentifier, algorithm, octets, set_tlv, tlv
from protocols.cms.oids import EC_PUBLIC_KEY, RSA_ENCRYPTION
from protocols.est.messages import CHALLENGE_PASSWORD

_CRI_TEMPLATE = "1.2.840.113549.1.9.16.2.61"
_EXTENSION_TEMPLATE = "1.2.840.113549.1.9.16.2.62"
_SUBJECT_ALTERNATIVE_NAME = "2.5.29.17"
_EDWARDS = {25519: "1.3.101.112", 448: "1.3.101.113"}
_ML_DSA = {44: "2.16.840.1.101.3.4.3.17", 65: "2.16.840.1.101.3.4.3.18", 87: "2.16.840.1.101.3.4.3.19"}
_CURVES = {256: "1.2.840.10045.3.1.7", 384: "1.3.132.0.34", 521: "1.3.132.0.35"}
_ECDSA = {256: "1.2.840.10045.4.3.2", 384: "1.2.840.10045.4.3.3", 521: "1.2.840.10045.4.3.4"}
_SHA256_WITH_RSA = "1.2.840.113549.1.1.11"


@asn1.sequence
class KeyTemplate:
    """SubjectPublicKeyInfoTemplate (RFC 9908 appendix A)."""

    algorithm: AlgorithmIdentifier
    subject_public_key: asn1.BitString | None


@asn1.sequence
class RequestInfoTemplate:
    """CertificationRequestInfoTemplate (RFC 9908 section 3.4); ``subject`` is an RDNSequenceTemplate."""

    version: int
    subject: list[asn1.TLV] | None
    subject_pk_info: Annotated[KeyTemplate | None, asn1.Implicit(0)]
    attributes: Annotated[list[asn1.TLV], asn1.Implicit(1)]


@asn1.sequence
class RsaPublicKey:
    """RSAPublicKey (RFC 8017 appendix A.1.1)."""

    modulus: int
    public_exponent: int


def encode_csr_attributes(template: Template) -> bytes:
    """The DER CsrAttrs for a template: an empty SEQUENCE where it wants nothing in particular."""
    linked = template.est.proof_linking == "required"
    key = template.keys[0] if template.keys else None
    items: list[bytes] = []
    if linked:
        items.append(_oid(CHALLENGE_PASSWORD))
    if key is not None:
        items += [_key_attribute(key), _signature_oid(key)]
    items += [_oid(part.attribute.rule.oid.dotted_string) for part in _wished(template)]
    items += [_oid(extra.value) for extra in template.est.csr_attributes]
    found = list(dict.fromkeys(items))
    if not linked:
        # A client that reads templates ignores the rest, and a template has no way to ask for a challengePassword
        # without giving its value.
        found += _request_template(template, key)
    return _sequence(found)


def _wished(template: Template) -> tuple[SubjectPart, ...]:
    """The parts of the subject that must come from the client."""
    return tuple(part for part in template.subject.parts if part.source.uses_request and _is_needed(template, part))


def _is_needed(template: Template, part: SubjectPart) -> bool:
    """Whether the subject lacks something without it: said of the part, or of its attribute, which no other gives."""
    if part.required or part.attribute not in template.subject.required:
        return part.required
    others = (one for one in template.subject.parts if one.attribute is part.attribute)
    return part.default is None and not any(one.source is Source.FIXED for one in others)


def _wants_names(template: Template) -> bool:
    """Whether the client has to name itself in a subjectAltName, if only for its subject to be taken from there."""
    from_client = [part for part in template.sans.parts if part.source.uses_request]
    copied = [part for part in template.subject.parts if part.source is Source.SAN and _is_needed(template, part)]
    given = {part.kind for part in template.sans.parts if not part.source.uses_request}
    needed = any(given.isdisjoint(part.sans) for part in copied)
    return bool(from_client) and (template.sans.min > 0 or needed or any(part.min > 0 for part in from_client))


def _request_template(template: Template, key: KeyType | None) -> list[bytes]:
    """The attribute with a CertificationRequestInfoTemplate, where there is anything to say about names."""
    wished, names = _wished(template), _wants_names(template)
    if not wished and not names:
        return []
    subject = [set_tlv([_sequence([_oid(part.attribute.rule.oid.dotted_string)])]) for part in wished]
    attributes = []
    if names:
        extension = _sequence([_oid(_SUBJECT_ALTERNATIVE_NAME)])
        attributes.append(tlv(_attribute(_EXTENSION_TEMPLATE, [_sequence([extension])])))
    info = RequestInfoTemplate(
        version=0,
        subject=subject or None,
        subject_pk_info=None if key is None else _key_template(key),
        attributes=attributes,
    )
    return [_attribute(_CRI_TEMPLATE, [octets(info)])]


def _key_algorithm(key: KeyType) -> str:
    """OID of the key's algorithm."""
    if key.family is KeyFamily.RSA:
        return RSA_ENCRYPTION
    if key.family is KeyFamily.EC:
        return EC_PUBLIC_KEY
    return (_EDWARDS if key.family is KeyFamily.ED else _ML_DSA)[key.size]


def _key_attribute(key: KeyType) -> bytes:
    """The one attribute about the key (RFC 9908 section 3.2): curve or modulus size, else no value."""
    values: list[bytes] = []
    if key.family is KeyFamily.RSA:
        values = [octets(key.size)]
    elif key.family is KeyFamily.EC:
        values = [_oid(_CURVES[key.size])]
    return _attribute(_key_algorithm(key), values)


def _key_template(key: KeyType) -> KeyTemplate:
    """The key for a template; an RSA size is shown by a placeholder modulus of that length."""
    placeholder = None
    parameters: bytes | None = None
    if key.family is KeyFamily.RSA:
        modulus = (1 << key.size) - 1
        placeholder = asn1.BitString(octets(RsaPublicKey(modulus=modulus, public_exponent=65537)), 0)
        parameters = b"\x05\x00"
    elif key.family is KeyFamily.EC:
        parameters = _oid(_CURVES[key.size])
    return KeyTemplate(algorithm=algorithm(_key_algorithm(key), parameters), subject_public_key=placeholder)


def _signature_oid(key: KeyType) -> bytes:
    """The OID of the signature algorithm that suits the key, as the CSR's own signature should have it."""
    if key.family is KeyFamily.RSA:
        return _oid(_SHA256_WITH_RSA)
    return _oid(_ECDSA[key.size] if key.family is KeyFamily.EC else _key_algorithm(key))


def _oid(dotted: str) -> bytes:
    """A DER OBJECT IDENTIFIER."""
    return octets(ObjectIdentifier(dotted))


def _sequence(items: Iterable[bytes]) -> bytes:
    """A DER SEQUENCE of encodings."""
    content = b"".join(items)
    return header(b"\x30", len(content)) + content


def _attribute(oid: str, values: list[bytes]) -> bytes:
    """A DER Attribute, whose SET of values may be empty here (RFC 9908 section 3.2)."""
    return _sequence([_oid(oid), octets(set_tlv(values))])
