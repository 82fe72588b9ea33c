"""Where log lines go. No sink ever waits: what a full pipe or socket does not take is counted and told later."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path
from typing import Protocol

from twisted.logger import LogEvent

from pkiserver.runtime.logformat import as_json, as_text, escape, fields_of, message_of, priority, traceback_of
from pkiserver.runtime.logsettings import LogFormat, LogSettings
from pkiserver.runtime.logstream import LineWriter, StandardError

FACILITY_DAEMON = 3
IDENTIFIER = "pkiserver"


class Sink(Protocol):
    """Takes events."""

    def write(self, event: LogEvent) -> None:
        """Write one event; raises :class:`OSError` when it cannot be."""

    def close(self) -> None:
        """Release what is open."""


class StreamSink:
    """Lines to a file or to standard error; each line is one ``write``, so that workers share it."""

    def __init__(self, writer: LineWriter | StandardError, settings: LogSettings, worker: str) -> None:
        self._writer = writer
        self._format = as_json if settings.format is LogFormat.JSON else as_text
        self._worker = worker

    def write(self, event: LogEvent) -> None:
        """One line."""
        self._writer.write(self._format(event, self._worker))

    def close(self) -> None:
        """Close the file; standard error itself stays open."""
        self._writer.close()


class _DatagramSink:
    """Datagrams to a UNIX socket, connected again when its other end was restarted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def _send(self, payload: bytes) -> None:
        for attempt in (1, 2):
            try:
                if self._socket is None:
                    self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                    self._socket.connect(str(self._path))
                self._socket.send(payload)
            except BlockingIOError:
                raise
            except OSError:
                self.close()
                if attempt == 2:
                    raise
            else:
                return

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class SyslogSink(_DatagramSink):
    """The local syslog daemon (the form that /dev/log takes everywhere: RFC 3164 without time and host)."""

    def __init__(self, path: Path, settings: LogSettings, worker: str) -> None:
        super().__init__(path)
        self._json = settings.format is LogFormat.JSON
        self._worker = worker

    def write(self, event: LogEvent) -> None:
        """One datagram of at most 8 KiB."""
        text = as_json(event, self._worker) if self._json else _one_line(event, self._worker)
        head = f"<{FACILITY_DAEMON * 8 + priority(event)}>{IDENTIFIER}[{os.getpid()}]: "
        self._send((head + text).encode(errors="backslashreplace")[:8192])


class JournaldSink(_DatagramSink):
    """systemd's journal by its native protocol: every plain field of an event becomes a field of the entry."""

    def __init__(self, path: Path, worker: str) -> None:
        super().__init__(path)
        self._worker = worker

    def write(self, event: LogEvent) -> None:
        """One entry."""
        fields = {
            "MESSAGE": message_of(event),
            "PRIORITY": str(priority(event)),
            "SYSLOG_IDENTIFIER": IDENTIFIER,
            "PKISERVER_WORKER": self._worker,
            "PKISERVER_NAMESPACE": str(event.get("log_namespace", "-")),
        }
        for name, value in fields_of(event):
            if name.isascii() and name.replace("_", "").isalnum():
                fields.setdefault(f"PKISERVER_{name.upper()}", str(value))
        if (traceback := traceback_of(event)) is not None:
            fields["PKISERVER_TRACEBACK"] = traceback
        self._send(b"".join(_journal_field(name, value) for name, value in fields.items()))


def _journal_field(name: str, value: str) -> bytes:
    """One field; a value with line ends in it is written with its length, so that it cannot become another field."""
    octets = value.encode(errors="backslashreplace")
    if b"\n" in octets:
        return name.encode() + b"\n" + struct.pack("<Q", len(octets)) + octets + b"\n"
    return name.encode() + b"=" + octets + b"\n"


def _one_line(event: LogEvent, worker: str) -> str:
    text = f"[{worker}] {event.get('log_namespace', '-')}: {escape(message_of(event).strip())}"
    if isinstance(request_id := event.get("request_id"), str):
        text += f" request_id={escape(request_id)}"
    if (traceback := traceback_of(event)) is not None:
        text += f" | {escape(traceback)}"
    return text


def open_sink(settings: LogSettings, worker: str, stderr: int) -> Sink:
    """The sink that the settings name; ``stderr`` is the descriptor of standard error.

    Raises:
        OSError: a log file cannot be opened. (A socket is connected when first used, and again when need be.)
    """
    target = settings.target
    if target.kind == "stderr" or target.path is None:
        return StreamSink(StandardError(stderr), settings, worker)
    if target.kind == "file":
        return StreamSink(LineWriter.appending(target.path), settings, worker)
    if target.kind == "syslog":
        return SyslogSink(target.path, settings, worker)
    return JournaldSink(target.path, worker)


def close_quietly(sink: Sink) -> None:
    """Close a sink that may already be broken."""
    with contextlib.suppress(OSError, ValueError):
        sink.close()
