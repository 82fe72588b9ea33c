"""A tiny application in place of the engine, for tests of how processes live and die.

``python -m tests.support.standin`` is its worker; ``tac`` writes the twistd file that serves it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.task import deferLater

from pkiserver.foundation.errors import Refusal, Rejected, Unavailable
from pkiserver.runtime.config import NodeSettings
from pkiserver.runtime.health import Finding, Health, NamedCheck
from pkiserver.runtime.services.application import Application
from pkiserver.runtime.services.jobs import Job
from protocols.web.values import Method, Request, Response, Route

WORKER = (sys.executable, "-m", "tests.support.standin")


@asynccontextmanager
async def open_application(settings: NodeSettings, _worker: str) -> AsyncIterator[Application]:
    """Routes that say who answers, wait, block the reactor or crash; files in the state folder steer it."""
    state = settings.state_dir
    if (state / "away").exists():
        raise Unavailable("the database is away")
    if (state / "refuse").exists():
        raise Rejected.because(Refusal.CONFIGURATION, "the schema is not this program's")

    async def who(_request: Request) -> Response:
        return Response(200, f"{os.getpid()} {os.geteuid()} {os.getegid()}".encode())

    async def slow(request: Request) -> Response:
        await deferLater(reactor, float(request.query))  # type: ignore[arg-type]
        return Response(200, b"done")

    async def block(request: Request) -> Response:
        import time

        time.sleep(float(request.query))  # noqa: ASYNC251  # the point of it
        return Response(200, b"blocked")

    async def check() -> list[Finding]:
        broken = (state / "broken").exists()
        return [Finding("token:a", Health.FAILED if broken else Health.OK, "it is away" if broken else "it signs")]

    get = frozenset({Method.GET})
    routes = (
        Route("who", "/who", get, who),
        Route("slow", "/slow", get, slow),
        Route("block", "/block", get, block),
    )

    async def job() -> None:
        with (state / "job").open("a") as file:
            file.write("x")
        if (state / "broken").exists():
            raise Unavailable("no token for the job")

    yield Application(http=routes, https=routes, checks=(NamedCheck("token", check),), jobs=(Job("count", 0.1, job),))
    (state / f"closed-{os.getpid()}").touch()


def tac(config: Path) -> str:
    """A twistd file."""
    return (
        "from pathlib import Path\n"
        "from twisted.application.service import Application\n"
        "from pkiserver.runtime.services import make_service\n"
        "from tests.support.standin import WORKER, open_application\n"
        "application = Application('pkiserver')\n"
        f"make_service(Path({str(config)!r}), open_application, WORKER).setServiceParent(application)\n"
    )


if __name__ == "__main__":
    from pkiserver.runtime.services.worker import main

    sys.exit(main(sys.argv[1:], open_application))
