"""Reading long lists in a process of its own: seconds of work that would take turns with the reactor in this one.

``python -m pkiserver.authority.validation.reading`` is that process; what passes is the authority's certificate and the
list on its standard input, and a line of JSON with the parts behind it, or with the reasons, on its standard output.
"""

from __future__ import annotations

import json
import subprocess
import sys

import attrs
import cattrs
from twisted.internet.threads import deferToThread

from pkiserver.authority.model import CaCertificate
from pkiserver.authority.validation.lists import ReadList, read_list
from pkiserver.foundation.errors import Reason, Refusal, Rejected, Unavailable
from pkiserver.store.authority.foreign import ListHead, ListKind
from pkiserver.store.times import from_micros, optional_micros, optional_time, to_micros

IN_PLACE = 64 * 1024
"""A list up to this length is read where it is: some milliseconds."""
SECONDS = 120
"""Longest time that a list may take."""


@attrs.frozen
class _Passed:
    """A head as it passes between the processes."""

    kind: str
    number: str
    base_number: str | None
    scope: str
    this_update: int
    next_update: int | None
    entries: int
    digest: str
    parts: list[int]


async def read_apart(data: bytes, ca: CaCertificate) -> ReadList:
    """As :func:`read_list`, without holding up the reactor.

    Raises:
        Rejected: with every reason.
        Unavailable: the other process did not end well.
    """
    if len(data) <= IN_PLACE:
        return read_list(data, ca)
    return await deferToThread(_ask, data, ca)


def _ask(data: bytes, ca: CaCertificate) -> ReadList:
    command = [sys.executable, "-m", "pkiserver.authority.validation.reading"]
    given = len(ca.der).to_bytes(4, "big") + ca.der + data
    try:
        done = subprocess.run(command, input=given, capture_output=True, check=False, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"the list could not be read: {error}") from error
    line, newline, octets = done.stdout.partition(b"\n")
    if done.returncode or not newline:
        why = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:200]
        raise Unavailable(f"the list could not be read: {why or done.returncode}")
    said = json.loads(line)
    if "reasons" in said:
        raise Rejected(Reason(Refusal(code), text) for code, text in said["reasons"])
    return _received(cattrs.structure(said, _Passed), octets)


def _received(passed: _Passed, octets: bytes) -> ReadList:
    head = ListHead(
        kind=ListKind(passed.kind),
        number=int(passed.number),
        base_number=None if passed.base_number is None else int(passed.base_number),
        scope=bytes.fromhex(passed.scope),
        this_update=from_micros(passed.this_update),
        next_update=optional_time(passed.next_update),
        entries=passed.entries,
        digest=bytes.fromhex(passed.digest),
    )
    parts, at = [], 0
    for size in passed.parts:
        parts.append(octets[at : at + size])
        at += size
    return ReadList(head, tuple(parts))


def _main() -> None:
    given = sys.stdin.buffer.read()
    size = int.from_bytes(given[:4], "big")
    out = sys.stdout.buffer
    try:
        read = read_list(given[4 + size :], CaCertificate.load(given[4 : 4 + size]))
    except Rejected as error:
        out.write(json.dumps({"reasons": [(one.code, one.text) for one in error.reasons]}).encode() + b"\n")
        return
    head = read.head
    passed = _Passed(
        kind=head.kind.value,
        number=str(head.number),
        base_number=None if head.base_number is None else str(head.base_number),
        scope=head.scope.hex(),
        this_update=to_micros(head.this_update),
        next_update=optional_micros(head.next_update),
        entries=head.entries,
        digest=head.digest.hex(),
        parts=[len(part) for part in read.parts],
    )
    out.write(json.dumps(attrs.asdict(passed)).encode() + b"\n")
    for part in read.parts:
        out.write(part)


if __name__ == "__main__":
    _main()
