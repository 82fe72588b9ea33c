"""The request inside a GET target, in every spelling that clients send (RFC 6960 appendix A.1)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from protocols.ocsp.messages import MalformedRequest

MAX_TARGET = 12 * 1024
"""Longest target that is looked at, in octets; longer requests belong into a POST."""
_MAX_STARTS = 8
_FOLD = bytes.maketrans(b" -_", b"++/")
"""A plus that a form decoder made a blank, and the URL-safe alphabet that some clients use."""


def _starts(text: bytes) -> Iterator[bytes]:
    """Where the base64 may begin: at the front, or after a slash where a path prefix ends."""
    found = 0
    if text[:1] == b"M":
        found += 1
        yield text
    at = text.find(b"/")
    while at >= 0 and found < _MAX_STARTS:
        if text[at + 1 : at + 2] == b"M":
            found += 1
            yield text[at + 1 :]
        at = text.find(b"/", at + 1)


def candidates(tail: str) -> Iterator[bytes]:
    """The octets that ``tail``, what follows the responder's URL, may stand for; the likeliest first.

    A slash is a letter of base64 as well as a path separator, so with a path prefix several readings are possible; the
    caller takes the first that is a request. The number of readings is bounded.

    Raises:
        MalformedRequest: Too long.
    """
    if len(tail) > MAX_TARGET:
        raise MalformedRequest("the target is too long")
    text = unquote_to_bytes(tail).translate(_FOLD).rstrip(b"=").lstrip(b"/")
    for start in _starts(text):
        try:
            octets = base64.b64decode(start + b"=" * (-len(start) % 4), validate=True)
        except (binascii.Error, ValueError):
            continue
        if octets[:1] == b"\x30":
            yield octets
