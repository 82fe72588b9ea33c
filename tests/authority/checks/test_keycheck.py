"""Keys that must not be certified, each made with its flaw, and keys that must."""

from __future__ import annotations

import math
import random

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, mldsa, rsa

from pkiserver.authority.checks.keycheck import KeyPolicy, check_key, has_close_primes, has_roca_fingerprint

GENERATOR = random.Random(20261121)
PRIMES = [p for p in range(2, 702) if all(p % n for n in range(2, p))]


def _is_prime(n: int) -> bool:
    if any(n % p == 0 for p in PRIMES):
        return n in PRIMES
    d, r = n - 1, 0
    while d % 2 == 0:
        d, r = d // 2, r + 1
    for _ in range(12):
        x = pow(GENERATOR.randrange(2, n - 1), d, n)
        if x in (1, n - 1):
            continue
        for _ in range(r - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True


def _next_prime(n: int) -> int:
    n |= 1
    while not _is_prime(n):
        n += 2
    return n


def _prime(bits: int) -> int:
    return _next_prime(GENERATOR.getrandbits(bits) | 3 << bits - 2)


def _roca_prime(bits: int) -> int:
    """As RSALib made them: k * M + (65537^a mod M), M a primorial."""
    primorial = math.prod(PRIMES[:71])
    while True:
        k = GENERATOR.getrandbits(bits - primorial.bit_length()) | 3 << (bits - primorial.bit_length() - 2)
        candidate = k * primorial + pow(65537, GENERATOR.getrandbits(100), primorial)
        if candidate.bit_length() == bits and _is_prime(candidate):
            return candidate


def _texts(n: int, e: int = 65537) -> str:
    return "; ".join(reason.text for reason in check_key(rsa.RSAPublicNumbers(e, n).public_key()))


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        rsa.generate_private_key(65537, 3072),
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
        ed448.Ed448PrivateKey.generate(),
        mldsa.MLDSA44PrivateKey.generate(),
        mldsa.MLDSA87PrivateKey.generate(),
    ],
    ids=lambda key: type(key).__name__,
)
def test_a_sound_key_passes(key: rsa.RSAPrivateKey) -> None:
    assert check_key(key.public_key()) == ()


def test_the_roca_fingerprint_is_found() -> None:
    n = _roca_prime(1024) * _roca_prime(1024)
    assert has_roca_fingerprint(n)
    assert "CVE-2017-15361" in _texts(n)


def test_few_sound_keys_carry_the_roca_fingerprint() -> None:
    assert not any(has_roca_fingerprint(GENERATOR.getrandbits(2048) | 1) for _ in range(2000))


def test_primes_that_are_close_are_found() -> None:
    p = _prime(1024)
    n = p * _next_prime(p + 2**500)  # factored in the first round: the difference is far below the fourth root of n
    assert "Fermat" in _texts(n)
    assert "Fermat" in _texts(p * p)
    assert not has_close_primes(_prime(512) * _prime(512), 100)


def test_fermat_rounds_reach_beyond_the_first() -> None:
    p = _prime(512)
    n = p * _next_prime(p + 2**260)
    assert not has_close_primes(n, 1)
    assert has_close_primes(n, 5000)


def test_fermat_passes_over_no_number_whose_rest_is_a_square() -> None:
    """Of small odd numbers all are tried, with the method as the books have it."""
    for n in range(9, 4001, 2):
        root = math.isqrt(n)
        rests = (a * a - n for a in range(root + 1, root + 101))
        found = root * root == n or any(math.isqrt(rest) ** 2 == rest for rest in rests)
        assert has_close_primes(n, 100) is found, n


def test_every_fault_is_told_at_once() -> None:
    n = 751 * (GENERATOR.getrandbits(1001) | 1)
    reasons = check_key(rsa.RSAPublicNumbers(3, n).public_key())
    text = "; ".join(reason.text for reason in reasons)
    assert "bits, fewer than 2048" in text
    assert "exponent is smaller than 65537" in text
    assert "small factor" in text


def test_exponent_bounds() -> None:
    n = _prime(1024) * _prime(1024)
    assert "smaller than 65537" in _texts(n, 17)
    assert "more than 256 bits" in _texts(n, 2**256 + 1)
    assert check_key(rsa.RSAPublicNumbers(3, n).public_key(), KeyPolicy(exponent_minimum=3)) == ()


def test_a_huge_modulus_costs_nothing() -> None:
    assert "more than 8192" in _texts(2**16000 + 1)


def test_curves_and_algorithms_outside_the_list() -> None:
    assert "secp256k1" in check_key(ec.generate_private_key(ec.SECP256K1()).public_key())[0].text
    assert "algorithm" in check_key(dsa.generate_private_key(2048).public_key())[0].text


_SMALL_25519 = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
]


@pytest.mark.parametrize("octets", _SMALL_25519)
def test_ed25519_points_of_small_order(octets: str) -> None:
    key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(octets))
    assert "small order" in check_key(key)[0].text


def test_ed25519_octets_that_are_no_point() -> None:
    wrong = [
        text
        for y in range(2, 40)
        if (text := check_key(ed25519.Ed25519PublicKey.from_public_bytes(y.to_bytes(32, "little"))))
    ]
    assert 10 < len(wrong) < 30  # about half of all y have no x
    over = ed25519.Ed25519PublicKey.from_public_bytes((2**255 - 19 + 3).to_bytes(32, "little"))
    assert "canonical" in check_key(over)[0].text


def test_ed448_points_of_small_order() -> None:
    for y in (0, 1, 2**448 - 2**224 - 2):
        key = ed448.Ed448PublicKey.from_public_bytes(y.to_bytes(57, "little"))
        assert "small order" in check_key(key)[0].text
