"""Everything about authorities that are not ours that a process has, put together once."""

from __future__ import annotations

import attrs

from pkiserver.audit import AuditLog
from pkiserver.authority.status.source import StatusSource
from pkiserver.authority.status.turns import Turns
from pkiserver.authority.validation.feeds import FeedKeeper
from pkiserver.authority.validation.importing import Importer
from pkiserver.authority.validation.library import ForeignAuthorities
from pkiserver.authority.validation.responders import ForeignResponders
from pkiserver.authority.validation.sources import BothSources
from pkiserver.foundation.clock import Clock
from pkiserver.keys.keyring import KeyRing
from pkiserver.store.database import Database


@attrs.frozen
class ValidationServices:
    """The room's services.

    Attributes:
        authorities: The authorities, and the source of their status; call ``refresh`` every second or two.
        importer: Takes lists in.
        feeds: The periodic task that fetches lists; call ``run_due`` every few seconds.
        responders: Keys and certificates of responders.
    """

    authorities: ForeignAuthorities
    importer: Importer
    feeds: FeedKeeper
    responders: ForeignResponders

    def beside(self, own: StatusSource) -> StatusSource:
        """Our own authorities' status and that of the others, as one source."""
        return BothSources(own, self.authorities)


def validation_services(
    *, database: Database, audit: AuditLog, keys: KeyRing, clock: Clock, holder: str
) -> ValidationServices:
    """The services of one process; ``holder`` names it in leases."""
    authorities = ForeignAuthorities(database, keys, clock)
    importer = Importer(database, audit, clock)
    return ValidationServices(
        authorities=authorities,
        importer=importer,
        feeds=FeedKeeper(database, authorities, importer, Turns(database, clock, holder), clock),
        responders=ForeignResponders(database, keys, audit, clock),
    )
