"""Where the operational log goes and how its lines look."""

from __future__ import annotations

import enum
from pathlib import Path

import attrs


class LogFormat(enum.Enum):
    """How an event is written."""

    TEXT = "text"
    JSON = "json"


class LogLevel(enum.Enum):
    """The least severe event that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"
    CRITICAL = "critical"


@attrs.frozen
class LogTarget:
    """``stderr``, ``file:/path``, ``syslog``, ``journald``; the last two also with another socket's path."""

    ALLOWED = '"stderr", "file:/absolute/path", "syslog", "journald", "syslog:/socket" or "journald:/socket"'
    SOCKETS = (("syslog", Path("/dev/log")), ("journald", Path("/run/systemd/journal/socket")))

    kind: str
    path: Path | None = None

    @classmethod
    def parse(cls, text: str) -> LogTarget:
        """Read one of the forms.

        Raises:
            ValueError: it is none of them.
        """
        kind, colon, path = text.partition(":")
        if text == "stderr":
            return cls("stderr")
        if kind == "file" and path.startswith("/"):
            return cls("file", Path(path))
        sockets = dict(cls.SOCKETS)
        if kind in sockets and (not colon or path.startswith("/")):
            return cls(kind, Path(path) if colon else sockets[kind])
        raise ValueError(f"{text!r} is no log target")

    def __str__(self) -> str:
        if self.path is None or (self.kind, self.path) in self.SOCKETS:
            return self.kind
        return f"{self.kind}:{self.path}"


@attrs.frozen
class LogSettings:
    """The operational log. SIGHUP reads these again (and reopens a file, for log rotation)."""

    target: LogTarget = LogTarget("stderr")
    format: LogFormat = LogFormat.TEXT
    level: LogLevel = LogLevel.INFO
