"""What is to be certified, once everything about it has been decided: the input of the road's second half."""

from __future__ import annotations

from datetime import datetime

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from pkiserver.authority.authorities import Issuing
from pkiserver.authority.checks.lintlevel import LintLevel
from pkiserver.authority.extensions import Extension
from pkiserver.authority.templates.model import DuplicateRules, SameKey
from pkiserver.foundation.extensionvalue import value_among

ANYTHING = DuplicateRules(same_key=SameKey.ALLOW)
"""No duplicate is refused: for an authority's own certificates."""


@attrs.frozen
class Order:
    """A certificate to be made by ``issuing``, with its contents and who it is for.

    Attributes:
        subject_der: The subject octet for octet, where the encoder's own opinion is not wanted.
        lint: From which severity on a finding of the linter refuses.
        own_key: Whether the key may be one of an authority here (CA certificates only).
        renewal_of: The DER certificate that this one renews: no duplicate of it.
        revoke_renewed: Whether that one is revoked as superseded when this one is stored.
        decided_by: By which rule, or whose approval, for the audit log; empty: nobody had to be asked.
    """

    issuing: Issuing = attrs.field(repr=False)
    subject: x509.Name
    public_key: CertificatePublicKeyTypes
    not_before: datetime
    not_after: datetime
    extensions: tuple[Extension, ...]
    template: str
    requester: str
    protocol: str
    request_id: str
    subject_der: bytes | None = attrs.field(default=None, repr=False)
    lint: LintLevel = LintLevel.ERROR
    duplicates: DuplicateRules = ANYTHING
    own_key: bool = False
    renewal_of: bytes | None = attrs.field(default=None, repr=False)
    revoke_renewed: bool = False
    warnings: tuple[str, ...] = ()
    decided_by: str = ""

    @property
    def sans(self) -> tuple[x509.GeneralName, ...]:
        """The alternative names among the extensions."""
        return tuple(value_among(self.extensions, x509.SubjectAlternativeName) or ())
