"""Whether the database is still the one that this program serves: an upgrade or a restore may come in between."""

from __future__ import annotations

from pathlib import Path

from twisted.logger import Logger

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.runtime.services.exits import EXIT_CONFIGURATION, stop_with
from pkiserver.store.database import Database
from pkiserver.store.migrate import require_current

SECONDS = 10.0
_log = Logger(namespace="pkiserver.node")


class SchemaWatch:
    """Ends a process whose database was upgraded by a newer program, or whose file is another one now.

    What it wrote would break the newer program's rules, or be in a file that nobody reads again.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._file = database.file
        self._opened = None if self._file is None else _identity(self._file)
        self._ended = False

    async def look(self) -> None:
        """One look; raises :class:`Unavailable` where the database is away."""
        try:
            self._require_same_file()  # first: where the file is another one, it may not be readable beside the old log
            await self._database.read(require_current)
        except Rejected as error:
            if not self._ended:
                self._ended = True
                for reason in error.reasons:
                    _log.critical("cannot serve any more: {why}", why=reason.text)
                stop_with(EXIT_CONFIGURATION)

    def _require_same_file(self) -> None:
        if self._file is None:
            return
        try:
            now = _identity(self._file)
        except OSError:  # a file system that is away for a moment; reads tell of that
            return
        if now != self._opened:
            state = "gone" if now is None else "another file now"
            text = f"{self._file} is {state}: stop the server before a database is restored"
            raise Rejected.because(Refusal.CONFIGURATION, text)


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
