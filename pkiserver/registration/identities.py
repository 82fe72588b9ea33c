"""What each piece of evidence turned out to be worth: who it shows, or why it shows nobody."""

from __future__ import annotations

import attrs
from cryptography import x509

from pkiserver.authority.templates.model import EvidenceKind
from pkiserver.foundation.errors import Reason


@attrs.frozen
class Identity:
    """Somebody, as one piece of evidence shows them.

    ``authority`` and ``template`` say where a client certificate came from; ``code_id`` which enrolment code it was.
    ``subject`` and ``sans`` are binding where given: a code or a renewed certificate decides them, not the client.
    """

    kind: EvidenceKind
    name: str
    groups: frozenset[str] = frozenset()
    attributes: tuple[tuple[str, str], ...] = ()
    authority: str | None = None
    template: str | None = None
    code_id: int | None = None
    subject: x509.Name | None = None
    sans: tuple[x509.GeneralName, ...] | None = None


@attrs.frozen
class Findings:
    """All identities that were shown, and for each piece of evidence that showed none, the reason."""

    identities: tuple[Identity, ...]
    failures: tuple[Reason, ...]

    def of(self, kind: EvidenceKind) -> Identity | None:
        """The identity that evidence of that kind showed."""
        return next((one for one in self.identities if one.kind is kind), None)
