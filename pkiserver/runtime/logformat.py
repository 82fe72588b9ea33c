"""One event, one line: as text or JSON, with nothing in it that could pass for another line."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from string import Formatter

from twisted.logger import LogEvent, LogLevel, formatEvent
from twisted.python.failure import Failure


def escape(text: str) -> str:
    """Text on one line: control characters, line separators and direction marks as escapes."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} else ascii(c)[1:-1] for c in text)


@lru_cache(1024)
def _pieces(form: str) -> tuple[tuple[str, str | None], ...] | None:
    """Text and the name of the field behind it, in turn; None for a format with more in it than plain fields."""
    pieces = []
    for text, name, specification, conversion in Formatter().parse(form):
        if name is not None and (not name.isidentifier() or specification or conversion):
            return None
        pieces.append((text, name))
    return tuple(pieces)


def message_of(event: LogEvent) -> str:
    """The event's text, as Twisted's ``formatEvent`` has it, which parses the format anew for each event."""
    form = event.get("log_format")
    try:
        pieces = _pieces(form) if isinstance(form, str) and "log_flattened" not in event else None
        if pieces is not None:
            return "".join([text if name is None else f"{text}{event[name]}" for text, name in pieces])
    except Exception:  # noqa: BLE001, S110 - Twisted tells what is wrong with such an event
        pass
    return formatEvent(event)


def _timestamp(event: LogEvent) -> str:
    moment = datetime.fromtimestamp(float(event.get("log_time", 0.0)), UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _level(event: LogEvent) -> str:
    level = event.get("log_level")
    return level.name if level is not None and isinstance(level.name, str) else "info"


def traceback_of(event: LogEvent) -> str | None:
    """The traceback of an event that is about a failure."""
    failure = event.get("log_failure")
    return failure.getTraceback() if isinstance(failure, Failure) else None


def fields_of(event: LogEvent) -> Iterator[tuple[str, str | int | float | bool | None]]:
    """What the caller gave beside the text, as far as it is plain; the rest is in the message if anywhere."""
    for name, value in event.items():
        if not name.startswith("log_") and (value is None or isinstance(value, str | int | float | bool)):
            yield name, value


def as_json(event: LogEvent, worker: str) -> str:
    """One JSON object: time, level, namespace, message, then the event's own fields."""
    record: dict[str, object] = {
        "time": _timestamp(event),
        "level": _level(event),
        "namespace": event.get("log_namespace", "-"),
        "message": message_of(event),
        "worker": worker,
    }
    for name, value in fields_of(event):
        # No field of an event may pass for one of ours.
        record.setdefault(name, value)
    if (traceback := traceback_of(event)) is not None:
        record["traceback"] = traceback
    return json.dumps(record, ensure_ascii=True)


def as_text(event: LogEvent, worker: str) -> str:
    """One line for people; a traceback follows on lines that begin with ``  | ``, which no event's own line does."""
    message = escape(message_of(event).strip())
    request_id = event.get("request_id")
    if isinstance(request_id, str) and request_id not in message:
        message += f" request_id={escape(request_id)}"
    line = f"{_timestamp(event)} {_level(event):<5} [{worker}] {event.get('log_namespace', '-')}: {message}"
    if (traceback := traceback_of(event)) is not None:
        line += "".join(f"\n  | {escape(part)}" for part in traceback.rstrip().split("\n"))
    return line


PRIORITIES = {
    LogLevel.debug: 7,
    LogLevel.info: 6,
    LogLevel.warn: 4,
    LogLevel.error: 3,
    LogLevel.critical: 2,
}
"""Syslog severities (RFC 5424 section 6.2.1), which journald uses too."""


def priority(event: LogEvent) -> int:
    """The syslog severity of an event."""
    return PRIORITIES.get(event.get("log_level"), 6)
