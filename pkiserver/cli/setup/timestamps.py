"""A time-stamping unit to try."""

from __future__ import annotations

from pkiserver.cli.setup.authorities import ACTOR
from pkiserver.cli.setup.layout import ISSUING
from pkiserver.runtime.engine import Engine
from pkiserver.runtime.services.timestamps import services_of
from pkiserver.timestamping.administration import UnitAdministration
from pkiserver.timestamping.unit import TimestampUnit

UNIT = "demo"
POLICY = "2.999.3161.1"
"""Below the arc that is for examples (ITU-T X.660): a real unit has a policy of its own."""


async def create_unit(engine: Engine) -> None:
    """A P-256 unit that ``/tsa`` means, with its key and certificate."""
    unit = TimestampUnit(
        name=UNIT,
        issuer=ISSUING,
        policies=(POLICY,),
        description="Made by quickstart, to try. Its policy is an example's, its clock is trusted as it is.",
        default=True,
        subject="CN=pkiserver Time-stamping Unit,O=pkiserver",
    )
    await UnitAdministration(engine.database, engine.audit, engine.clock).create(unit, by=ACTOR.name)
    services = services_of(engine, "quickstart")
    await services.library.refresh()
    await services.keeper.renew(unit)
