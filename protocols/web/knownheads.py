"""Heads that were read before: a client that asks again sends the same octets, and they mean the same.

A kept connection sends one head for each request, and the clients of one make all send nearly the same. The parser's
verdict on a head depends on nothing but its octets and the listener's limits, therefore it is looked up before it is
worked out again. What a head leads to is not kept: the route and its limit are found anew for each request.
"""

from __future__ import annotations

import attrs

from pkiserver.foundation.bounded import keep
from protocols.web.values import Head

ENTRIES = 1024
"""Heads kept for a listener; the one that was read first goes first."""
LONGEST = 1024
"""Longer heads are not kept: together with ENTRIES the bound on the memory that strangers can fill."""
_SECRETS = ("authorization", "proxy-authorization", "cookie")


@attrs.frozen(eq=False)
class KnownHead:
    """A head that was found good, what length its body has by it, and whether the connection stays open."""

    head: Head
    length: int
    keep_alive: bool


class KnownHeads:
    """The heads that a listener has seen, by their octets."""

    def __init__(self) -> None:
        self._known: dict[bytes, KnownHead] = {}
        self.get = self._known.get
        """The verdict on these octets, request line to empty line; None where they were not seen before."""

    def __len__(self) -> int:
        return len(self._known)

    def remember(self, octets: bytes, head: Head, *, length: int, keep_alive: bool) -> None:
        """Keep a verdict; not where the head is long, or holds what is not to lie about in memory."""
        if len(octets) > LONGEST or any(name in head.headers for name in _SECRETS):
            return
        keep(self._known, octets, KnownHead(head, length, keep_alive), most=ENTRIES)
