"""How a request ends without a certificate: its time is over; and who gave out its challenge is told of any end."""

from __future__ import annotations

import json
from datetime import datetime

from sqlalchemy import Connection

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.registration.connectors import questions
from pkiserver.registration.connectors.questions import Kept
from pkiserver.registration.seats import SERVER
from pkiserver.store.registration import requests

_QUESTION = "question"


def question_of(payload: bytes) -> Kept | None:
    """The question behind the challenge that a request came with, where a service is to be told of the end."""
    found = json.loads(payload).get(_QUESTION)
    return found if isinstance(found, dict) else None


def expire(
    connection: Connection, audit: AuditLog, *, now: datetime, most: int = 1000, number: int | None = None
) -> int:
    """Let requests past their time expire, which is audited; who gave out their challenges is told.

    Args:
        connection: Inside a write.
        audit: Is told.
        now: The time.
        most: So many, those past it for longest: all others wait for a write to end.
        number: Only this one.

    Returns:
        How many there were.
    """
    ended = requests.expire(connection, now=now, most=most, number=number)
    for one, payload in ended:
        details = (("change", "expired"), ("subject", str(json.loads(payload)["subject"])))
        audit.append(connection, AuditEvent(AuditKind.REQUEST, SERVER, f"request {one}", details=details))
        tell_refused(connection, one, payload, "its time was over before it was decided and fetched")
    return len(ended)


def drop_question(connection: Connection, number: int) -> None:
    """The service behind a request's challenge has been told of the end: what it was asked is not kept longer."""
    found = requests.get(connection, number)
    if found is not None and question_of(found.payload) is not None:
        rest = {name: value for name, value in json.loads(found.payload).items() if name != _QUESTION}
        requests.replace_payload(connection, number, json.dumps(rest).encode())


def tell_refused(connection: Connection, number: int, payload: bytes, why: str) -> None:
    """Have the service behind a request's challenge told that no certificate will come of it."""
    if (question := question_of(payload)) is not None:
        questions.tell_refused(connection, question, why)
        drop_question(connection, number)


def with_question(payload: bytes, question: Kept) -> bytes:
    """What is kept of a request, with the question."""
    return json.dumps({**json.loads(payload), _QUESTION: question}).encode()
