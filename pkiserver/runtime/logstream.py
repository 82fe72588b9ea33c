"""An open descriptor to which lines are written without ever waiting for whoever reads the other end.

A pipe whose reader stands still, a stopped terminal or a stalled journal takes no more after some 64 KiB. The log must
not hold the reactor then: every write ends at once, with what was taken of it.
"""

from __future__ import annotations

import os
import socket
import stat

STDERR = 2


class LineWriter:
    """Writes whole lines, as far as the other end takes them; the rest of a line comes before the next one."""

    def __init__(self, descriptor: int) -> None:
        """Take over a descriptor, which :meth:`close` closes; opened for appending, so that processes share a file."""
        self._descriptor = descriptor
        self._socket = socket.socket(fileno=descriptor) if stat.S_ISSOCK(os.fstat(descriptor).st_mode) else None
        self._rest = b""

    @classmethod
    def beside(cls, descriptor: int) -> LineWriter:
        """A writer to what is open already and belongs to others as well, such as standard error.

        Whether a descriptor waits is said of the open file, which other processes have too; so a pipe or a terminal is
        opened once more. Where this process may not (it has become another user), all of them stop waiting.
        """
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISFIFO(mode) and not os.isatty(descriptor):
            return cls(os.dup(descriptor))
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            return cls(os.open(f"/proc/self/fd/{descriptor}", flags))
        except OSError:
            os.set_blocking(descriptor, False)
            return cls(os.dup(descriptor))

    @classmethod
    def appending(cls, path: str | os.PathLike[str]) -> LineWriter:
        """A writer to the end of a file, made with mode 0640 where there is none.

        Raises:
            OSError: it cannot be opened; a named pipe that nobody reads is refused too.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        return cls(os.open(path, flags, 0o640))

    def write(self, line: str) -> None:
        """Write a line, to which the line end is added, as UTF-8.

        Raises:
            OSError: nothing of it was written; :class:`BlockingIOError` where the other end takes nothing now.
        """
        if self._rest:
            self._rest = self._rest[self._send(self._rest) :]
            if self._rest:
                raise BlockingIOError
        octets = (line + "\n").encode(errors="backslashreplace")
        self._rest = octets[self._send(octets) :]

    def _send(self, octets: bytes) -> int:
        if self._socket is not None:
            return self._socket.send(octets, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        return os.write(self._descriptor, octets)

    def close(self) -> None:
        """Close the descriptor."""
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self._descriptor)


class StandardError:
    """A writer to standard error, whatever that is by now: a process that becomes a daemon lets go of its terminal."""

    def __init__(self, descriptor: int = STDERR) -> None:
        self._descriptor = descriptor
        self._known = self._identity()
        self._writer = LineWriter.beside(descriptor)

    def _identity(self) -> tuple[int, int, int]:
        found = os.fstat(self._descriptor)
        return found.st_dev, found.st_ino, found.st_rdev

    def write(self, line: str) -> None:
        """Write a line; raises as :meth:`LineWriter.write`."""
        found = self._identity()
        if found != self._known:
            writer = LineWriter.beside(self._descriptor)
            self._writer.close()
            self._writer, self._known = writer, found
        self._writer.write(line)

    def close(self) -> None:
        """Let go of it; the process's own descriptor stays open."""
        self._writer.close()
