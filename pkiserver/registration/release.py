"""What is spent on one certificate, where the process that made the certificate died before it gave it out."""

from __future__ import annotations

from sqlalchemy import Connection

from pkiserver.store.registration import codes, onetime, scep, seats


def release(connection: Connection, certificate_id: int) -> None:
    """Make usable again what was spent on it; approvals come back in force when they are asked for."""
    codes.release(connection, certificate_id)
    onetime.release(connection, certificate_id)
    scep.give_back(connection, certificate_id)
    seats.give_back(connection, certificate_id)
