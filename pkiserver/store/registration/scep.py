"""SCEP transactions (RFC 8894 section 3.2.1.1): which request a client's transaction ID means, and what it brought.

A row is written in the transaction that makes a certificate's intent durable, so that a transaction brings one
certificate however often and wherever its message arrives.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import attrs
from sqlalchemy import Connection, bindparam, delete, func, select, text, update

from pkiserver.store.ready import Ready
from pkiserver.store.schema.registration import enrollment_request, scep_transaction
from pkiserver.store.times import from_micros, to_micros

MAX_TRANSACTION_ID = 255
"""Characters; longer ones do not fit an index row and are refused before they come here."""


@attrs.frozen
class TransactionKey:
    """What a client's transaction ID is unique in: a template and a kind.

    ``kind`` is empty for an enrolment; for a renewal it names the certificate that is renewed, since clients exist that
    derive the ID from their key and so use it again.
    """

    template: str
    transaction_id: str
    kind: str = ""


@attrs.frozen
class NewTransaction:
    """A request as it began.

    ``spki_sha256`` is of the key to be certified, ``signer_sha256`` of the key that signed the message, ``asks`` a
    digest of everything asked for; ``payload`` is what a poll needs to ask again, without any secret.
    """

    key: TransactionKey
    spki_sha256: bytes
    signer_sha256: bytes
    asks: bytes
    payload: bytes = attrs.field(repr=False)
    created: datetime


@attrs.frozen
class Transaction:
    """A kept transaction: ``request_number`` while an officer is asked, ``certificate_id`` once one is being made."""

    key: TransactionKey
    spki_sha256: bytes
    signer_sha256: bytes
    asks: bytes
    payload: bytes = attrs.field(repr=False)
    request_number: int | None
    certificate_id: int | None
    created: datetime


@attrs.frozen
class Predecessor:
    """What an ID stood for that counts no longer, and may be replaced: its certificate, or its request to officers."""

    certificate_id: int | None = None
    request_number: int | None = None


NOTHING = Predecessor()
_NONE = -1
"""A number that no row has."""
_c = scep_transaction.c
_BY_KEY = Ready(
    select(scep_transaction).where(
        _c.template == bindparam("template"),
        _c.transaction_id == bindparam("transaction_id"),
        _c.kind == bindparam("kind"),
    )
)
_NEWEST_RENEWAL = Ready(
    select(scep_transaction)
    .where(
        _c.template == bindparam("template"),
        _c.transaction_id == bindparam("transaction_id"),
        text("scep_transaction.kind <> ''"),  # written out, so that the engine sees that the partial index serves
    )
    .order_by(_c.created.desc(), _c.kind.desc())
    .limit(1)
)
_PUT = Ready(
    text(
        "INSERT INTO scep_transaction (template, transaction_id, kind, spki_sha256, signer_sha256, asks,"
        " request_number, certificate_id, payload, created, ends)"
        " VALUES (:template, :transaction_id, :kind, :spki, :signer, :asks,"
        " :number, :certificate, :payload, :created, COALESCE("
        "(SELECT not_after FROM certificate_intent WHERE id = :certificate),"
        " (SELECT not_after FROM certificate WHERE id = :certificate),"
        " (SELECT expires FROM enrollment_request WHERE id = :number), :created))"
        " ON CONFLICT (template, transaction_id, kind) DO UPDATE SET spki_sha256 = excluded.spki_sha256,"
        " signer_sha256 = excluded.signer_sha256, asks = excluded.asks, request_number = excluded.request_number,"
        " certificate_id = excluded.certificate_id, payload = excluded.payload, created = excluded.created,"
        " ends = excluded.ends"
        " WHERE (scep_transaction.certificate_id IS NULL AND (scep_transaction.spki_sha256 = excluded.spki_sha256"
        " OR scep_transaction.request_number = :undecided))"
        " OR scep_transaction.certificate_id = :over"
    )
)


def get(connection: Connection, key: TransactionKey) -> Transaction | None:
    """The transaction of that key."""
    row = _BY_KEY.one(connection, attrs.asdict(key))
    return None if row is None else _transaction(row)


def newest(connection: Connection, template: str, transaction_id: str) -> Transaction | None:
    """The newest transaction of that ID, of whatever kind: what a poll means."""
    key = TransactionKey(template, transaction_id)
    first = _BY_KEY.one(connection, attrs.asdict(key))
    renewal = _NEWEST_RENEWAL.one(connection, {"template": template, "transaction_id": transaction_id})
    found = [row for row in (first, renewal) if row is not None]
    return _transaction(max(found, key=lambda row: (row.created, row.kind))) if found else None


def put_pending(
    connection: Connection, new: NewTransaction, request_number: int, *, over: Predecessor = NOTHING
) -> bool:
    """Note that an officer is asked; False where the transaction has become another's or is being answered."""
    return _PUT.count(connection, _values(new, over) | {"number": request_number, "certificate": None}) == 1


def take(
    connection: Connection,
    new: NewTransaction,
    certificate_id: int,
    *,
    request_number: int | None = None,
    over: Predecessor = NOTHING,
) -> bool:
    """Bind the transaction to a certificate that is being made. True for exactly one caller.

    Args:
        connection: inside the write that makes the certificate's intent durable.
        new: the request.
        certificate_id: the certificate's number.
        request_number: the approval that it came from, if any.
        over: what the transaction's ID stood for before.
    """
    values = _values(new, over) | {"number": request_number, "certificate": certificate_id}
    return _PUT.count(connection, values) == 1


def give_back(connection: Connection, certificate_id: int) -> None:
    """The certificate did not come to be: the transaction waits again, or never was."""
    mine = _c.certificate_id == certificate_id
    connection.execute(delete(scep_transaction).where(mine, _c.request_number.is_(None)))
    ends = select(enrollment_request.c.expires).where(enrollment_request.c.id == _c.request_number)
    again = {"certificate_id": None, "ends": func.coalesce(ends.scalar_subquery(), _c.created)}
    connection.execute(update(scep_transaction).where(mine).values(**again))


def forget(connection: Connection, *, ended_before: datetime, limit: int) -> int:
    """Remove transactions that ended before a time; how many, at most ``limit``.

    They end with their certificate; those that brought none with the time in which officers could decide.
    """
    keys = (_c.template, _c.transaction_id, _c.kind)
    old = select(*keys).where(_c.ends < to_micros(ended_before)).order_by(_c.ends)
    rows = connection.execute(old.limit(limit)).all()
    for row in rows:
        key = (_c.template == row.template, _c.transaction_id == row.transaction_id, _c.kind == row.kind)
        connection.execute(delete(scep_transaction).where(*key))
    return len(rows)


def _values(new: NewTransaction, over: Predecessor) -> dict[str, Any]:
    return {
        "template": new.key.template,
        "transaction_id": new.key.transaction_id,
        "kind": new.key.kind,
        "spki": new.spki_sha256,
        "signer": new.signer_sha256,
        "asks": new.asks,
        "payload": new.payload,
        "created": to_micros(new.created),
        "over": _NONE if over.certificate_id is None else over.certificate_id,
        "undecided": _NONE if over.request_number is None else over.request_number,
    }


def _transaction(row: Any) -> Transaction:
    return Transaction(
        key=TransactionKey(row.template, row.transaction_id, row.kind),
        spki_sha256=row.spki_sha256,
        signer_sha256=row.signer_sha256,
        asks=row.asks,
        payload=row.payload,
        request_number=row.request_number,
        certificate_id=row.certificate_id,
        created=from_micros(row.created),
    )
