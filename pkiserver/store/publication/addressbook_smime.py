"""userSMIMECertificate as the store keeps it."""

from __future__ import annotations

from datetime import datetime

import attrs
from sqlalchemy import Connection, bindparam, delete, insert, select

from pkiserver.store.outbox import gather_addresses
from pkiserver.store.publication.addressbook import CURRENT
from pkiserver.store.schema.addressbook import addressbook_smime
from pkiserver.store.schema.certificates import certificate
from pkiserver.store.times import to_micros

_SMIME = select(addressbook_smime.c.message, addressbook_smime.c.fingerprint, addressbook_smime.c.signer).where(
    addressbook_smime.c.address == bindparam("wanted")
)
_IN_FORCE = select(certificate.c.id).where(certificate.c.fingerprint == bindparam("fingerprint"), *CURRENT)


@attrs.frozen
class SmimeMessage:
    """A SignedData kept for an address key; ``fingerprint`` (announced) and ``signer`` are SHA-256 of certificates."""

    address: str
    message: bytes = attrs.field(repr=False)
    fingerprint: bytes
    signer: bytes


def smime_message(connection: Connection, address: str, *, now: datetime) -> tuple[bytes, bytes] | None:
    """A person's SignedData, if its signer is in force, and the SHA-256 of the certificate that it announces."""
    row = connection.execute(_SMIME, {"wanted": address}).one_or_none()
    if row is None:
        return None
    if row.signer is not None and row.signer != row.fingerprint:  # what is announced is looked at by who shows it
        signer = {"fingerprint": row.signer, "now": to_micros(now)}
        if connection.execute(_IN_FORCE, signer).scalar_one_or_none() is None:
            return None
    return (row.message, row.fingerprint)


def put_smime(connection: Connection, message: SmimeMessage, *, now: datetime) -> None:
    """Keep a person's SignedData, in place of an earlier one."""
    connection.execute(delete(addressbook_smime).where(addressbook_smime.c.address == message.address))
    connection.execute(insert(addressbook_smime), {**attrs.asdict(message), "added": to_micros(now)})
    gather_addresses(connection, [message.address])
