"""A token's private key as an object of the session, where the token works faster with that."""

from __future__ import annotations

import time
from typing import Any

from pkcs11 import Attribute
from pkcs11 import exceptions as p11

LOOK_SECONDS = 1.0
"""How often the token's own object is used all the same, so that a key deleted in the token is missed soon."""


class HeldKey:
    """A private-key object as one lane has it. In the module only.

    SoftHSM opens, locks and reads the file of a token object twice in each signature, to see whether another process
    changed it: a quarter of the time of an ECDSA signature. An object of the session (C_CopyObject with CKA_TOKEN
    false; PKCS#11 v2.40, 4.2 and 5.7) has no file. The copy is as sensitive as the key, lives in the module, and ends
    with the session.
    """

    __slots__ = ("_copy", "_look", "own")

    def __init__(self, own: Any, *, copied: bool) -> None:
        self.own = own
        """The token's own object."""
        self._copy = _copy(own) if copied else None
        self._look = 0.0

    @property
    def object(self) -> Any:
        """The object to work with now."""
        if self._copy is None:
            return self.own
        now = time.monotonic()
        if now >= self._look:
            self._look = now + LOOK_SECONDS
            return self.own
        return self._copy

    def drop(self) -> None:
        """End the copy, if the session still has it."""
        copy, self._copy = self._copy, None
        if copy is not None:
            try:
                copy.destroy()
            except p11.PKCS11Error:
                return  # it went with its session


def _copy(own: Any) -> Any:
    try:
        copy = own.copy({Attribute.TOKEN: False})
    except p11.PKCS11Error:
        return None  # CKA_COPYABLE is false, or there is no room: its own object serves
    if copy[Attribute.SENSITIVE] and not copy[Attribute.EXTRACTABLE]:
        return copy
    copy.destroy()
    return None
