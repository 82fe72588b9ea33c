"""MD4 (RFC 1320 appendix A.5), DES and MS-CHAPv2 (RFC 2759 section 9) by their vectors."""

from __future__ import annotations

import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES  # noqa: F401 - fails here where it is missing

from pkiserver.registration.connectors import mschap

CHALLENGE = bytes.fromhex("5B5D7C7D7B3F2F3E3C2C602132262628")
PEER = bytes.fromhex("21402324255E262A28295F2B3A337C7E")


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        ("", "31d6cfe0d16ae931b73c59d7e0c089c0"),
        ("a", "bde52cb31de33e46245e05fbdbd6fb24"),
        ("abc", "a448017aaf21d8525fc10ae87aa6729d"),
        ("message digest", "d9130a8164549fe818874806e1c7014b"),
        ("abcdefghijklmnopqrstuvwxyz", "d79e1c308aa5bbcdeea8ed63df412da9"),
        ("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", "043f8582f241db351ce627e153e7f0e4"),
        ("1234567890" * 8, "e33b4ddc9c38f2199c3e7b164fcc0536"),
    ],
)
def test_md4_gives_the_digests_of_rfc_1320(text: str, digest: str) -> None:
    assert mschap.md4(text.encode()).hex() == digest


def test_des_keys_get_odd_parity() -> None:
    assert mschap.des_key(bytes.fromhex("FC156AF7EDCD6C")).hex() == "fd0b5b5e7f6e34d9"
    assert mschap.des_key(bytes.fromhex("0EDDE3337D427F")).hex() == "0e6e796737ea08fe"


def test_the_hash_example_of_rfc_2759() -> None:
    assert mschap.challenge_hash(PEER, CHALLENGE, "User").hex() == "d02e4386bce91226"
    assert mschap.challenge_hash(PEER, CHALLENGE, "DOMAIN\\User").hex() == "d02e4386bce91226"
    assert mschap.password_hash("clientPass").hex() == "44ebba8d5312b8d611474411f56989ae"
    response = mschap.nt_response(CHALLENGE, PEER, "User", "clientPass")
    assert response.hex() == "82309ecd8d708b5ea08faa3981cd83544233114a3d85d6df"
    expected = mschap.authenticator_response(CHALLENGE, PEER, "User", "clientPass", response)
    assert expected == b"S=407A5589115FD0D6209F510FE9C04566932CDA56"
    assert mschap.success_is_right(b"\x07" + expected, 7, expected)
    assert not mschap.success_is_right(b"\x08" + expected, 7, expected)
    assert not mschap.success_is_right(b"\x07" + expected[:-1] + b"7", 7, expected)
    assert not mschap.success_is_right(b"", 7, expected)
