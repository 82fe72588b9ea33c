"""Tells the audit log when a unit has no time to give, and when it has it again."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.logger import Logger

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.timestamping.clockwatch import ClockWatch, TimeNotAvailable, Trouble
from pkiserver.timestamping.unit import TimestampUnit

_log = Logger(namespace="pkiserver.timestamping")


class TimeReporter:
    """Follows each unit's state."""

    def __init__(self, watch: ClockWatch, audit: AuditLog) -> None:
        self._watch = watch
        self._audit = audit
        self._states: dict[str, Trouble | None] = {}
        self._warned = False

    async def run_due(self, units: Iterable[TimestampUnit]) -> None:
        """Look at each unit and write a row where its state has changed; call it every second.

        Raises:
            Unavailable: the audit log cannot be written; the row is tried again at the next call.
        """
        if self._watch.is_trusting and not self._warned:
            self._warned = True
            _log.warn("time-stamps trust this machine's clock without asking anybody (time source 'system')")
        for unit in units:
            error = self._watch.trouble(unit.clock_error)
            now = None if error is None else error.trouble
            if now is Trouble.UNKNOWN or self._states.get(unit.name) == now:
                continue
            await self._audit.record(self._event(unit, error))
            self._states[unit.name] = now
            if error is None:
                _log.info("unit {name}: the time is available again", name=unit.name)
            else:
                _log.error("unit {name}: no time-stamps: {why}", name=unit.name, why=error.text)

    def _event(self, unit: TimestampUnit, error: TimeNotAvailable | None) -> AuditEvent:
        verdict = self._watch.verdict
        details = [
            ("change", "end" if error is None else "begin"),
            ("offset", f"{verdict.offset:.6f}"),
            ("error", f"{verdict.error:.6f}"),
            ("accuracy", f"{unit.accuracy.total_seconds():g}"),
        ]
        if error is not None:
            details += [("trouble", str(error.trouble)), ("why", error.text)]
        outcome = "ok" if error is None else "failed"
        return AuditEvent(AuditKind.TIME, "system", f"timestamp-unit {unit.name}", outcome, details=tuple(details))
