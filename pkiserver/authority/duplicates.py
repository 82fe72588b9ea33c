"""What the store says against a certificate to be: others with the same subject or key, and keys that are blocked.

Asked in the write that makes its intent durable, and after that is inserted: of two rivals of the same moment the later
one sees the earlier. Two processes take turns for that, as each sees of the other only what is committed; where the
rule is about a key and its subjects, they look once more as the certificate is stored (:func:`is_rivalled_by_key`).
"""

from __future__ import annotations

import hashlib

from sqlalchemy import Connection

from pkiserver.authority.order import Order
from pkiserver.authority.templates.model import SameKey, SameSubject
from pkiserver.foundation.errors import Reason, Refusal, Unavailable
from pkiserver.store import certificates
from pkiserver.store.authority import templates
from pkiserver.store.certificates import NewIntent, blocked_keys


def same_subject(
    connection: Connection, order: Order, intent: NewIntent, number: int, renewed: int | None
) -> tuple[list[Reason], tuple[int, ...]]:
    """Reasons by what the template says of others with the same subject; and those that are revoked in their stead."""
    rule = order.duplicates.same_subject
    if rule is SameSubject.ALLOW:
        return [], ()
    under_way = _is_rivalled(connection, intent, number)  # before those that are made: what is stored moves there
    found = certificates.valid_of_subject(connection, intent.subject, now=intent.created, template=order.template)
    others = tuple(one for one in found if one != renewed)
    if rule is SameSubject.SUPERSEDE:
        return [], others
    if others or under_way:
        return [Reason(Refusal.DUPLICATE, "a valid certificate with this subject exists already")], ()
    return [], ()


def _is_rivalled(connection: Connection, intent: NewIntent, number: int) -> bool:
    """Whether another certificate of the same template and subject is being made."""
    return certificates.is_subject_under_way(connection, intent.subject, template=intent.template, besides=number)


def take_turn(connection: Connection, order: Order, intent: NewIntent, number: int) -> None:
    """Where duplicates are refused or superseded, be the only one that looks for them until the write ends.

    Raises:
        Unavailable: one that would be superseded is being made, and cannot be revoked yet.
    """
    rules = order.duplicates
    if rules.same_subject is SameSubject.ALLOW and rules.same_key is not SameKey.REFUSE:
        return
    templates.take_turn(connection)
    if rules.same_subject is SameSubject.SUPERSEDE and _is_rivalled(connection, intent, number):
        text = "a certificate with this subject is being made at this moment: ask again"
        raise Unavailable(text, retry_after=1, public=True)


def renewed_by(connection: Connection, order: Order) -> int | None:
    """The number of the certificate that an order renews."""
    if order.renewal_of is None:
        return None
    return certificates.number_of(connection, hashlib.sha256(order.renewal_of).digest())


def same_key(connection: Connection, order: Order, intent: NewIntent, number: int, renewed: int | None) -> list[Reason]:
    """Reasons by what the template says of others with the same key."""
    rule = order.duplicates.same_key
    if rule is SameKey.ALLOW:
        return []
    subject, whose = (None, "") if rule is SameKey.REFUSE else (intent.subject, " and another subject")
    in_use = certificates.key_is_in_use(
        connection,
        intent.spki_sha256,
        now=intent.created,
        besides=number,
        renewed=renewed,
        by_another_than=subject,
    )
    return [Reason(Refusal.DUPLICATE, f"a valid certificate with this key{whose} exists already")] if in_use else []


def is_rivalled_by_key(
    connection: Connection, order: Order, intent: NewIntent, number: int, renewed: int | None
) -> bool:
    """Whether :func:`same_key` has something against the certificate now; inside the write that stores it.

    Two processes that made their intents durable at the same moment did not see each other's. Both are committed
    before either is stored, or the one that is stored first is seen by the other: who sees a rival gives way. That may
    be both, but no copies of one request, whose subject is the same. Nobody waits for a lock. In SQLite, where one
    process writes at a time, it was all said before.
    """
    return connection.dialect.name == "postgresql" and bool(same_key(connection, order, intent, number, renewed))


def key_reasons(connection: Connection, spki: bytes) -> list[Reason]:
    """Why a key (DER SubjectPublicKeyInfo) may be in no certificate."""
    return blocked_reasons(connection, hashlib.sha256(spki).digest())


def blocked_reasons(connection: Connection, spki_sha256: bytes) -> list[Reason]:
    """The same by the SHA-256 of it."""
    if blocked_keys.get(connection, spki_sha256) is not None:
        return [Reason(Refusal.BAD_KEY, "the key is on this server's list of blocked keys")]
    if certificates.key_was_compromised(connection, spki_sha256):
        return [Reason(Refusal.BAD_KEY, "a certificate of this key was revoked here for key compromise")]
    return []
