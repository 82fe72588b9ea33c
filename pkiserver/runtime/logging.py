"""The operational log: twisted.logger events to the configured target, which SIGHUP may change while running."""

from __future__ import annotations

import warnings

from cryptography.utils import CryptographyDeprecationWarning
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel
from zope.interface import implementer

from pkiserver.runtime.logsettings import LogSettings
from pkiserver.runtime.logsinks import Sink, close_quietly, open_sink
from pkiserver.runtime.logstream import STDERR


def _is_chatter(event: LogEvent) -> bool:
    """Whether Twisted tells of a port or a factory that begins or ends, some of it without a level."""
    namespace = event.get("log_namespace", "")
    if namespace == "log_legacy":
        return not event.get("isError")
    return "factory" in event and namespace.startswith("twisted.")


def pass_over_remarks() -> None:
    """Let cryptography's remarks on certificates that clients send be neither logged nor remembered, from now on.

    What is wrong with such a certificate is told where it is refused. Python keeps a note of every warning that it has
    shown; these ones have a number of the client's choice in them.
    """
    warnings.filterwarnings("ignore", category=CryptographyDeprecationWarning)
    warnings.filterwarnings("ignore", message="Attribute's length must be")


@implementer(ILogObserver)
class NodeLog:
    """The process's log observer. Never raises: what cannot be written is counted, and told once writing works again.

    Args:
        settings: Target, form and level.
        worker: The process's name in each line: ``main``, ``0``, ``1``, ...
        stderr: The descriptor of standard error.

    Raises:
        OSError: a log file cannot be opened.
    """

    def __init__(self, settings: LogSettings, worker: str, *, stderr: int = STDERR) -> None:
        self._worker = worker
        self._stderr = stderr
        self._settings = settings
        self._sink: Sink = open_sink(settings, worker, self._stderr)
        self._minimum = LogLevel.levelWithName(settings.level.value)
        self.lost = 0
        """Events that could not be written."""
        self.untold = 0
        """Of these, those that the log does not yet say so of: the target takes nothing now."""
        self._own = Logger(namespace="pkiserver.log", observer=self)

    def __call__(self, event: LogEvent) -> None:
        """Write an event that is severe enough."""
        level = event.get("log_level")
        if _is_chatter(event):
            level = LogLevel.debug
        if level is not None and level < self._minimum:
            return
        try:
            self._sink.write(event)
        except (OSError, ValueError):
            # A log that cannot be written must not stop the server; the audit log, which must, is another matter.
            self.lost += 1
            self.untold += 1
        else:
            if self.untold:
                untold, self.untold = self.untold, 0
                self._own.warn("{count} log events before the last one could not be written", count=untold)

    @property
    def target(self) -> str:
        """Where events go."""
        return str(self._settings.target)

    def change(self, settings: LogSettings) -> str | None:
        """Use other settings from now on, or the same ones with a log file opened anew.

        Returns:
            What changed, in words; None when nothing did.

        Raises:
            OSError: the new log file cannot be opened; the old one stays in use.
        """
        sink = open_sink(settings, self._worker, self._stderr)
        old, self._sink = self._sink, sink
        close_quietly(old)
        before, self._settings = self._settings, settings
        self._minimum = LogLevel.levelWithName(settings.level.value)
        changes = [
            f"{name} {old_value} -> {new_value}"
            for name, old_value, new_value in (
                ("target", before.target, settings.target),
                ("format", before.format.value, settings.format.value),
                ("level", before.level.value, settings.level.value),
            )
            if old_value != new_value
        ]
        return ", ".join(changes) or None

    def close(self) -> None:
        """Close a file or socket."""
        close_quietly(self._sink)
