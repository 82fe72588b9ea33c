"""MS-CHAPv2 (RFC 2759): the peer's answer to a challenge, and the proof that the other side knows the password too.

MD4 is not in OpenSSL's default provider; the little that is needed of it is here (RFC 1320). DES is TripleDES with one
key three times. Nothing but MS-CHAPv2 uses either.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

_MAGIC1 = b"Magic server to client signing constant"
_MAGIC2 = b"Pad to make it do more than one iteration"
_MASK = 0xFFFFFFFF
_ROUNDS: tuple[tuple[Callable[[int, int, int], int], int, tuple[int, ...], tuple[int, ...]], ...] = (
    (lambda x, y, z: (x & y) | (~x & z), 0, (3, 7, 11, 19), tuple(range(16))),
    (
        lambda x, y, z: (x & y) | (x & z) | (y & z),
        0x5A827999,
        (3, 5, 9, 13),
        (0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
    ),
    (
        lambda x, y, z: x ^ y ^ z,
        0x6ED9EBA1,
        (3, 9, 11, 15),
        (0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15),
    ),
)


def md4(data: bytes) -> bytes:
    """The MD4 digest (RFC 1320)."""
    state = [0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476]
    padded = data + b"\x80" + bytes((55 - len(data)) % 64) + struct.pack("<Q", 8 * len(data))
    for at in range(0, len(padded), 64):
        words = struct.unpack("<16I", padded[at : at + 64])
        a, b, c, d = state
        for mix, constant, shifts, order in _ROUNDS:
            for step, index in enumerate(order):
                value = (a + mix(b, c, d) + words[index] + constant) & _MASK
                shift = shifts[step % 4]
                a, b, c, d = d, ((value << shift) | (value >> (32 - shift))) & _MASK, b, c
        state = [(old + new) & _MASK for old, new in zip(state, (a, b, c, d), strict=True)]
    return struct.pack("<4I", *state)


def des_key(raw: bytes) -> bytes:
    """Seven octets spread over eight, with odd parity (RFC 2759 section 9.3)."""
    bits = int.from_bytes(raw, "big")
    spread = [(bits >> (49 - 7 * at)) & 0x7F for at in range(8)]
    return bytes((seven << 1) | (1 - seven.bit_count() % 2) for seven in spread)


def des(key: bytes, block: bytes) -> bytes:
    """One block of eight octets encrypted with DES; ``key`` has seven octets."""
    cipher = Cipher(TripleDES(des_key(key) * 3), modes.ECB())  # noqa: S305 - RFC 2759 leaves no choice
    encryptor = cipher.encryptor()
    return encryptor.update(block) + encryptor.finalize()


def challenge_hash(peer: bytes, authenticator: bytes, name: str) -> bytes:
    """ChallengeHash of RFC 2759 section 8.2; the name goes without its domain."""
    plain = name.rpartition("\\")[2]
    return hashlib.sha1(peer + authenticator + plain.encode(), usedforsecurity=False).digest()[:8]


def password_hash(password: str) -> bytes:
    """NtPasswordHash of section 8.3."""
    return md4(password.encode("utf-16-le"))


def nt_response(authenticator: bytes, peer: bytes, name: str, password: str) -> bytes:
    """The 24 octets of GenerateNTResponse, section 8.1."""
    block = challenge_hash(peer, authenticator, name)
    padded = password_hash(password) + bytes(5)
    return b"".join(des(padded[at : at + 7], block) for at in (0, 7, 14))


def authenticator_response(authenticator: bytes, peer: bytes, name: str, password: str, response: bytes) -> bytes:
    """What the other side must send to show that it knows the password: ``S=`` and 40 digits, section 8.7."""
    digest = hashlib.sha1(md4(password_hash(password)) + response + _MAGIC1, usedforsecurity=False).digest()
    block = challenge_hash(peer, authenticator, name)
    final = hashlib.sha1(digest + block + _MAGIC2, usedforsecurity=False).hexdigest()
    return b"S=" + final.upper().encode()


def success_is_right(success: bytes, identifier: int, expected: bytes) -> bool:
    """Whether an MS-CHAP2-Success (RFC 2548 section 2.3.3) is the proof that was expected."""
    return success[:1] == bytes((identifier,)) and hmac.compare_digest(success[1:43].upper(), expected)
