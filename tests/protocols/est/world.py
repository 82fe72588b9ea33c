"""EST over the real engine: SoftHSM, SQLite, two authorities, templates of every rule, and two accounts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import attrs
import pytest

from pkiserver.foundation.secret import Secret
from pkiserver.runtime.config import DatabaseSettings, NodeSettings
from pkiserver.runtime.engine import Engine, open_engine
from pkiserver.runtime.services.estport import EstPort
from pkiserver.store.migrate import migrate
from protocols.est.ports import EstSettings
from tests.protocols.est.support import Site, listener_identity, serve
from tests.support.devicetemplates import device_template
from tests.support.engines import fill
from tests.support.keys import softhsm_token

RULES = """
[[evidence]]
all = ["password"]
groups = ["devices"]
[[evidence]]
all = ["code"]
"""
APPROVED = """
[[evidence]]
all = ["password"]
approval = true
"""
CROWDED = """
[[evidence]]
all = ["anonymous"]
approval = true
waiting = 2
waiting_each = 1
"""
BOTH = """
[[evidence]]
all = ["password", "client_certificate"]
"""


def text(name: str, rules: str, window: str = "120d") -> str:
    """The TOML of a device template."""
    renewal = f'[renewal]\nwindow = "{window}"\n'
    keys = ("ec-p256", "rsa-2048")
    return device_template(name, keys=keys, head=renewal, more=f"[est]\nserver_keygen = true\n{rules}")


@attrs.frozen
class World:
    site: Site
    engine: Engine
    run: Callable[[Callable[[], Any]], Any]

    def one(self, call: Any) -> Any:
        async def wait() -> Any:
            return await call

        return self.run(wait)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, on_reactor: Callable[[Any], Any]) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("walk")
    token = softhsm_token(folder)
    database = f"sqlite:///{folder / 'db'}"
    migrate(database)
    settings = NodeSettings(database=DatabaseSettings(url=database), state_dir=folder, key_store=(token,), node="walk")
    opened: AbstractAsyncContextManager[Engine] = open_engine(settings)
    engine: Engine = on_reactor(opened.__aenter__)

    async def begin() -> None:
        agreeing = text("agreeing", RULES).replace('"digital_signature"', '"digital_signature", "key_agreement"')
        texts = {
            "device": text("device", RULES),
            "approved": text("approved", APPROVED),
            "both": text("both", BOTH),
            "crowded": text("crowded", CROWDED),
            "early": text("early", RULES, "1d"),
            "agreeing": agreeing.replace('"ec-p256", "rsa-2048"', '"ec-p256"'),
        }
        await fill(engine, token.name, texts, subject="CN=Walk {},O=Example,C=CH")
        for name, groups in (("me", {"devices"}), ("stranger", set())):
            await engine.accounts.create(name, Secret("a long password"), groups=frozenset(groups), by="tester")

    on_reactor(begin)
    identity, ca = listener_identity()
    (folder / "ca.crt").write_bytes(ca)
    settings_of_est = EstSettings(default_template="device")
    with serve(EstPort(engine), settings_of_est, identity, on_reactor) as port:
        yield World(Site(engine, port, folder), engine, on_reactor)
    on_reactor(lambda: opened.__aexit__(None, None, None))
