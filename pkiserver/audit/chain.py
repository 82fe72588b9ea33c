r"""How rows of the audit log are hashed, chained and signed; enough to verify an export without this program.

Each process (node, worker, start) writes one chain. An event's hash is SHA-256 over netstrings, one after another; a
netstring is the length in octets as decimal digits, a colon, the octets, a comma:

    "pkiserver audit event 1", writer, seq, at, kind, actor, object, outcome, request_id, details, prev_hash

Text is UTF-8; numbers are decimal digits; ``at`` is microseconds since 1970-01-01T00:00:00Z; ``details`` is the JSON
text as stored; ``prev_hash`` is the 32 octets of the event before. A request_id that is missing is the netstring of no
octets preceded by ``-`` (``-0:,``), so that it differs from an empty one. The first event has seq 1 and continues the
chain's genesis: SHA-256 over "pkiserver audit writer 1", writer, node, worker, started.

A checkpoint is signed over the octets ``pkiserver audit checkpoint 1\n`` and its JSON text, which holds its number, its
time, the SHA-256 (hexadecimal) of the signed octets of the checkpoint before, and the head (writer, seq, hash, node,
worker, started) of each chain that moved since. Since each names the one before, the newest vouches for all heads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from pkiserver.store.audit import EventRow, WriterRow
from pkiserver.store.times import to_micros

CHECKPOINT_PREFIX = b"pkiserver audit checkpoint 1\n"
NO_CHECKPOINT = bytes(32)
"""What the first checkpoint names as the one before."""


def genesis(writer_id: int, node: str, worker: str, started: int) -> bytes:
    """The hash that a chain's first event continues; ``started`` in microseconds since 1970."""
    return _digest(b"pkiserver audit writer 1", writer_id, node, worker, started)


def event_hash(row: EventRow) -> bytes:
    """The hash of an event's row, from everything in it but the hash itself."""
    return _digest(
        b"pkiserver audit event 1",
        row.writer_id,
        row.seq,
        row.at,
        row.kind,
        row.actor,
        row.object,
        row.outcome,
        row.request_id,
        row.details,
        row.prev_hash,
    )


def checkpoint_text(number: int, at: int, previous: bytes, heads: Sequence[WriterRow]) -> str:
    """The JSON text of a checkpoint: keys sorted, no spaces, ASCII."""
    content = {
        "checkpoint": number,
        "at": at,
        "previous": previous.hex(),
        "heads": [
            {
                "writer": head.id,
                "node": head.node,
                "worker": head.worker,
                "started": to_micros(head.started),
                "seq": head.head_seq,
                "hash": head.head_hash.hex(),
            }
            for head in heads
        ],
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def checkpoint_octets(text: str) -> bytes:
    """What is signed."""
    return CHECKPOINT_PREFIX + text.encode("ascii", "backslashreplace")


def checkpoint_hash(text: str) -> bytes:
    """What the next checkpoint names."""
    return hashlib.sha256(checkpoint_octets(text)).digest()


def _digest(*fields: bytes | str | int | None) -> bytes:
    parts: list[bytes] = []
    for field in fields:
        if field is None:
            parts.append(b"-0:,")
            continue
        octets = field if isinstance(field, bytes) else str(field).encode("utf-8", "surrogatepass")
        parts.append(b"%d:%b," % (len(octets), octets))
    return hashlib.sha256(b"".join(parts)).digest()
