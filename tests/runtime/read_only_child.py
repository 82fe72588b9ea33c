"""A process that serves what a folder's database has, and hands out a code for each line that it is told."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path

from twisted.internet.threads import deferToThread

from pkiserver.foundation.errors import Unavailable
from pkiserver.runtime.engine import open_engine
from pkiserver.runtime.services.checks import database_check
from tests.support.children import run
from tests.support.engines import engine_settings


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


async def main(folder: str) -> None:
    async with open_engine(engine_settings(Path(folder))) as engine:
        check = database_check(engine.database, lambda: engine.road.recovery.trouble)
        say(" ".join(one.name for one in engine.authorities.list()))
        while await deferToThread(sys.stdin.readline):
            try:
                await engine.codes.create(
                    template="device", subject=None, sans=(), lifetime=timedelta(hours=1), by="tester"
                )
                await engine.road.recovery.give_sign()
            except Unavailable as error:
                say(f"unavailable: {error}")
            (found,) = await check.run()
            say(f"{found.health}: {found.text}")


if __name__ == "__main__":
    run(main)
