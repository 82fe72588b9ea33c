"""Verify passwords against hashes that other programs made: argon2, bcrypt, PBKDF2, crypt(3).

crypt(3), which also knows bcrypt and yescrypt, is the C library's own (libcrypt of Debian, ``crypt_rn``); the call
lets other threads run. Everything here takes its time on purpose: call it in a thread.
"""

from __future__ import annotations

import base64
import binascii
import ctypes
import ctypes.util
import hashlib
import hmac
import re
from functools import cache

import argon2

from pkiserver.registration.connectors.sqlsettings import HashFormat

MAX_ITERATIONS = 10_000_000
_CRYPT_DATA = 32768
_CRYPT = {
    HashFormat.BCRYPT: re.compile(r"\$2[abxy]\$(0[4-9]|1[0-7])\$[./A-Za-z0-9]{53}"),
    HashFormat.CRYPT: re.compile(r"\$(5|6|y|gy|7)\$[^:*!\s]{8,300}"),
    HashFormat.CRYPT_MD5: re.compile(r"\$1\$[^$]{0,8}\$[./A-Za-z0-9]{22}"),
    HashFormat.CRYPT_DES: re.compile(r"[./A-Za-z0-9]{13}"),
}
_ROUNDS = re.compile(r"\$[56]\$rounds=(\d+)\$")
# Django's form, passlib's, and the PHC string form
_DJANGO = re.compile(r"pbkdf2_(sha1|sha256|sha512)\$(\d{1,9})\$([^$]{1,200})\$([A-Za-z0-9+/=]{20,120})")
_PASSLIB = re.compile(r"\$pbkdf2(?:-(sha256|sha512))?\$(\d{1,9})\$([A-Za-z0-9./]{1,200})\$([A-Za-z0-9./]{20,120})")
_PHC = re.compile(r"\$pbkdf2-(sha256|sha512)\$i=(\d{1,9})(?:,l=\d+)?\$([A-Za-z0-9+/]{1,200})\$([A-Za-z0-9+/]{20,120})")
_ARGON2 = re.compile(r"\$argon2(?:id|i|d)\$v=\d+\$m=(\d{1,8}),t=(\d{1,4}),p=(\d{1,3})\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+")
MAX_MEMORY_KIB = 1024 * 1024
# Hashes of nothing that anybody knows, at the cost that programs take by default.
_DECOYS = {
    HashFormat.BCRYPT: "$2b$10$abcdefghijklmnopqrstuuPkYrKJ5MXTDsTb7dnR1k0x4RaGdjBoe",
    HashFormat.ARGON2: "$argon2id$v=19$m=65536,t=3,p=4$YWJjZGVmZ2hpamtsbW5vcA"
    "$o2ZSDLpMX9sZlkqmC3hVbzuSGFUDFWeINJgFvjLFO30",
    HashFormat.PBKDF2: "pbkdf2_sha256$600000$abcdefghijklmnop$o2ZSDLpMX9sZlkqmC3hVbzuSGFUDFWeINJgFvjLFO30=",
    HashFormat.CRYPT: f"$6$abcdefghijklmnop${'.' * 86}",
    HashFormat.CRYPT_MD5: "$1$abcdefgh$abcdefghijklmnopqrstu1",
    HashFormat.CRYPT_DES: "abcdefghijklM",
}


def decoy(formats: tuple[HashFormat, ...]) -> str:
    """What is verified where there is no such user, so that it takes as long: bcrypt, or what is allowed first."""
    return _DECOYS[HashFormat.BCRYPT if HashFormat.BCRYPT in formats else formats[0]]


def format_of(stored: str) -> HashFormat | None:
    """How a hash was made; None where it is none that is known, or costs too much to check."""
    if found := _ARGON2.fullmatch(stored):
        return HashFormat.ARGON2 if int(found[1]) <= MAX_MEMORY_KIB and int(found[2]) <= 100 else None
    if found := _DJANGO.fullmatch(stored) or _PASSLIB.fullmatch(stored) or _PHC.fullmatch(stored):
        return HashFormat.PBKDF2 if 0 < int(found[2]) <= MAX_ITERATIONS else None
    if (rounds := _ROUNDS.match(stored)) and int(rounds[1]) > MAX_ITERATIONS:
        return None
    return next((kind for kind, pattern in _CRYPT.items() if pattern.fullmatch(stored)), None)


def verify(stored: str, password: bytes, formats: tuple[HashFormat, ...]) -> bool:
    """Whether ``password`` is the one behind ``stored``, if its format is among ``formats``."""
    kind = format_of(stored)
    if kind is None or kind not in formats or b"\x00" in password:
        return False
    if kind is HashFormat.ARGON2:
        try:
            return argon2.PasswordHasher().verify(stored, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False
    if kind is HashFormat.PBKDF2:
        return _pbkdf2(stored, password)
    return _crypt(stored, password)


def _pbkdf2(stored: str, password: bytes) -> bool:
    digest, rounds, salt, wanted = _pbkdf2_parts(stored)
    if not rounds or not wanted:
        return False
    made = hashlib.pbkdf2_hmac(digest, password, salt, rounds, len(wanted))
    return hmac.compare_digest(made, wanted)


def _pbkdf2_parts(stored: str) -> tuple[str, int, bytes, bytes]:
    try:
        if found := _DJANGO.fullmatch(stored):
            return found[1], int(found[2]), found[3].encode(), base64.b64decode(found[4], validate=True)
        if found := _PASSLIB.fullmatch(stored):
            return found[1] or "sha1", int(found[2]), _unpadded(found[3], "."), _unpadded(found[4], ".")
        if found := _PHC.fullmatch(stored):
            return found[1], int(found[2]), _unpadded(found[3], "+"), _unpadded(found[4], "+")
    except (binascii.Error, ValueError):
        pass
    return "sha256", 0, b"", b""


def _unpadded(text: str, plus: str) -> bytes:
    return base64.b64decode(text.replace(plus, "+") + "=" * (-len(text) % 4), validate=True)


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(ctypes.util.find_library("crypt") or "libcrypt.so.1")
    library.crypt_rn.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int]
    library.crypt_rn.restype = ctypes.c_char_p
    return library


def crypt(password: bytes, setting: str) -> str | None:
    """Hash a password by the method, cost and salt of ``setting`` (crypt(3)); None where that cannot be done."""
    data = ctypes.create_string_buffer(_CRYPT_DATA)
    made = _library().crypt_rn(password, setting.encode(), data, _CRYPT_DATA)
    return None if made is None else bytes(made).decode("ascii", "replace")


def _crypt(stored: str, password: bytes) -> bool:
    made = crypt(password, stored)
    return made is not None and hmac.compare_digest(made.encode(), stored.encode())
