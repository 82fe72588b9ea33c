"""Several octet strings as one, for hashing: what is where can be told, so that no other strings give the same."""

from __future__ import annotations

from collections.abc import Iterable


def framed(parts: Iterable[bytes]) -> bytes:
    """Each part after its length in four octets, big-endian."""
    return b"".join([len(part).to_bytes(4, "big") + part for part in parts])
