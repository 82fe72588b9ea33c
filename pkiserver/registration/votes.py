"""The mechanism of approvals: n persons of a group agree, nobody on their own matter, each once.

Requests for certificates and operations under dual control are voted on alike. Each vote carries a mark (HMAC-SHA-256)
over itself and over what was voted on; only votes with their mark are counted, when they are cast and again when the
approval is spent. Whoever changes rows of the database without the key of the marks approves nothing.
"""

from __future__ import annotations

import hmac
import secrets
import unicodedata
from collections.abc import Callable, Iterable
from datetime import datetime

import attrs
from sqlalchemy import Connection

from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.foundation.framing import framed
from pkiserver.foundation.secret import Secret
from pkiserver.registration.identities import CHALLENGE_PREFIX, CODE_PREFIX, OPERATOR_PREFIX, SELF_SIGNED
from pkiserver.store import secrets as server_secrets
from pkiserver.store.registration import votes as rows
from pkiserver.store.registration.votes import VoteRow
from pkiserver.store.times import to_micros

KEY_NAME = "approval-marks"
MOST_REASON = 1000
"""Characters of the reason that a voter gives."""
_PREFIXES = ("admin:", "cli:", OPERATOR_PREFIX)
_NAMELESS = (CODE_PREFIX, CHALLENGE_PREFIX, SELF_SIGNED)
"""What shows nobody by name."""


def person_of(actor: str) -> str:
    """The person behind an actor's name, however they came: ``admin:Alice`` and ``cli:alice`` are one."""
    for prefix in _PREFIXES:
        if actor.startswith(prefix):
            return _folded(actor.removeprefix(prefix))
    return _folded(actor)


def may_be_one(some: Iterable[str], others: Iterable[str]) -> bool:
    r"""Whether one of some names may be the same person's as one of others.

    ``staff:alice``, whom a connector shows, ``EXAMPLE\alice`` and ``alice@example.org`` may be ``alice``; of two with
    domains both halves count. It is for those who must not be one: in doubt they are.
    """
    return any(_alike(person_of(one), person_of(other)) for one in some for other in others)


def _alike(one: str, other: str) -> bool:
    mine, theirs = _plain(one), _plain(other)
    return one == other or mine == theirs or _local(mine) == theirs or mine == _local(theirs)


def _plain(name: str) -> str:
    """A name without the connector that it is from."""
    return name if name.startswith(_NAMELESS) else name.partition(":")[2] or name


def _local(name: str) -> str:
    """A name without its domain."""
    return name.rpartition("\\")[2].partition("@")[0]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def _everybody(connection: Connection, actor: str, at: datetime) -> str | None:
    del connection, actor, at
    return None


@attrs.frozen
class Person:
    """Somebody who votes or asks.

    Attributes:
        actor: As the audit log names them: ``admin:alice``, ``cli:root``.
        groups: For approvals that want members of a group.
        account: Their own account's name, where it is another than theirs.
    """

    actor: str
    groups: frozenset[str] = frozenset()
    account: str | None = None

    @classmethod
    def of(cls, who: str | Person) -> Person:
        """A name alone, or a person as they are."""
        return cls(who) if isinstance(who, str) else who

    @property
    def names(self) -> frozenset[str]:
        """What counts as this person."""
        own = {person_of(self.actor)}
        return frozenset(own if self.account is None else own | {_folded(self.account)})

    @property
    def voter(self) -> str:
        """The name under which the vote is kept: one for each person."""
        return _folded(self.account) if self.account is not None else person_of(self.actor)


@attrs.frozen
class Matter:
    """What is voted on. ``digest`` stands for all of it; ``asked_by`` are the names of whoever asked.

    ``against`` tells why what an actor votes at a time does not count as things are in the transaction; None: it does.
    """

    kind: str
    number: int
    digest: bytes
    needed: int
    approvers: tuple[str, ...]
    asked_by: frozenset[str]
    against: Callable[[Connection, str, datetime], str | None] = _everybody


@attrs.frozen
class Tally:
    """How a vote stands. ``lapsed`` are approvals of those who could not give them any more."""

    approvals: int
    needed: int
    denied: bool
    lapsed: int = 0

    @property
    def approved(self) -> bool:
        """Whether enough agreed and nobody refused."""
        return not self.denied and self.approvals >= self.needed


@attrs.frozen
class Votes:
    """Casts and counts votes, inside the caller's transaction.

    ``key`` of the marks; None: one that the database keeps, which stops slips of the hand but not somebody who reads
    the whole database.
    """

    key: Secret | None = None

    def cast(
        self, connection: Connection, matter: Matter, by: Person, *, approved: bool, reason: str, at: datetime
    ) -> Tally:
        """Record a vote and count. The caller holds the row of what is voted on.

        Raises:
            Rejected: it is the voter's own matter, they are in none of the groups, or they have voted already.
                Their role or scope does not let them, whichever way they came.
        """
        reasons = _reasons_against(matter, by, reason)
        if not reasons and (why := matter.against(connection, by.actor, at)) is not None:
            reasons.append(Reason(Refusal.NOT_AUTHORISED, why))
        earlier = rows.votes_on(connection, matter.kind, matter.number)
        theirs = [vote for vote in earlier if may_be_one(by.names, _names_of(vote))]
        inherited = [vote for vote in theirs if _is_of_a_namesake(connection, matter, vote, at)]
        if len(inherited) < len(theirs):
            reasons.append(Reason(Refusal.CONFLICT, f"{by.voter} has decided on this already"))
        if reasons:
            raise Rejected(reasons)
        for vote in inherited:
            rows.remove(connection, vote)
        # The mark is over what the database will give back: whole microseconds.
        unmarked = VoteRow(matter.kind, matter.number, by.voter, approved, reason, at, b"", by.actor)
        key = self._key(connection, at)
        rows.cast(connection, attrs.evolve(unmarked, mac=_mark(key, matter, unmarked)))
        return self.count(connection, matter)

    def count(self, connection: Connection, matter: Matter) -> Tally:
        """How the vote stands, by the votes that bear their mark and whose voters could give them now.

        Raises:
            Rejected: one does not: somebody changed the database.
        """
        key = self.key or server_secrets.get(connection, KEY_NAME)  # which is made with the first vote
        approvals, denied, lapsed = 0, False, 0
        for vote in rows.votes_on(connection, matter.kind, matter.number):
            if key is None or not hmac.compare_digest(vote.mac, _mark(key, matter, vote)):
                text = f"a vote on {matter.kind} {matter.number} was changed in the database: it does not count"
                raise Rejected.because(Refusal.NOT_AUTHORISED, text)
            denied = denied or not vote.approved
            if vote.approved and vote.actor is not None and matter.against(connection, vote.actor, vote.at) is not None:
                lapsed += 1
            else:
                approvals += vote.approved
        return Tally(approvals, matter.needed, denied, lapsed)

    def require_approved(self, connection: Connection, matter: Matter) -> None:
        """Raises :class:`Rejected` unless enough agreed."""
        tally = self.count(connection, matter)
        if not tally.approved:
            text = f"{matter.kind} {matter.number} has {tally.approvals} of {matter.needed} approvals"
            raise Rejected.because(Refusal.NOT_AUTHORISED, text)

    def _key(self, connection: Connection, now: datetime) -> Secret:
        if self.key is not None:
            return self.key
        return server_secrets.get(connection, KEY_NAME) or server_secrets.get_or_put(
            connection, KEY_NAME, Secret(secrets.token_bytes(32)), now=now
        )


def _reasons_against(matter: Matter, by: Person, reason: str) -> list[Reason]:
    reasons = []
    if may_be_one(by.names, matter.asked_by):
        reasons.append(Reason(Refusal.NOT_AUTHORISED, "nobody decides their own request"))
    if matter.approvers and not by.groups.intersection(matter.approvers):
        wanted = ", ".join(matter.approvers)
        reasons.append(Reason(Refusal.NOT_AUTHORISED, f"only members of {wanted} decide this"))
    if len(reason) > MOST_REASON:
        reasons.append(Reason(Refusal.LIMIT, f"a reason has at most {MOST_REASON} characters"))
    return reasons


def _names_of(vote: VoteRow) -> tuple[str, ...]:
    """Of a voter: as it was kept, and whoever it was, should their own account be another by now."""
    return (vote.voter,) if vote.actor is None else (vote.voter, vote.actor)


def _is_of_a_namesake(connection: Connection, matter: Matter, vote: VoteRow, now: datetime) -> bool:
    """Whether an approval is of one who was removed, and whose name is another's by now: it never counts again."""
    if vote.actor is None or not vote.approved or matter.against(connection, vote.actor, vote.at) is None:
        return False
    return matter.against(connection, vote.actor, now) is None


def _mark(key: Secret, matter: Matter, vote: VoteRow) -> bytes:
    """HMAC-SHA-256 over the length-prefixed parts of a vote and of what it is about."""
    parts = (
        matter.kind.encode(),
        str(matter.number).encode(),
        matter.digest,
        str(matter.needed).encode(),
        *(group.encode() for group in matter.approvers),
        vote.voter.encode(),
        b"approved" if vote.approved else b"denied",
        str(to_micros(vote.at)).encode(),
        *(() if vote.actor is None else (b"by " + vote.actor.encode(),)),
    )
    return hmac.digest(key.reveal(), framed(parts), "sha256")
