"""Whether the node lives and is ready, each thing said by name."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Sequence

import attrs
from twisted.internet.defer import Deferred, TimeoutError, gatherResults  # noqa: A004  # Twisted's name
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pkiserver.foundation.errors import PkiError

_log = Logger(namespace="pkiserver.health")
CHECK_SECONDS = 3.0
"""A check that takes longer has failed: who asks for readiness must get an answer."""


class Health(enum.StrEnum):
    """How one thing is."""

    OK = "ok"
    WARNING = "warning"
    """It works, but somebody should look."""
    FAILED = "failed"


@attrs.frozen
class Finding:
    """What a check found about one thing, such as ``database`` or ``ca:issuing``."""

    name: str
    health: Health
    text: str
    """One line for an administrator; nothing secret."""


Check = Callable[[], Awaitable[Sequence[Finding]]]


@attrs.frozen
class NamedCheck:
    """A check and the name under which its own failure is told."""

    name: str
    run: Check


async def run_checks(checks: Sequence[NamedCheck], reactor: IReactorTime) -> tuple[Finding, ...]:
    """Run all checks at once, none longer than :data:`CHECK_SECONDS`; never raises for a check's failure."""
    done = [Deferred.fromCoroutine(_guarded(check, reactor)) for check in checks]
    results = await gatherResults(done)
    return tuple(finding for findings in results for finding in findings)


async def _guarded(check: NamedCheck, reactor: IReactorTime) -> Sequence[Finding]:
    async def run() -> Sequence[Finding]:
        return await check.run()

    deferred = Deferred.fromCoroutine(run())
    deferred.addTimeout(CHECK_SECONDS, reactor)
    try:
        return await deferred
    except TimeoutError:
        text = f"no answer within {CHECK_SECONDS:g} s"
    except PkiError as error:
        text = str(error)
    except Exception:  # noqa: BLE001  # a broken check is a finding; the other findings must still be told
        _log.failure("health check {check} failed", check=check.name)
        text = "the check itself failed; see the log"
    return [Finding(check.name, Health.FAILED, text)]


def is_ready(findings: Sequence[Finding]) -> bool:
    """Whether requests should be sent here."""
    return all(finding.health is not Health.FAILED for finding in findings)
