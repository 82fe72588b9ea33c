"""Requests that were decoded before: clients ask about the same certificates again, each time with another nonce."""

from __future__ import annotations

from pkiserver.foundation.bounded import keep
from protocols.ocsp.messages import NONCE_OCTETS, OcspRequest

ENTRIES = 20_000
"""Requests remembered; the one that was read first goes first."""
OCTETS = 512
"""Longer requests are decoded each time: together with ENTRIES the bound on memory."""
_LENGTHS = 4
"""Different lengths of nonces that are tried; each client has one."""


class KnownRequests:
    """What requests mean, by their octets.

    A nonce that is the last thing in a request is no part of what is remembered. What stands before it holds the
    length octets of everything around it and its own: the same octets before a nonce of the same length are the same
    request with another nonce.
    """

    def __init__(self) -> None:
        self._whole: dict[bytes | str, OcspRequest] = {}
        self._before_nonce: dict[bytes, OcspRequest] = {}
        self._lengths: tuple[int, ...] = ()

    def get(self, sent: bytes | str) -> OcspRequest | None:
        """The request that was sent as these octets, or as this target of a GET; None where it must be decoded."""
        found = self._whole.get(sent)
        if found is not None or isinstance(sent, str):
            return found
        for length in self._lengths:
            shape = self._before_nonce.get(sent[:-length])
            if shape is not None and shape.nonce is not None and len(shape.nonce) == length:
                return OcspRequest(shape.certificates, sent[-length:], shape.preferences)
        return None

    def remember(self, sent: bytes | str, decoded: OcspRequest) -> None:
        """Keep what a request means."""
        if len(sent) > OCTETS:
            return
        nonce = decoded.nonce
        if nonce is None:
            keep(self._whole, sent, decoded, most=ENTRIES)
        elif isinstance(sent, bytes) and _ends_with(sent, nonce):
            if len(nonce) not in self._lengths:
                self._lengths = (*self._lengths, len(nonce))[-_LENGTHS:]
            keep(self._before_nonce, sent[: -len(nonce)], decoded, most=ENTRIES)


def _ends_with(sent: bytes, nonce: bytes) -> bool:
    """Whether a request's last element is the OCTET STRING of its nonce."""
    # From 128 on a length has two octets, which nobody sends.
    return len(nonce) < NONCE_OCTETS.stop - 1 and sent.endswith(b"\x04%c%b" % (len(nonce), nonce))
