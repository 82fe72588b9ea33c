"""Dual control: operations that somebody asks for and others agree to, by the same votes as requests.

What is agreed on is a kind, an object and all particulars; their digest is in every vote's mark, so that an approval
serves that very operation and no other, and once.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime

import attrs
from sqlalchemy import Connection

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.registration.administrators import Permission
from pkiserver.registration.operationrules import DualControl
from pkiserver.registration.seats import SERVER
from pkiserver.registration.standing import Needed, issuer_named, with_account
from pkiserver.registration.votes import MOST_REASON, Matter, Person, Votes
from pkiserver.store.database import Database
from pkiserver.store.registration import operations as rows
from pkiserver.store.registration import votes as vote_rows
from pkiserver.store.registration.operations import OperationRow, OperationState
from pkiserver.store.registration.votes import VoteRow

MATTER = "operation"
MOST_PAYLOAD = 256 * 1024
"""Characters of all particulars together."""


class OperationKind(enum.StrEnum):
    """What nobody does alone."""

    REVOKE_AUTHORITY = "revoke-authority"
    RELEASE_AUTHORITY = "release-authority"
    CHANGE_TEMPLATE = "change-template"
    CHANGE_ADMINISTRATOR = "change-administrator"
    EXPORT_SECRET = "export-secret"  # noqa: S105 - the name of a kind of operation
    RECOVER_KEY = "recover-key"


Wish = tuple[OperationKind, str, Mapping[str, str]]
"""An operation to be asked for: its kind, its object, its particulars."""
_CONFIGURING = {OperationKind.CHANGE_TEMPLATE, OperationKind.CHANGE_ADMINISTRATOR}
"""What only those ask for who configure; others may agree to it."""
TOML = "toml"
"""The particular with a template's text."""


@attrs.frozen
class Operation:
    """An operation. ``particulars`` say exactly what is to be done."""

    number: int
    kind: OperationKind
    object: str
    particulars: Mapping[str, str] = attrs.field(repr=False)
    row: OperationRow = attrs.field(repr=False)


def digest_of(kind: OperationKind, what: str, particulars: Mapping[str, str]) -> bytes:
    """SHA-256 that stands for the whole operation."""
    text = json.dumps([kind.value, what, dict(particulars)], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).digest()


@attrs.frozen
class Operations:
    """Keeps operations, lets others vote, and gives each approval out once."""

    database: Database
    audit: AuditLog
    clock: Clock
    votes: Votes
    rules: DualControl

    async def ask(
        self, kind: OperationKind, what: str, particulars: Mapping[str, str], *, reason: str, by: Person
    ) -> Operation:
        """Ask for one operation, as :meth:`ask_all` does."""
        [made] = await self.ask_all([(kind, what, particulars)], reason=reason, by=by)
        return made

    async def ask_all(self, wanted: Iterable[Wish], *, reason: str, by: Person) -> tuple[Operation, ...]:
        """Ask for operations, each voted on by itself: for all of them, or for none.

        Args:
            wanted: Of each its kind, its object in words (an authority, a template, a key), and all that decides what
                happens.
            reason: Why, for those who vote.
            by: Who asks, and therefore does not vote.

        Raises:
            Rejected: no reason is given, or it or the particulars are too long; or the role or the scope of the
                administrator who asks does not permit it.
        """
        if not reason.strip() or len(reason) > MOST_REASON:
            raise Rejected.because(Refusal.MALFORMED, f"give a reason of at most {MOST_REASON} characters")
        now = self.clock.now()
        new = [self._row(one, reason, by, now) for one in wanted]

        def keep(connection: Connection) -> tuple[Operation, ...]:
            expire(connection, self.audit, now=now)
            return tuple([self._keep(connection, one, by) for one in new])

        return await self.database.write(keep)

    def _keep(self, connection: Connection, new: OperationRow, by: Person) -> Operation:
        self._require_asker(connection, new)
        kept = attrs.evolve(new, id=rows.insert_operation(connection, new))
        self._note(connection, AuditKind.REQUEST, kept, by, (("why", new.reason),))
        return _operation(kept)

    async def get(self, number: int) -> Operation:
        """One operation; raises :class:`Rejected` (UNKNOWN_REQUEST)."""
        found = await self.database.read(lambda connection: rows.get(connection, number))
        return _operation(_known(found, number))

    async def votes_on(self, number: int) -> tuple[VoteRow, ...]:
        """How others have voted so far."""
        return await self.database.read(lambda connection: vote_rows.votes_on(connection, MATTER, number))

    async def list_page(
        self,
        *,
        state: OperationState | None = None,
        before: int | None = None,
        limit: int = 100,
        objects: Mapping[str, frozenset[str]] | None = None,
    ) -> tuple[Operation, ...]:
        """Operations, newest first; those of these kinds on these objects, or all."""
        found = await self.database.read(
            lambda connection: rows.list_page(connection, state=state, before=before, limit=limit, objects=objects)
        )
        return tuple(map(_operation, found))

    async def decide(self, number: int, *, approved: bool, by: Person, reason: str = "") -> Operation:
        """Vote; the operation as it is then.

        Raises:
            Rejected: it is not pending any more, does not exist, is the voter's own, wants members of another group,
                or this person has voted already; or whoever asked may not ask any more.
        """
        now = self.clock.now()

        def vote(connection: Connection) -> Operation:
            found = _known(rows.lock(connection, number), number)
            if found.state is not OperationState.PENDING or found.expires <= now:
                raise Rejected.because(Refusal.CONFLICT, f"operation {number} is not pending any more")
            if approved:
                self._require_asker(connection, found)
            tally = self.votes.cast(
                connection, matter_of(connection, found), by, approved=approved, reason=reason, at=now
            )
            old = OperationState.PENDING
            if tally.denied:
                rows.move(connection, number, old=old, new=OperationState.DENIED, at=now, outcome=reason)
            elif tally.approved:
                rows.move(connection, number, old=old, new=OperationState.APPROVED, at=now)
            kind = AuditKind.APPROVAL if approved else AuditKind.REFUSAL
            count = (("count", f"{tally.approvals}/{tally.needed}"), ("why", reason))
            self._note(connection, kind, found, by, count)
            return _operation(rows.get(connection, number) or found)

        return await self.database.write(vote)

    def spend(self, connection: Connection, number: int, kind: OperationKind, digest: bytes) -> OperationRow:
        """Use an approval, in the transaction of the deed: approved -> done. True for one caller ever.

        Args:
            connection: Inside a write.
            number: Of the operation.
            kind: What is about to be done.
            digest: Of what is about to be done (:func:`digest_of`).

        Raises:
            Rejected: it is not approved, was used, is over, or approves something else.
        """
        now = self.clock.now()
        found = _known(rows.lock(connection, number), number)
        self._require_spendable(connection, found, kind, digest, now)
        if not rows.move(connection, number, old=OperationState.APPROVED, new=OperationState.DONE, at=now):
            raise Rejected.because(Refusal.CONFLICT, f"operation {number} is {found.state}")
        return found

    async def check(self, number: int, kind: OperationKind, digest: bytes) -> None:
        """Raise :class:`Rejected` where :meth:`spend` would now, for deeds that begin outside of the database."""
        now = self.clock.now()

        def look(connection: Connection) -> None:
            found = _known(rows.get(connection, number), number)
            self._require_spendable(connection, found, kind, digest, now)
            if found.state is not OperationState.APPROVED:
                raise Rejected.because(Refusal.CONFLICT, f"operation {number} is {found.state}")

        await self.database.read(look)

    def _require_spendable(
        self, connection: Connection, found: OperationRow, kind: OperationKind, digest: bytes, now: datetime
    ) -> None:
        """Raise :class:`Rejected` unless it is this very operation and its votes count now."""
        number = found.id
        if (found.kind, _operation(found).row.digest) != (kind.value, digest):
            raise Rejected.because(Refusal.NOT_AUTHORISED, f"operation {number} approves something else")
        self._require_asker(connection, found)
        self.votes.require_approved(connection, matter_of(connection, found))
        if found.expires <= now:
            raise Rejected.because(Refusal.NOT_AUTHORISED, f"the time of operation {number} is over")

    async def failed(self, number: int, why: str, *, by: Person) -> None:
        """Say of an approved operation that it cannot be done as things are, and is asked for anew."""
        now = self.clock.now()

        def keep(connection: Connection) -> None:
            found = rows.lock(connection, number)
            old, new = OperationState.APPROVED, OperationState.FAILED
            if found is not None and rows.move(connection, number, old=old, new=new, at=now, outcome=why):
                self._note(connection, AuditKind.REFUSAL, found, by, (("why", why),), outcome="failed")

        await self.database.write(keep)

    def _row(self, wish: Wish, reason: str, by: Person, now: datetime) -> OperationRow:
        kind, what, particulars = wish
        payload = json.dumps(dict(particulars), ensure_ascii=False)
        if len(payload) > MOST_PAYLOAD:
            text = f"an operation has at most {MOST_PAYLOAD} characters of particulars: {kind} {what}"
            raise Rejected.because(Refusal.LIMIT, text)
        return OperationRow(
            id=0,
            kind=kind.value,
            object=what,
            payload=payload,
            digest=digest_of(kind, what, particulars),
            state=OperationState.PENDING,
            reason=reason,
            requested_by=by.actor,
            needed=self.rules.approvals,
            approvers=self.rules.approvers,
            created=now,
            expires=now + self.rules.lifetime,
        )

    @staticmethod
    def _require_asker(connection: Connection, row: OperationRow) -> None:
        """Raises :class:`Rejected` where whoever asks may not: with nobody behind it, one person would do it alone."""
        kind = OperationKind(row.kind)
        permission = Permission.CONFIGURE if kind in _CONFIGURING else Permission.ASK_OPERATIONS
        if (why := _needed(row, permission).reason_against(connection, row.requested_by, row.created)) is not None:
            raise Rejected.because(Refusal.NOT_AUTHORISED, f"it is not for {row.requested_by} to ask: {why}")

    def _note(
        self,
        connection: Connection,
        kind: AuditKind,
        row: OperationRow,
        by: Person,
        more: tuple[tuple[str, str], ...],
        *,
        outcome: str = "ok",
    ) -> None:
        what = (("operation", row.kind), ("detail", row.object), ("fingerprint", row.digest.hex()))
        event = AuditEvent(kind, by.actor, f"operation {row.id}", outcome, details=(*what, *more))
        self.audit.append(connection, event)


def expire(connection: Connection, audit: AuditLog, *, now: datetime) -> None:
    """Let operations past their time expire, which is audited."""
    for number, kind, what in rows.expire(connection, now=now):
        details = (("operation", kind), ("detail", what), ("change", "expired"))
        audit.append(connection, AuditEvent(AuditKind.REQUEST, SERVER, f"operation {number}", details=details))


def matter_of(connection: Connection, row: OperationRow) -> Matter:
    """An operation as what is voted on."""
    asked_by = with_account(connection, row.requested_by)
    against = _needed(row, Permission.DECIDE_OPERATIONS, row.approvers).reason_against
    return Matter(MATTER, row.id, row.digest, row.needed, row.approvers, asked_by, against)


def _needed(row: OperationRow, permission: Permission, groups: tuple[str, ...] = ()) -> Needed:
    """What whoever asks for an operation, or votes on it, has to be. A template's text may name another issuer."""
    match OperationKind(row.kind):
        case OperationKind.CHANGE_TEMPLATE:
            issuer = issuer_named(str(json.loads(row.payload).get(TOML, "")))
            return Needed(permission, row.object, frozenset() if issuer is None else frozenset({issuer}), groups=groups)
        case OperationKind.REVOKE_AUTHORITY | OperationKind.RELEASE_AUTHORITY:
            return Needed(permission, None, frozenset({row.object}), groups=groups)
        case _:
            return Needed(permission, whole=True, groups=groups)


def _operation(row: OperationRow) -> Operation:
    kind = OperationKind(row.kind)
    particulars = {str(key): str(value) for key, value in json.loads(row.payload).items()}
    if digest_of(kind, row.object, particulars) != row.digest:
        raise Rejected.because(Refusal.NOT_AUTHORISED, f"operation {row.id} was changed in the database")
    return Operation(row.id, kind, row.object, particulars, row)


def _known(found: OperationRow | None, number: int) -> OperationRow:
    if found is None:
        raise unknown_operation(number)
    return found


def unknown_operation(number: int) -> Rejected:
    """There is no operation of that number, or none that whoever asks may know of."""
    return Rejected.because(Refusal.UNKNOWN_REQUEST, f"there is no operation {number}")
