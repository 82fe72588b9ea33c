"""Transactions of clients that may send a message again: the same request brings the same certificate, once.

The row is written in the transaction that makes a certificate's intent durable, as a claim beside enrolment codes and
approvals; so two workers, or two nodes, cannot both answer.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta

import attrs
from cryptography import x509
from sqlalchemy import Connection

from pkiserver.authority.csr import unsigned_request
from pkiserver.authority.requests import EnrollmentRequest
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.framing import framed
from pkiserver.store import certificates
from pkiserver.store.certificates import Certificate, CertificateState
from pkiserver.store.database import Database
from pkiserver.store.registration import requests
from pkiserver.store.registration import scep as rows
from pkiserver.store.registration.requests import RequestState
from pkiserver.store.registration.scep import NOTHING, NewTransaction, Predecessor, Transaction, TransactionKey

KEPT = timedelta(days=30)
"""How long a transaction is kept after the end of the certificate that it brought, or of the time to decide on it."""
FORGOTTEN_AT_ONCE = 1000
"""Transactions that are removed in one write."""


@attrs.frozen
class Standing:
    """What the store knows of a transaction ID at one moment; ``certificate`` only when it has been settled."""

    transaction: Transaction | None = None
    certificate: Certificate | None = None
    request_state: RequestState | None = None
    requester: str | None = None

    @property
    def lost(self) -> bool:
        """Whether the certificate that was being made never came to be."""
        found = self.certificate
        return found is not None and found.der is None and found.state is not CertificateState.ISSUED


@attrs.frozen
class TransactionClaim:
    """The right to answer a transaction with a certificate, to be had once."""

    new: NewTransaction
    request_number: int | None = None
    over: Predecessor = NOTHING

    def take(self, connection: Connection, certificate_id: int) -> None:
        """Bind the transaction to the certificate; raises :class:`Rejected` (CONFLICT) where somebody was faster."""
        # who polls sends no request again: what officers agreed to is kept, for the case that it is given back
        new = self.new if self.request_number is not None else attrs.evolve(self.new, payload=b"")
        if not rows.take(connection, new, certificate_id, request_number=self.request_number, over=self.over):
            raise Rejected.because(Refusal.CONFLICT, "this transaction is being answered already; ask again")

    def give_back(self, connection: Connection, certificate_id: int) -> None:
        """The certificate did not come to be."""
        rows.give_back(connection, certificate_id)


@attrs.frozen
class Transactions:
    """Looks transactions up and keeps those that wait."""

    database: Database
    clock: Clock

    async def find(self, key: TransactionKey) -> Standing:
        """What is known of a transaction."""
        now = self.clock.now()
        return await self.database.look_up(lambda connection: _standing(connection, rows.get(connection, key), now))

    async def newest(self, template: str, transaction_id: str) -> Standing:
        """The newest transaction of an ID, of whatever kind."""
        now = self.clock.now()
        return await self.database.look_up(
            lambda connection: _standing(connection, rows.newest(connection, template, transaction_id), now)
        )

    async def keep(self, new: NewTransaction, request_number: int, *, over: Predecessor = NOTHING) -> None:
        """Note that the transaction waits for an officer; raises :class:`Rejected` (CONFLICT) where it is another's."""
        if not await self.database.write(
            lambda connection: rows.put_pending(connection, new, request_number, over=over)
        ):
            raise Rejected.because(Refusal.CONFLICT, "this transaction is being answered already; ask again")

    async def forget_old(self) -> int:
        """Remove what nobody will ask for again; how many."""
        before, limit = self.clock.now() - KEPT, FORGOTTEN_AT_ONCE
        total = 0
        while True:
            count = await self.database.write(lambda c: rows.forget(c, ended_before=before, limit=limit))
            total += count
            if count < limit:
                return total


def _standing(connection: Connection, found: Transaction | None, now: datetime) -> Standing:
    if found is None:
        return Standing()
    if found.certificate_id is not None:
        return Standing(found, certificates.get(connection, found.certificate_id))
    if found.request_number is None:
        return Standing(found)
    asked = requests.get(connection, found.request_number)
    if asked is None:
        return Standing(found)
    # whatever became of it, it holds for its time only; the row itself is set right when officers look through them
    state = RequestState.EXPIRED if asked.expires <= now else asked.state
    return Standing(found, None, state, str(json.loads(asked.payload)["requester"]))


def begin(request: EnrollmentRequest, *, kind: str, signer_spki: bytes, at: datetime) -> NewTransaction:
    """The transaction that a request begins; ``signer_spki`` is the DER key that signed its message."""
    assert request.transaction_id is not None
    return NewTransaction(
        key=TransactionKey(request.template, request.transaction_id, kind),
        spki_sha256=hashlib.sha256(request.spki).digest(),
        signer_sha256=hashlib.sha256(signer_spki).digest(),
        asks=asked_for(request),
        payload=unsigned_request(request.spki, request.wishes),
        created=at,
    )


def asked_for(request: EnrollmentRequest) -> bytes:
    """SHA-256 over what a request asks for, whatever its signature, nonce and password."""
    wishes = request.wishes
    parts = (
        request.spki,
        b"" if wishes.subject is None else wishes.subject.public_bytes(),
        x509.SubjectAlternativeName(wishes.sans).public_bytes(),
        *(octets for one in wishes.extensions for octets in (one.oid.encode(), bytes((one.critical,)), one.value)),
    )
    return hashlib.sha256(framed(parts)).digest()
