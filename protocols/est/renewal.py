"""What a re-enrolment may ask for (RFC 7030 section 4.2.2): the names of the current certificate, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
from cryptography import x509

from pkiserver.authority.requests import Wishes
from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.registration.renewal import names_of


def renewal_wishes(wishes: Wishes, current: x509.Certificate, *, changes_subject: bool) -> Wishes:
    """The wishes of a re-enrolment, once its names have been found to be those of ``current``.

    A request without a subjectAltName asks for no change, and gets the names of the certificate.

    Raises:
        Rejected: subject or subjectAltName differ, or a ChangeSubjectName attribute (RFC 6402) is there.
    """
    reasons = []
    if changes_subject:
        reasons.append(Reason(Refusal.BAD_SUBJECT, "a re-enrolment cannot change the subject: enrol anew"))
    if list(wishes.subject or ()) != list(current.subject) or _rdns(wishes.subject) != _rdns(current.subject):
        reasons.append(
            Reason(Refusal.BAD_SUBJECT, "the subject of the request is not that of the certificate to be renewed")
        )
    try:
        names = names_of(current)
    except ValueError as error:
        raise Rejected.because(Refusal.MALFORMED, "the certificate to be renewed cannot be read") from error
    if wishes.sans and _comparable(wishes.sans) != _comparable(names):
        reasons.append(
            Reason(Refusal.BAD_NAME, "the alternative names of the request are not those of the certificate")
        )
    if reasons:
        raise Rejected(reasons)
    return attrs.evolve(wishes, subject=current.subject, sans=names)


def _comparable(names: Iterable[x509.GeneralName]) -> frozenset[x509.GeneralName]:
    """Names as they are compared: host names without regard to case (RFC 5280 section 7.2), issued in lower."""
    return frozenset(x509.DNSName(one.value.lower()) if isinstance(one, x509.DNSName) else one for one in names)


def _rdns(name: x509.Name | None) -> list[frozenset[x509.NameAttribute[str | bytes]]]:
    return [] if name is None else [frozenset(rdn) for rdn in name.rdns]
