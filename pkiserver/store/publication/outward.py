"""The queue of what is to be brought to directories outside.

A row says that a subject (a mail address, a certificate) is to be looked at anew for a target when it is due. It is
written in the transaction of what made it necessary. Whoever deals with it reads the state of then, so that rows need
no order, and many changes of one subject are one row. After a success the row is removed, or waits for the time when
the subject changes by itself, such as the end of a certificate. The row whose subject is empty is about the target
itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import attrs
from sqlalchemy import Connection, bindparam, delete, select, text, update

from pkiserver.store.schema.authorities import config_object
from pkiserver.store.schema.outward import outward_task
from pkiserver.store.times import to_micros

DIRECTORY = "directory"
"""The kind of configuration object that describes a directory to publish to."""
MOST_COUNTED = 10_000
"""More that are due, and more that were refused, are counted as this many."""
_ITSELF = ""
_t = outward_task.c
_SAVE = text(
    "INSERT INTO outward_task (target, subject, detail, version, due, attempts, problem)"
    " VALUES (:target, :subject, :detail, 1, 0, 0, NULL)"
    " ON CONFLICT (target, subject) DO UPDATE SET detail = excluded.detail, version = outward_task.version + 1,"
    " due = 0, attempts = 0, problem = NULL"
)
_SCHEDULE = text(
    "INSERT INTO outward_task (target, subject, detail, version, due, attempts, problem)"
    " VALUES (:target, :subject, NULL, 1, :due, 0, NULL)"
    " ON CONFLICT (target, subject) DO UPDATE SET due = excluded.due, attempts = 0, problem = NULL"
    " WHERE outward_task.due > 0"
)
_STAND = text(
    "INSERT INTO outward_task (target, subject, detail, version, due, attempts, problem)"
    " VALUES (:target, '', NULL, 1, :due, 1, :problem)"
    " ON CONFLICT (target, subject) DO UPDATE SET due = excluded.due, attempts = outward_task.attempts + 1,"
    " problem = excluded.problem"
)
_DIRECTORIES = select(config_object.c.name).where(config_object.c.kind == DIRECTORY).order_by(config_object.c.name)
_THIS = (
    _t.target == bindparam("of"),
    _t.subject == bindparam("about"),
    _t.version == bindparam("seen"),
)
_REMOVE = delete(outward_task).where(*_THIS)
_LATER = update(outward_task).where(*_THIS).values(due=bindparam("when"), attempts=0, problem=None)
_FAILED = (
    update(outward_task).where(*_THIS).values(due=bindparam("when"), attempts=_t.attempts + 1, problem=bindparam("why"))
)
_COUNT = """
SELECT
  (SELECT count(*) FROM
    (SELECT due FROM outward_task WHERE target = :of AND subject <> '' AND due <= :at LIMIT :most) AS due_now),
  count(*), count(CASE WHEN due > :at THEN 1 END)
FROM
  (SELECT due FROM outward_task {by} WHERE target = :of AND subject <> '' AND problem IS NOT NULL LIMIT :most) AS taken
"""
_COUNTS = text(_COUNT.format(by=""))
# without being told, SQLite goes through all that wait for the end of a certificate to find the few that failed
_COUNTS_SQLITE = text(_COUNT.format(by="INDEXED BY ix_outward_task_problem"))


@attrs.frozen
class Task:
    """A subject that is due; ``attempts`` in a row have failed. ``version`` tells whether it changed meanwhile."""

    target: str
    subject: str
    detail: str | None
    version: int
    attempts: int


@attrs.frozen
class Standing:
    """How a target is.

    ``waiting`` subjects are due or have failed, ``refused`` of them have been tried; ``attempts`` to reach the target
    have failed in a row, the last one with ``problem``, and the next is due at ``next_try`` (microseconds, UTC).
    """

    waiting: int = 0
    refused: int = 0
    attempts: int = 0
    problem: str | None = None
    next_try: int = 0


def directory_key(name: str) -> str:
    """The queue's name of a directory."""
    return f"{DIRECTORY}/{name}"


def connector_key(name: str) -> str:
    """The queue's name of a connector that writes certificates to where its users are kept."""
    return f"connector/{name}"


def directories(connection: Connection) -> tuple[str, ...]:
    """The names of the directories that are published to."""
    return tuple(connection.execute(_DIRECTORIES).scalars())


def enqueue(connection: Connection, targets: Iterable[str], subjects: Iterable[str], detail: str | None = None) -> None:
    """Have subjects looked at anew, at once; in order, so that two transactions cannot wait for each other."""
    ordered = sorted(set(subjects))
    rows = [
        {"target": target, "subject": subject, "detail": detail}
        for target in sorted(set(targets))
        for subject in ordered
        if subject
    ]
    if rows:
        connection.execute(_SAVE, rows)


def schedule(connection: Connection, target: str, subjects: Iterable[tuple[str, datetime]]) -> None:
    """Have subjects looked at when they change by themselves; one that has just changed is looked at before."""
    rows = [{"target": target, "subject": subject, "due": to_micros(due)} for subject, due in sorted(subjects)]
    if rows:
        connection.execute(_SCHEDULE, rows)


def due(connection: Connection, target: str, *, now: datetime, limit: int) -> tuple[Task, ...]:
    """What is to be dealt with now, that which has waited longest first."""
    query = (
        select(outward_task)
        .where(_t.target == target, _t.due <= to_micros(now), _t.subject != _ITSELF)
        .order_by(_t.due, _t.subject)
        .limit(limit)
    )
    return tuple(
        Task(row.target, row.subject, row.detail, row.version, row.attempts) for row in connection.execute(query)
    )


def done(connection: Connection, task: Task, *, again: datetime | None) -> None:
    """A subject is as it should be, until ``again`` if not None; unless it has changed since it was read."""
    values = {"of": task.target, "about": task.subject, "seen": task.version}
    if again is None:
        connection.execute(_REMOVE, values)
    else:
        connection.execute(_LATER, {**values, "when": to_micros(again)})


def failed(connection: Connection, task: Task, problem: str, *, again: datetime | None) -> None:
    """A subject could not be brought; ``again`` None gives it up."""
    values = {"of": task.target, "about": task.subject, "seen": task.version}
    if again is None:
        connection.execute(_REMOVE, values)
    else:
        connection.execute(_FAILED, {**values, "when": to_micros(again), "why": problem[:500]})


def target_failed(connection: Connection, target: str, problem: str, *, again: datetime) -> None:
    """A target as a whole could not be reached."""
    connection.execute(_STAND, {"target": target, "due": to_micros(again), "problem": problem[:500]})


def target_reached(connection: Connection, target: str) -> None:
    """A target could be reached."""
    connection.execute(delete(outward_task).where(_t.target == target, _t.subject == _ITSELF))


def standing(connection: Connection, target: str, *, now: datetime) -> Standing:
    """How a target is."""
    itself = connection.execute(
        select(_t.attempts, _t.problem, _t.due).where(_t.target == target, _t.subject == _ITSELF)
    ).one_or_none()
    values = {"of": target, "at": to_micros(now), "most": MOST_COUNTED}
    counts = _COUNTS_SQLITE if connection.dialect.name == "sqlite" else _COUNTS
    due_now, refused, later = connection.execute(counts, values).one()
    if itself is None:
        return Standing(due_now + later, refused)
    return Standing(due_now + later, refused, itself.attempts, itself.problem, itself.due)


def problems(connection: Connection, target: str, *, after: str, limit: int) -> tuple[tuple[str, str], ...]:
    """Subjects that a target did not take, with the reason."""
    query = (
        select(_t.subject, _t.problem)
        .where(_t.target == target, _t.subject > after, _t.problem.is_not(None))
        .order_by(_t.subject)
        .limit(limit)
    )
    return tuple((row.subject, row.problem) for row in connection.execute(query))


def targets(connection: Connection) -> tuple[str, ...]:
    """All targets for which there is something; one index probe for each."""
    found: list[str] = []
    while True:
        query = select(_t.target).where(_t.target > (found[-1] if found else "")).order_by(_t.target).limit(1)
        name = connection.execute(query).scalar_one_or_none()
        if name is None:
            return tuple(found)
        found.append(name)


def forget(connection: Connection, target: str, *, most: int = 10_000) -> int:
    """Remove what is queued for a target that is no more, at most so many rows; how many there were."""
    some = select(_t.subject).where(_t.target == target).limit(most)
    return connection.execute(delete(outward_task).where(_t.target == target, _t.subject.in_(some))).rowcount
