"""EST over the real engine: SoftHSM, SQLite, two authorities, templates of every rule, and two accounts."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import attrs
import pytest

from pkiserver.authority.lifecycle.ceremonies import KeyChoice, NewAuthority
from pkiserver.authority.lifecycle.certify import Actor
from pkiserver.authority.lifecycle.profile import CaProfile, parse_name
from pkiserver.authority.settings import AuthoritySettings, Publication
from pkiserver.foundation.secret import Secret
from pkiserver.keys.algorithms import KeyType
from pkiserver.runtime.config import DatabaseSettings, NodeSettings
from pkiserver.runtime.engine import Engine, open_engine
from pkiserver.runtime.services.estport import EstPort
from pkiserver.store.authority import templates
from pkiserver.store.migrate import migrate
from protocols.est.ports import EstSettings
from tests.protocols.est.support import Site, listener_identity, serve
from tests.support.keys import softhsm_token

ACTOR = Actor("tester", "walk")
PUBLICATION = AuthoritySettings(publication=Publication(base_url="http://pki.example"))
DEVICE = """
name = "device"
issuer = "issuing"
keys = ["ec-p256", "rsa-2048"]
protocols = ["est"]
{more}
[validity]
duration = "90d"
[renewal]
window = "{window}"
[[subject.parts]]
attribute = "common_name"
from = "request"
required = true
[[sans.parts]]
kind = "dns"
from = "request"
[key_usage]
usages = ["digital_signature"]
[extended_key_usage]
usages = ["client_auth"]
[est]
server_keygen = true
"""
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
    return DEVICE.format(more="", window=window).replace('"device"', f'"{name}"', 1) + rules


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

    async def fill() -> None:
        start = engine.clock.now()
        for name, issuer in (("root", None), ("issuing", "root")):
            key = KeyChoice(name=f"{name}-{secrets.token_hex(4)}", key_type=KeyType.parse("ec-p256"), store=token.name)
            new = NewAuthority(name, parse_name(f"CN=Walk {name},O=Example,C=CH"), CaProfile(), key, PUBLICATION)
            if issuer is None:
                await engine.road.ceremonies.create_root(new, ACTOR)
            else:
                await engine.road.ceremonies.create_subordinate(new, ACTOR, issuer=issuer)
        for name, rules, window in (
            ("device", RULES, "120d"),
            ("approved", APPROVED, "120d"),
            ("both", BOTH, "120d"),
            ("crowded", CROWDED, "120d"),
            ("early", RULES, "1d"),
            ("agreeing", RULES, "120d"),
        ):
            toml = text(name, rules, window)
            if name == "agreeing":
                toml = toml.replace('"digital_signature"', '"digital_signature", "key_agreement"')
                toml = toml.replace('"ec-p256", "rsa-2048"', '"ec-p256"')

            await engine.database.write(lambda c, n=name, t=toml: templates.put(c, n, t, now=start, expected=None))
        await engine.refresh()
        assert engine.templates.problems() == ()
        for name, groups in (("me", {"devices"}), ("stranger", set())):
            await engine.accounts.create(name, Secret("a long password"), groups=frozenset(groups), by="tester")

    on_reactor(fill)
    identity, ca = listener_identity()
    (folder / "ca.crt").write_bytes(ca)
    settings_of_est = EstSettings(default_template="device")
    with serve(EstPort(engine), settings_of_est, identity, on_reactor) as port:
        yield World(Site(engine, port, folder), engine, on_reactor)
    on_reactor(lambda: opened.__aexit__(None, None, None))
