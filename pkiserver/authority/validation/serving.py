"""An authority that is not ours as it is served this moment: its records, and whoever may sign for it now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import attrs
from cryptography import x509

from pkiserver.authority.model import CaCertificate
from pkiserver.authority.status.signing import answer_signers
from pkiserver.authority.status.source import AnswerSigner, ServedIssuer
from pkiserver.authority.validation.settings import ForeignCa
from pkiserver.authority.validation.standing import ForeignRecords
from pkiserver.keys.keyring import KeyRing
from pkiserver.store.authority.foreign import InstalledResponder
from pkiserver.store.certificates.values import CertificateStatus

_NOTICE = timedelta(days=7)
"""How long before nobody can sign any more that is told; the last tenth of a certificate's life if that is shorter."""
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


@attrs.frozen(eq=False)
class ForeignResponder:
    """A responder whose key is here: from when to when (UTC) its certificate is valid, its serial number, how it signs.

    ``signers`` has the usual algorithm first.
    """

    start: datetime
    end: datetime
    serial: int
    signers: tuple[AnswerSigner, ...]


def usable(keys: KeyRing, ca: CaCertificate, installed: Sequence[InstalledResponder]) -> Iterator[ForeignResponder]:
    """Those of the installed responders that ``ca`` itself certified and whose key can be had, in the same order.

    The authority's certificate may have become another one since they were installed: that of its next key.
    """
    for one in installed:
        if not ca.has_issued(one.certificate):
            continue
        signers = answer_signers(keys, one.key_name, one.certificate, delegated=True)
        if signers:
            parsed = x509.load_der_x509_certificate(one.certificate)
            start, end = parsed.not_valid_before_utc, parsed.not_valid_after_utc
            yield ForeignResponder(start, end, parsed.serial_number, signers)


class Serving:
    """One authority. Who signs follows the clock: a certificate begins and ends without anybody's telling.

    ``responders`` come with the one that was installed last first. One whose certificate its authority has revoked
    signs no more: nobody should believe it, and ocsp-nocheck keeps clients from finding out.
    """

    def __init__(
        self, ca: ForeignCa, number: int, records: ForeignRecords, responders: Sequence[ForeignResponder]
    ) -> None:
        self.ca = ca
        self.records = records
        self._number = number
        self._responders = [one for one in responders if not _is_revoked(records.status(one.serial, number))]
        self._since = self._until = _FIRST
        self._issuer = self._with(())

    def issuer(self, now: datetime) -> ServedIssuer:
        """As it is served at a time; the same object for as long as nothing changes."""
        if not self._since <= now < self._until:
            edges = [edge for one in self._responders for edge in (one.start, one.end)]
            self._since = max((edge for edge in edges if edge <= now), default=_FIRST)
            self._until = min((edge for edge in edges if edge > now), default=_LAST)
            valid = [one for one in self._responders if one.start <= now < one.end]
            self._issuer = self._with(tuple(signer for one in valid for signer in one.signers))
        return self._issuer

    def ends_soon(self, now: datetime) -> datetime | None:
        """When nobody will be able to sign any more, if that is near: somebody has to see to a successor by hand."""
        last = max(
            (one for one in self._responders if one.start <= now < one.end), key=lambda one: one.end, default=None
        )
        if last is None:
            return None
        until = last.end
        for one in sorted(self._responders, key=lambda one: one.start):
            if one.start <= until < one.end:
                last, until = one, one.end
        return until if until - now < min(_NOTICE, (last.end - last.start) / 10) else None

    def _with(self, signers: tuple[AnswerSigner, ...]) -> ServedIssuer:
        return ServedIssuer(
            authority=self.ca.name,
            issuer_id=self._number,
            generations=frozenset((self._number,)),
            policy=self.ca.ocsp.policy(),
            signer=signers[0] if signers else None,
            others=signers[1:],
            crl=self.records.reference,
            standing=self.records.standing,
        )


def _is_revoked(status: CertificateStatus | None) -> bool:
    return status is not None and status.revocation is not None
