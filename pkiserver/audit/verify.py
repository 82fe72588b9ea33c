"""Verifying the audit log: what was removed, altered, added, reordered or cut off shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import attrs
from sqlalchemy import Connection

from pkiserver.audit import chain
from pkiserver.audit.events import AuditKind
from pkiserver.audit.export import details_of
from pkiserver.store import audit as rows
from pkiserver.store.times import to_micros

PROBLEM_LIMIT = 1000
"""Problems that are told one by one; a log that was rewritten whole has one for each row."""

VerifySignature = Callable[[rows.CheckpointRow, bytes], bool]
"""Whether a checkpoint's signature over the octets is its key's; False also for a key that is not known."""


@attrs.frozen
class AuditReport:
    """What :func:`verify` found; the log is intact when ``problems`` is empty.

    ``unsigned`` counts the events after the newest checkpoint of their chain: only their chain guards them.
    """

    events: int
    chains: int
    checkpoints: int
    unsigned: int
    signatures_checked: bool
    problems: tuple[str, ...]


@attrs.define
class _Findings:
    problems: list[str] = attrs.field(factory=list)
    made: dict[str, bytes] = attrs.field(factory=dict)
    """The hashes of the checkpoints that there are, by what events call them."""
    events: int = 0
    unsigned: int = 0

    def add(self, problem: str) -> None:
        if len(self.problems) < PROBLEM_LIMIT:
            self.problems.append(problem)


def verify(connection: Connection, *, verify_signature: VerifySignature | None = None) -> AuditReport:
    """Check every chain from its beginning and every checkpoint against the chains, in one snapshot.

    Args:
        connection: Of one read, so that nothing moves meanwhile.
        verify_signature: Checks checkpoints' signatures; without it only their contents are checked.
    """
    findings = _Findings()
    signed: dict[int, int] = {}
    count = 0
    previous = chain.NO_CHECKPOINT
    for checkpoint in rows.checkpoints(connection):
        count += 1
        if checkpoint.id != count:
            findings.add(f"checkpoint {count} is missing")
            count = checkpoint.id
        _verify_checkpoint(connection, checkpoint, previous, verify_signature, findings)
        findings.made[f"checkpoint {checkpoint.id}"] = checkpoint.hash
        previous = chain.checkpoint_hash(checkpoint.heads)
        for head in _heads(checkpoint):
            signed[head.writer] = max(signed.get(head.writer, 0), head.seq)
    known = list(rows.writers(connection))
    for writer in known:
        _verify_chain(connection, writer, signed.get(writer.id, 0), findings)
    numbers = {writer.id for writer in known}
    findings.problems += [f"chain {one} is missing" for one in sorted(signed.keys() - numbers)]
    findings.problems += [f"chain {one} has events and no writer" for one in _strays(connection, numbers)]
    return AuditReport(
        events=findings.events,
        chains=len(known),
        checkpoints=count,
        unsigned=findings.unsigned,
        signatures_checked=verify_signature is not None,
        problems=tuple(findings.problems),
    )


@attrs.frozen
class _SignedHead:
    writer: int
    seq: int
    hash: bytes
    genesis: bytes


def _heads(checkpoint: rows.CheckpointRow) -> Iterator[_SignedHead]:
    """The heads that a checkpoint names; none where its text is not a checkpoint's, which its hash shows as well."""
    try:
        heads = [
            _SignedHead(
                writer=int(head["writer"]),
                seq=int(head["seq"]),
                hash=bytes.fromhex(head["hash"]),
                genesis=chain.genesis(head["writer"], head["node"], head["worker"], head["started"]),
            )
            for head in json.loads(checkpoint.heads)["heads"]
        ]
    except (ValueError, KeyError, TypeError):
        return
    yield from heads


def _verify_checkpoint(
    connection: Connection,
    checkpoint: rows.CheckpointRow,
    previous: bytes,
    verify_signature: VerifySignature | None,
    findings: _Findings,
) -> None:
    name = f"checkpoint {checkpoint.id}"
    if checkpoint.hash != chain.checkpoint_hash(checkpoint.heads):
        findings.add(f"{name} was altered")
    if checkpoint.prev_hash != previous or not _names(checkpoint, previous):
        findings.add(f"{name} does not continue the one before")
    if verify_signature is not None and not verify_signature(checkpoint, chain.checkpoint_octets(checkpoint.heads)):
        findings.add(f"{name} does not bear the signature of key {checkpoint.key_name!r}")
    for head in _heads(checkpoint):
        event = rows.event(connection, head.writer, head.seq) if head.seq else None
        found = head.genesis if head.seq == 0 else None if event is None else event.hash
        if found is None:
            findings.add(f"chain {head.writer}: event {head.seq}, which {name} names, is missing")
        elif found != head.hash:
            findings.add(f"chain {head.writer}: event {head.seq} is not the one that {name} names")


def _names(checkpoint: rows.CheckpointRow, previous: bytes) -> bool:
    """Whether the signed text agrees with the columns beside it."""
    try:
        content = json.loads(checkpoint.heads)
        return bool(
            content["checkpoint"] == checkpoint.id
            and content["previous"] == previous.hex()
            and content["at"] == checkpoint.at
        )
    except (ValueError, KeyError, TypeError):
        return False


def _verify_chain(connection: Connection, writer: rows.WriterRow, signed: int, findings: _Findings) -> None:
    name = f"chain {writer.id}"
    seq, expected = 0, chain.genesis(writer.id, writer.node, writer.worker, to_micros(writer.started))
    for row in rows.events(connection, writer.id):
        findings.events += 1
        seq += 1
        if row.seq != seq:
            gone = f"event {seq} is" if row.seq == seq + 1 else f"events {seq} to {row.seq - 1} are"
            findings.add(f"{name}: {gone} missing")
            seq = row.seq
        elif row.prev_hash != expected:
            findings.add(f"{name}: event {row.seq} does not continue the one before")
        if row.hash != chain.event_hash(row):
            findings.add(f"{name}: event {row.seq} was altered")
        elif row.kind == AuditKind.CHECKPOINT:
            _verify_told(row, name, findings)
        expected = row.hash
    if seq != writer.head_seq:
        findings.add(f"{name}: ends at event {seq}, its head is event {writer.head_seq}")
    elif writer.head_hash != expected:
        findings.add(f"{name}: its last event is not its head")
    findings.unsigned += max(0, seq - signed)


def _verify_told(row: rows.EventRow, name: str, findings: _Findings) -> None:
    """The checkpoint that an event tells of is there: nothing else shows that the last ones were removed."""
    made = findings.made.get(row.object)
    if made is None:
        findings.add(f"{row.object} is missing: {name}: event {row.seq} tells of it")
    elif details_of(row).get("hash") != made.hex():
        findings.add(f"{name}: event {row.seq} tells of another {row.object}")


def _strays(connection: Connection, known: set[int]) -> list[int]:
    """Chains that have events and no row of their own, found by skipping from chain to chain."""
    strays: list[int] = []
    number = 0
    while (found := rows.next_chain(connection, number)) is not None:
        number = found
        if number not in known:
            strays.append(number)
    return strays
