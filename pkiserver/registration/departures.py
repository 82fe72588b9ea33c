"""What an account leaves behind when it is deleted: nothing of it is for whoever gets its name later."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.store.registration import accounts, seats


def delete_account(connection: Connection, audit: AuditLog, name: str, *, by: str, now: datetime) -> bool:
    """Remove an account, archive its seats under another identity, and let nobody own what it owned.

    A namesake's devices would find the slots, and the places for certificates, taken by those of somebody else.

    Returns:
        Whether there was such an account.
    """
    if not accounts.delete_account(connection, name):
        return False
    for left in seats.retire(connection, name, actor=by, now=now):
        details = (("template", left.template), ("subject", left.identity), ("change", "archived: account deleted"))
        audit.append(connection, AuditEvent(AuditKind.ACCOUNT, by, f"seat {left.id}", details=details))
    if owned := seats.disown(connection, name, actor=by, now=now):
        told = (("change", "owner of no seat any more"), ("count", str(owned)))
        audit.append(connection, AuditEvent(AuditKind.ACCOUNT, by, f"account {name}", details=told))
    return True
