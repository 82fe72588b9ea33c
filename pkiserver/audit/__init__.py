"""Tamper-evident log: write, verify, export.

Each process writes a chain of its own, in the transaction of what it tells about: what cannot be logged does not
happen. How rows are hashed and signed is written down in :mod:`pkiserver.audit.chain`.
"""

from __future__ import annotations

from pkiserver.audit.events import AuditEvent, AuditKind
from pkiserver.audit.log import AuditLog

__all__ = ["AuditEvent", "AuditKind", "AuditLog"]
