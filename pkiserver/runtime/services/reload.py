"""SIGHUP: the settings are read again; TLS identities and the log follow them, at once or not at all."""

from __future__ import annotations

from pathlib import Path

import attrs
from twisted.logger import Logger

from pkiserver.foundation.errors import Rejected
from pkiserver.runtime.config import NodeSettings
from pkiserver.runtime.configfile import load_settings
from pkiserver.runtime.logging import NodeLog
from pkiserver.runtime.services.tlsfiles import TlsFiles

_log = Logger(namespace="pkiserver.reload")
LIVE = {"log"}
"""Parts of the settings that are followed while running; TLS files are followed too, by their content."""


class Reloader:
    """Follows the settings file of one process.

    Args:
        path: The file.
        settings: What it said at the start.
        log: The process's log; None when another program (a test) has its own.
        tls: The TLS listener's files, and by keyword the address book's and the management API's.
    """

    def __init__(
        self,
        path: Path,
        settings: NodeSettings,
        log: NodeLog | None,
        tls: TlsFiles | None,
        *,
        ldap_tls: TlsFiles | None = None,
        api_tls: TlsFiles | None = None,
    ) -> None:
        self._path = path
        self._settings = settings
        self._log = log
        self._tls = tls
        self._ldap_tls = ldap_tls
        self._api_tls = api_tls

    def reload(self) -> None:
        """Read everything again and say in one log line what changed, or why nothing did."""
        try:
            settings = load_settings(self._path)
        except Rejected as error:
            _log.error("reload: the settings are unusable and the old ones stay: {why}", why=str(error))
            return
        changes: list[str] = []
        problems: list[str] = []
        self._follow_tls(settings, changes, problems)
        self._follow_log(settings, changes, problems)
        later = [
            a.name
            for a in attrs.fields(NodeSettings)
            if a.name not in LIVE and getattr(settings, a.name) != getattr(self._settings, a.name)
        ]
        if later:
            problems.append(f"a restart is needed for: {', '.join(later)}")
        text = f"reload: changed: {'; '.join(changes) or 'nothing'}"
        if problems:
            _log.warn("{text}; {problems}", text=text, problems="; ".join(problems))
        else:
            _log.info("{text}", text=text)

    def _follow_tls(self, settings: NodeSettings, changes: list[str], problems: list[str]) -> None:
        followed = (
            (self._tls, settings.https.tls),
            (self._ldap_tls, settings.ldap_tls),
            (self._api_tls, settings.api.tls),
        )
        for files, wanted in followed:
            if files is None or wanted is None:
                continue
            try:
                if (changed := files.reload(wanted)) and changed not in changes:
                    changes.append(changed)
            except Rejected as error:
                problems.append(f"the old TLS certificate stays: {error}")

    def _follow_log(self, settings: NodeSettings, changes: list[str], problems: list[str]) -> None:
        if self._log is None:
            return
        try:
            if changed := self._log.change(settings.log):
                changes.append(f"log {changed}")
        except OSError as error:
            problems.append(f"the old log stays: {error}")
        else:
            self._settings = attrs.evolve(self._settings, log=settings.log)
