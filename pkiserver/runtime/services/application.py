"""What one worker serves, seen from the service tree: routes, checks, counts. Composition fills it in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import attrs
from prometheus_client.registry import Collector
from twisted.web.resource import IResource

from pkiserver.runtime.config import NodeSettings
from pkiserver.runtime.health import NamedCheck
from pkiserver.runtime.services.jobs import Job
from protocols.addressbook.service import Service as LdapService
from protocols.web.values import Route


@attrs.frozen
class Application:
    """The open engine and every protocol over it."""

    http: tuple[Route, ...] = ()
    https: tuple[Route, ...] = ()
    checks: tuple[NamedCheck, ...] = ()
    collectors: tuple[Collector, ...] = ()
    jobs: tuple[Job, ...] = ()
    api: IResource | None = None
    ldap: LdapService | None = None


OpenApplication = Callable[[NodeSettings, str], AbstractAsyncContextManager[Application]]
"""Opens it for a node's settings and a worker's name, and closes it.

Raises:
    Rejected: the settings or the database forbid serving at all.
    Unavailable: something is away; opening is tried again.
"""
