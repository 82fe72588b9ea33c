"""Public keys as tokens hold them, and the templates for keys to be born there."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, Mechanism, MechanismFlag, ObjectClass
from pkcs11 import KeyType as TokenKeyType
from pkcs11 import exceptions as p11

from pkiserver.foundation import der
from pkiserver.keys.algorithms import CURVES, KeyFamily, KeyType, PrivateKey, PublicKey
from pkiserver.keys.doors import Door

CURVE_OIDS = {256: "1.2.840.10045.3.1.7", 384: "1.3.132.0.34", 521: "1.3.132.0.35"}
EDWARDS = {25519: ("1.3.101.112", b"edwards25519"), 448: ("1.3.101.113", b"edwards448")}
_PRINTABLE_STRING = 0x13
_CURVE_REFUSED = (
    p11.AttributeValueInvalid,
    p11.DomainParamsInvalid,
    p11.TemplateInconsistent,
    p11.ArgumentsBad,
    p11.FunctionFailed,
)


def ec_parameters(key_type: KeyType) -> tuple[bytes, ...]:
    """EC_PARAMS to try, in order: the DER OID, then (Edwards curves) the PrintableString form some tokens want."""
    if key_type.family is KeyFamily.EC:
        return (der.object_identifier(CURVE_OIDS[key_type.size]),)
    dotted, name = EDWARDS[key_type.size]
    return der.object_identifier(dotted), der.tlv(_PRINTABLE_STRING, name)


def capabilities(key_type: KeyType, doors: frozenset[Door]) -> MechanismFlag:
    """What the token shall let the private key do. Every key signs (its own certification request at least)."""
    allowed = MechanismFlag.SIGN | MechanismFlag.VERIFY
    if Door.OPEN in doors and key_type.family is KeyFamily.RSA:
        allowed |= MechanismFlag.DECRYPT | MechanismFlag.ENCRYPT
    if Door.OPEN in doors and key_type.family is KeyFamily.EC:
        allowed |= MechanismFlag.DERIVE
    return allowed


def private_template() -> dict[Attribute, Any]:
    """Attributes of every private key: it never leaves the token in the clear."""
    return {Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False}


def generate(session: Any, key_type: KeyType, label: str, key_id: bytes, doors: frozenset[Door]) -> tuple[Any, Any]:
    """A key pair born in the token: its public and private objects. Raises PKCS#11 errors."""
    common = {
        "id": key_id, "label": label, "store": True, "capabilities": capabilities(key_type, doors),
        "private_template": private_template(),
    }  # fmt: skip
    if key_type.family is KeyFamily.RSA:
        pair: tuple[Any, Any] = session.generate_keypair(TokenKeyType.RSA, key_type.size, **common)
        return pair
    family = TokenKeyType.EC if key_type.family is KeyFamily.EC else TokenKeyType.EC_EDWARDS
    mechanism = Mechanism.EC_KEY_PAIR_GEN if family is TokenKeyType.EC else Mechanism.EC_EDWARDS_KEY_PAIR_GEN
    *others, last = ec_parameters(key_type)
    for parameters in others:
        try:
            return _generate_on_curve(session, family, mechanism, parameters, common)
        except _CURVE_REFUSED:
            continue  # the other spelling of the curve comes next
    return _generate_on_curve(session, family, mechanism, last, common)


def _generate_on_curve(
    session: Any, family: Any, mechanism: Any, parameters: bytes, common: dict[str, Any]
) -> tuple[Any, Any]:
    domain = session.create_domain_parameters(family, {Attribute.EC_PARAMS: parameters}, local=True)
    pair: tuple[Any, Any] = domain.generate_keypair(mechanism=mechanism, **common)
    return pair


def read_public(thing: Any) -> PublicKey | None:
    """The public key in a public-key object, or in an RSA private-key object; None where it cannot be read."""
    try:
        kind = thing[Attribute.KEY_TYPE]
        if kind == TokenKeyType.RSA:
            modulus, exponent = thing[Attribute.MODULUS], thing[Attribute.PUBLIC_EXPONENT]
            return rsa.RSAPublicNumbers(int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big")).public_key()
        if kind in {TokenKeyType.EC, TokenKeyType.EC_EDWARDS}:
            return _read_point(thing[Attribute.EC_PARAMS], thing[Attribute.EC_POINT])
    except (p11.PKCS11Error, ValueError, KeyError):
        return None
    return None


def _read_point(parameters: bytes, point: bytes) -> PublicKey | None:
    raw = _unwrap(point)
    for size, dotted in CURVE_OIDS.items():
        if parameters == der.object_identifier(dotted):
            return ec.EllipticCurvePublicKey.from_encoded_point(CURVES[size], raw)
    for size, (dotted, name) in EDWARDS.items():
        if parameters in {der.object_identifier(dotted), der.tlv(_PRINTABLE_STRING, name)}:
            kind = ed25519.Ed25519PublicKey if size == 25519 else ed448.Ed448PublicKey
            return kind.from_public_bytes(raw)
    return None


def _unwrap(point: bytes) -> bytes:
    # CKA_EC_POINT is an OCTET STRING around the point; a few tokens give the bare point, and Edwards ones a BIT STRING.
    try:
        outer = der.element(point, 0, len(point))
    except der.NotDer:
        return point
    if outer.end != len(point) or outer.tag not in {der.OCTET_STRING, der.BIT_STRING}:
        return point
    return point[outer.body + (outer.tag == der.BIT_STRING) : outer.end]


def wrapped_point(public_key: PublicKey) -> bytes:
    """CKA_EC_POINT of a public key."""
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        raw = public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    else:
        raw = public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return der.tlv(der.OCTET_STRING, raw)


def import_templates(
    private: PrivateKey, label: str, key_id: bytes, doors: frozenset[Door]
) -> tuple[dict[Attribute, Any], dict[Attribute, Any]]:
    """Public and private templates for a key made elsewhere; raises :class:`ValueError` for a kind no token takes."""
    key_type = KeyType.of(private.public_key())
    flags = capabilities(key_type, doors)
    common = {Attribute.TOKEN: True, Attribute.LABEL: label, Attribute.ID: key_id}
    public: dict[Attribute, Any] = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.VERIFY: True, **common}
    secret: dict[Attribute, Any] = {
        Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.SIGN: True, **private_template(), **common,
        Attribute.DECRYPT: bool(flags & MechanismFlag.DECRYPT), Attribute.DERIVE: bool(flags & MechanismFlag.DERIVE),
    }  # fmt: skip
    if isinstance(private, rsa.RSAPrivateKey):
        more = _rsa(private.private_numbers())
    elif isinstance(private, ec.EllipticCurvePrivateKey):
        more = _curve(TokenKeyType.EC, private)
    elif isinstance(private, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        more = _curve(TokenKeyType.EC_EDWARDS, private)
    else:
        raise ValueError(f"a key of type {key_type} cannot be kept in a token")
    return public | more[0], secret | more[1]


def _curve(
    kind: TokenKeyType, private: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
) -> tuple[dict[Attribute, Any], dict[Attribute, Any]]:
    public_key = private.public_key()
    key_type = KeyType.of(public_key)
    shared = {Attribute.KEY_TYPE: kind, Attribute.EC_PARAMS: ec_parameters(key_type)[0]}
    if isinstance(private, ec.EllipticCurvePrivateKey):
        value = private.private_numbers().private_value.to_bytes((key_type.size + 7) // 8, "big")
    else:
        value = private.private_bytes_raw()
    return shared | {Attribute.EC_POINT: wrapped_point(public_key)}, shared | {Attribute.VALUE: value}


def _rsa(numbers: rsa.RSAPrivateNumbers) -> tuple[dict[Attribute, Any], dict[Attribute, Any]]:
    shared = {
        Attribute.KEY_TYPE: TokenKeyType.RSA,
        Attribute.MODULUS: _octets(numbers.public_numbers.n),
        Attribute.PUBLIC_EXPONENT: _octets(numbers.public_numbers.e),
    }
    return shared, shared | {
        Attribute.PRIVATE_EXPONENT: _octets(numbers.d),
        Attribute.PRIME_1: _octets(numbers.p),
        Attribute.PRIME_2: _octets(numbers.q),
        Attribute.EXPONENT_1: _octets(numbers.dmp1),
        Attribute.EXPONENT_2: _octets(numbers.dmq1),
        Attribute.COEFFICIENT: _octets(numbers.iqmp),
    }


def _octets(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
