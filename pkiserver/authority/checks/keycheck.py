"""Is this public key fit to be certified? Checks that need no secret and no database.

Each check returns what is wrong in one line that may be shown to the client; all are collected. RSA: size, exponent
(FIPS 186-5 section A.1.1), small factors, the ROCA fingerprint (CVE-2017-15361), primes too close (Fermat). Curves:
the point lies on the named curve and is not of small order (SP 800-186 appendix D.1).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable

import attrs
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from pkiserver.foundation.errors import Reason, Refusal


@attrs.frozen
class KeyPolicy:
    """Bounds for keys, in bits where sizes; ``fermat_rounds`` caps the work spent on one modulus."""

    rsa_minimum: int = 2048
    rsa_maximum: int = 8192
    exponent_minimum: int = 65537
    exponent_maximum_bits: int = 256
    fermat_rounds: int = 100
    small_factor_bound: int = 4096


DEFAULT_POLICY = KeyPolicy()

_ROCA_PRIMES = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103,
                107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167)  # fmt: skip
_SQUARES_MOD_64 = frozenset(n * n % 64 for n in range(64))
_SMALL = 63 * 65 * 11
_SQUARES_MOD_SMALL = frozenset(n * n % _SMALL for n in range(_SMALL))


def check_key(public_key: CertificatePublicKeyTypes, policy: KeyPolicy = DEFAULT_POLICY) -> tuple[Reason, ...]:
    """Everything that is wrong with a public key; empty when nothing is."""
    return tuple(Reason(Refusal.BAD_KEY, text) for text in _problems(public_key, policy))


def _problems(public_key: CertificatePublicKeyTypes, policy: KeyPolicy) -> Iterable[str]:
    if isinstance(public_key, rsa.RSAPublicKey):
        return _rsa_problems(public_key.public_numbers(), policy)
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return _curve_problems(public_key)
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return _edwards_problems(public_key.public_bytes_raw(), _ED25519)
    if isinstance(public_key, ed448.Ed448PublicKey):
        return _edwards_problems(public_key.public_bytes_raw(), _ED448)
    if isinstance(public_key, mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey):
        return ()  # every string of the right length is a key (FIPS 204); the length was checked on decoding
    return ("the key's algorithm is not one that can be certified here",)


# --- RSA


def _rsa_problems(numbers: rsa.RSAPublicNumbers, policy: KeyPolicy) -> list[str]:
    bits = numbers.n.bit_length()
    if bits > policy.rsa_maximum:  # nothing else is computed: the cost of the other checks grows with the size
        return [f"the RSA modulus has {bits} bits, more than {policy.rsa_maximum}"]
    problems = []
    if bits < policy.rsa_minimum:
        problems.append(f"the RSA modulus has {bits} bits, fewer than {policy.rsa_minimum}")
    if bits % 8:
        problems.append(f"the RSA modulus has {bits} bits, which is not a whole number of octets")
    problems += _exponent_problems(numbers.e, policy)
    if math.gcd(numbers.n, _primorial(policy.small_factor_bound)) != 1:
        problems.append("the RSA modulus has a small factor")
    elif has_roca_fingerprint(numbers.n):
        problems.append("the RSA key was made by a library with the ROCA flaw (CVE-2017-15361)")
    elif has_close_primes(numbers.n, policy.fermat_rounds):
        problems.append("the RSA key's primes are too close to each other (Fermat factorisation)")
    return problems


def _exponent_problems(exponent: int, policy: KeyPolicy) -> list[str]:
    problems = []
    if exponent % 2 == 0:
        problems.append("the RSA exponent is even")
    if exponent < policy.exponent_minimum:
        problems.append(f"the RSA exponent is smaller than {policy.exponent_minimum}")
    if exponent.bit_length() > policy.exponent_maximum_bits:
        problems.append(f"the RSA exponent has more than {policy.exponent_maximum_bits} bits")
    return problems


@functools.cache
def _primorial(bound: int) -> int:
    """The product of all primes below ``bound``."""
    sieve = bytearray([1]) * bound
    sieve[:2] = b"\0\0"
    for n in range(2, math.isqrt(bound) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(range(n * n, bound, n)))
    return math.prod(n for n in range(bound) if sieve[n])


@functools.cache
def _roca_marks() -> tuple[tuple[int, int], ...]:
    """For each prime, the powers of 65537 modulo it as a bit mask; full sets tell nothing and are left out."""
    marks = []
    for prime in _ROCA_PRIMES:
        residues = {pow(65537, k, prime) for k in range(prime - 1)}
        if len(residues) < prime - 1:
            marks.append((prime, sum(1 << residue for residue in residues)))
    return tuple(marks)


def has_roca_fingerprint(modulus: int) -> bool:
    """Whether the modulus is a power of 65537 modulo every small prime, as Infineon's RSALib made them."""
    return all(mask >> (modulus % prime) & 1 for prime, mask in _roca_marks())


def has_close_primes(modulus: int, rounds: int) -> bool:
    """Whether Fermat's method factors the modulus within ``rounds`` steps (CVE-2022-26320). A square counts."""
    if modulus % 2 == 0:
        return True
    root = math.isqrt(modulus)
    if root * root == modulus:
        return True
    low, first = modulus & 63, (root + 1) & 63
    for step in range(rounds):
        # Large numbers are squared for the fifth only whose rest may be a square, and roots drawn of few of those.
        if ((first + step) ** 2 - low) & 63 in _SQUARES_MOD_64:
            rest = (root + 1 + step) ** 2 - modulus
            if rest % _SMALL in _SQUARES_MOD_SMALL and math.isqrt(rest) ** 2 == rest:
                return True
    return False


# --- Curves

_P256 = (2**256 - 2**224 + 2**192 + 2**96 - 1, 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B)
_P384 = (
    2**384 - 2**128 - 2**96 + 2**32 - 1,
    0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
)
_P521 = (
    2**521 - 1,
    0x0051953EB9618E1C9A1F929A21A0B68540EEA2DA725B99B315F3B8B489918EF109E156193951EC7E937B1652C0BD3BB1BF073573DF883D2C34F1EF451FD46B503F00,
)
_CURVES = {"secp256r1": _P256, "secp384r1": _P384, "secp521r1": _P521}


def _curve_problems(public_key: ec.EllipticCurvePublicKey) -> list[str]:
    curve = _CURVES.get(public_key.curve.name)
    if curve is None:
        return [f"the curve {public_key.curve.name} is not one of P-256, P-384 and P-521"]
    prime, b = curve
    numbers = public_key.public_numbers()
    x, y = numbers.x, numbers.y
    # OpenSSL checks this on decoding; a key object from elsewhere (a token) has not been through that.
    if not (0 <= x < prime and 0 <= y < prime) or (y * y - (x * x * x - 3 * x + b)) % prime:
        return ["the public point does not lie on its curve"]
    return []


@attrs.frozen
class _Edwards:
    """An Edwards curve of RFC 8032: field prime, octets, d, whether a is -1, y values of points of small order."""

    name: str
    prime: int
    octets: int
    x_squared: Callable[[int], tuple[int, int]]
    small_order: frozenset[int]


_P25519 = 2**255 - 19
_D25519 = -121665 * pow(121666, -1, _P25519) % _P25519
_P448 = 2**448 - 2**224 - 1
_ORDER_8_Y = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7

_ED25519 = _Edwards(
    "Ed25519",
    _P25519,
    32,
    lambda y: (y * y - 1, _D25519 * y * y + 1),
    frozenset({0, 1, _P25519 - 1, _ORDER_8_Y, _P25519 - _ORDER_8_Y}),
)
_ED448 = _Edwards("Ed448", _P448, 57, lambda y: (1 - y * y, 1 + 39081 * y * y), frozenset({0, 1, _P448 - 1}))


def _edwards_problems(raw: bytes, curve: _Edwards) -> list[str]:
    """RFC 8032 sections 5.1.3 and 5.2.3: the octets decode to a point; and the point's order is not small."""
    if len(raw) != curve.octets:
        return [f"the {curve.name} key has {len(raw)} octets, not {curve.octets}"]
    value = int.from_bytes(raw, "little")
    y = value & ((1 << (curve.octets * 8 - 1)) - 1)
    sign = value >> (curve.octets * 8 - 1)
    if y >= curve.prime:
        return [f"the {curve.name} key is not in canonical form"]
    if y in curve.small_order:
        return [f"the {curve.name} key is a point of small order"]
    numerator, denominator = curve.x_squared(y)
    square = numerator * pow(denominator, -1, curve.prime) % curve.prime
    if pow(square, (curve.prime - 1) // 2, curve.prime) != 1 or (square == 0 and sign):
        return [f"the {curve.name} key is not a point on its curve"]
    return []
