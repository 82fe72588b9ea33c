"""What each piece of evidence turned out to be worth: who it shows, or why it shows nobody."""

from __future__ import annotations

import attrs
from cryptography import x509

from pkiserver.authority.requests import Claim
from pkiserver.authority.templates.model import INTERNAL, EvidenceKind
from pkiserver.foundation.clock import CLOCKS_APART
from pkiserver.foundation.errors import Reason, Unavailable
from pkiserver.registration.connectors.settings import RESERVED
from pkiserver.registration.connectors.values import Challenge
from pkiserver.store.certificates import Certificate
from pkiserver.store.registration.accounts import Account

# the attribute with the plain name of a user, wherever they are kept
USERID = "userid"
ANONYMOUS = "anonymous"
CODE_PREFIX = "enroll-code:"
SELF_SIGNED = "self-signed:"
CHALLENGE_PREFIX = "challenge:"
OPERATOR_PREFIX = "operator:"
_CONNECTED = frozenset({EvidenceKind.PASSWORD, EvidenceKind.CLIENT_CERTIFICATE, EvidenceKind.SHARED_SECRET})


@attrs.frozen
class Identity:
    """Somebody, as one piece of evidence shows them.

    ``authority`` and ``template`` say where a client certificate came from; ``code_id`` which enrolment code it was.
    ``connector`` says who vouches: this server's own accounts and certificates, or a connector, which may not have
    decided yet (``retry_after`` in seconds, 0: it has). ``notes`` are for the person. ``subject`` and ``sans`` are
    binding where given: a code or a renewed certificate decides them, not the client. ``claims`` are spent on the
    certificate.
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
    connector: str = INTERNAL
    retry_after: int = 0
    notes: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()


def connector_of(requester: str) -> str | None:
    """The connector that showed a requester; None where none did."""
    name, colon, _ = requester.partition(":")
    return None if not colon or name in RESERVED else name


def is_account(requester: str) -> bool:
    """Whether a requester is, or was, an account of this server.

    The others have a colon in their names: ``operator:``, ``enroll-code:``, those of connectors.
    """
    return ":" not in requester and requester != ANONYMOUS


def account_problem(certificate: Certificate, account: Account | None) -> str | None:
    """Why a certificate does not show the account that it was issued to; None where it does, or was issued to none.

    An account that was made after the certificate is a namesake's.
    """
    if account is None:
        return "gone" if is_account(certificate.requester) else None
    if account.created > certificate.created + CLOCKS_APART:
        return "gone, and another has its name"
    return "disabled" if account.disabled else None


def record_attributes(account: Account | None) -> tuple[tuple[str, str], ...]:
    """What a template knows of an account: its attributes, and its name as ``userid``, as connectors give it."""
    return () if account is None else with_userid(account.name, account.attributes)


def with_userid(name: str, given: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Somebody's attributes, among them ``userid``: the plain name, unless they give another."""
    return given if any(key == USERID for key, _ in given) else ((USERID, name), *given)


@attrs.frozen
class Against:
    """That a connector's service, which may decide later, has decided against a requester, and in which words."""

    connector: str
    requester: str
    text: str


@attrs.frozen
class Findings:
    """All identities that were shown, and for each piece of evidence that showed none, the reason.

    ``away`` are connectors that could not be asked, ``challenges`` what connectors ask in return, ``against`` what
    their services have decided.
    """

    identities: tuple[Identity, ...]
    failures: tuple[Reason, ...]
    away: tuple[Unavailable, ...] = ()
    challenges: tuple[Challenge, ...] = ()
    against: tuple[Against, ...] = ()

    def of(self, kind: EvidenceKind, connectors: tuple[str, ...] = (INTERNAL,)) -> Identity | None:
        """The identity that evidence of that kind showed; codes and operators apart, by one of these connectors."""
        shown = [one for one in self.identities if one.kind is kind]
        if kind not in _CONNECTED:
            return shown[0] if shown else None
        return next((one for name in connectors for one in shown if one.connector == name), None)
