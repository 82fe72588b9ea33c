"""Whose a seat is: an account's, or whom the certificate is for, where the evidence shows nobody by name."""

from __future__ import annotations

from pkiserver.authority.requests import RegistrationRecord
from pkiserver.authority.templates.build import CertificateContent
from pkiserver.authority.templates.model import EvidenceKind, Template
from pkiserver.registration.identities import (
    ANONYMOUS,
    CHALLENGE_PREFIX,
    CODE_PREFIX,
    OPERATOR_PREFIX,
    SELF_SIGNED,
    connector_of,
)
from pkiserver.registration.seats import MOST_TEXT
from pkiserver.store.names import bounded, sans_of

_NAMELESS = (CODE_PREFIX, CHALLENGE_PREFIX, SELF_SIGNED, OPERATOR_PREFIX)
"""Requesters that are nobody's names, or of somebody who asks for others, as certificates have them."""


def is_nameless(template: Template, record: RegistrationRecord) -> bool:
    """Whether a seat cannot go by whoever asks."""
    if record.nameless or record.name == ANONYMOUS or record.name.startswith(_NAMELESS):
        return True
    connector = connector_of(record.name)
    return connector is not None and _took_a_challenge(template, connector)


def _took_a_challenge(template: Template, connector: str) -> bool:
    """Whether whom a service has shown, as a certificate tells, came with a challenge: it is asked for nothing else."""
    asked_for = {rule.all[0] for rule in template.evidence if connector in rule.connectors}
    return asked_for == {EvidenceKind.SHARED_SECRET}


def identity_of(record: RegistrationRecord, content: CertificateContent | None) -> str:
    """Whose seat it is: the account; where the evidence shows nobody by name, whom the certificate is for.

    That is its subject, or else its alternative names, and not what the request says: in how many ways can one ask for
    the same. ``content`` is what the certificate of somebody nameless would say; None where there will be none.
    """
    if content is None:
        return record.name
    names = ", ".join(sorted(f"{san.kind}:{san.value}" for san in sans_of(content.sans)))
    return content.subject.rfc4514_string() or (names if len(names) <= MOST_TEXT else bounded(names))
