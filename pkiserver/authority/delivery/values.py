"""What is delivered, and how it fails."""

from __future__ import annotations

from typing import Protocol

import attrs

from pkiserver.store.authority.crls import Covers, CrlKind


class DeliveryError(Exception):
    """A target did not take a list; the text says why in one line, without anything secret."""


@attrs.frozen
class Parcel:
    """A list to be delivered; ``path`` is that of its distribution point."""

    path: str
    kind: CrlKind
    covers: Covers
    number: int
    der: bytes = attrs.field(repr=False)

    @property
    def file(self) -> str:
        """Its relative file name, as in the server's own URLs."""
        return f"{self.path}/delta.crl" if self.kind is CrlKind.DELTA else f"{self.path}.crl"


class Carrier(Protocol):
    """Brings lists to one target."""

    async def deliver(self, parcel: Parcel) -> None:
        """Put a list in its place, at once as far as the target can; raises :class:`DeliveryError`."""
