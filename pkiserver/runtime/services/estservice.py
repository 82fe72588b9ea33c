"""EST as the composition wants it: routes, and what to remark on its settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pkiserver.runtime.engine import Engine
from pkiserver.runtime.health import NamedCheck
from pkiserver.runtime.protocolsettings import EstNodeSettings
from pkiserver.runtime.services.estport import EstPort
from pkiserver.runtime.services.handover import est_settings
from pkiserver.runtime.services.jobs import Job
from pkiserver.runtime.services.remarks import Remarks, missing_default
from protocols.est.edge import routes
from protocols.web.values import Route

REMARKS_SECONDS = 60.0


class Est:
    """EST over an engine."""

    def __init__(self, engine: Engine, settings: EstNodeSettings) -> None:
        self._engine = engine
        self._port = EstPort(engine)
        self._settings = est_settings(settings)
        self._remarks = Remarks("est", self._look, lambda: f"{len(self._port.templates())} templates")

    def routes(self) -> Sequence[Route]:
        """For TLS."""
        return routes(self._port, self._settings)

    def jobs(self) -> tuple[Job, ...]:
        """Remarks in the log."""
        return (Job("est-remarks", REMARKS_SECONDS, self._remarks.tell),)

    def check(self) -> NamedCheck:
        """Whether the labels that the settings name are there."""
        return self._remarks.check()

    def _look(self) -> Iterable[str]:
        labels = {one.name for one in self._port.templates()}
        yield from missing_default("est", self._settings.default_template, labels)
        labels |= {one.name for one in self._engine.authorities.list()}
        for label in self._settings.base64_by_label.keys() - labels:
            yield f"[est] base64_by_label: {label!r} is no template that EST may use, and no authority"
