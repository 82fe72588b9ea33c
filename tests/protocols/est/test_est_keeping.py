"""Keys that EST generates and something is to keep: kept with their certificates, or there is neither."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives.serialization import load_der_private_key
from sqlalchemy import Connection, func, select

from pkiserver.authority.templates.model import Template
from pkiserver.foundation.errors import Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.keys.algorithms import PrivateKey
from pkiserver.runtime.engine import Engine
from pkiserver.runtime.services.estport import EstPort
from pkiserver.store.schema.certificates import certificate as certificate_table
from protocols.est.ports import EstSettings
from tests.protocols.est.requests import csr
from tests.protocols.est.support import Site, listener_identity, serve
from tests.support.engines import engine_with, template_text

PASSWORD = '[[evidence]]\nall = ["password"]\n'
KEYGEN = "[est]\nserver_keygen = true\n"
TEXTS = {
    "kept": template_text("kept", PASSWORD, f"escrow = true\n{KEYGEN}"),
    "free": template_text("free", PASSWORD, KEYGEN),
}
ME = ("-u", "me:a long password")
OnReactor = Callable[[Callable[[], Any]], Any]


@attrs.define
class Keeper:
    """Stands where something will keep keys one day: in memory, by the numbers of their certificates."""

    kept: dict[int, PrivateKey] = attrs.Factory(dict)
    away: bool = False

    def claim(self, template: Template, key: PrivateKey) -> Keeping:
        assert template.escrow
        return Keeping(self, key)


@attrs.frozen
class Keeping:
    keeper: Keeper
    key: PrivateKey

    def take(self, connection: Connection, certificate_id: int) -> None:
        assert connection.in_transaction()
        if self.keeper.away:
            raise Unavailable("the keeper is away", retry_after=5, public=True)
        self.keeper.kept[certificate_id] = self.key

    def give_back(self, connection: Connection, certificate_id: int) -> None:
        assert connection.in_transaction()
        del self.keeper.kept[certificate_id]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, on_reactor: OnReactor) -> Iterator[Engine]:
    opened: AbstractAsyncContextManager[Engine] = engine_with(tmp_path_factory.mktemp("engine"), TEXTS)
    made: Engine = on_reactor(opened.__aenter__)
    on_reactor(lambda: made.accounts.create("me", Secret("a long password"), by="tester"))
    yield made
    on_reactor(lambda: opened.__aexit__(None, None, None))


def site(folder: Path, engine: Engine, on_reactor: OnReactor, keeper: Keeper | None) -> Any:
    identity, ca = listener_identity()
    (folder / "ca.crt").write_bytes(ca)
    return serve(EstPort(engine, keeper), EstSettings(), identity, on_reactor)


def test_a_key_is_kept_with_its_certificate_or_there_is_neither(
    engine: Engine, tmp_path: Path, on_reactor: OnReactor
) -> None:
    keeper = Keeper()

    def certificates() -> int:
        count = select(func.count()).select_from(certificate_table)
        found: int = on_reactor(lambda: engine.database.read(lambda connection: connection.execute(count).scalar_one()))
        return found

    with site(tmp_path, engine, on_reactor, keeper) as port:
        est = Site(engine, port, tmp_path)
        before, keeper.away = certificates(), True
        assert b"away" in est.post("kept/serverkeygen", csr(name="kept-key"), *ME, status=503)
        assert (certificates(), keeper.kept) == (before, {})
        keeper.away = False
        body = est.post("kept/serverkeygen", csr(name="kept-key"), *ME)
        key, issued = (part.split(b"\r\n\r\n", 1)[1] for part in body.split(b"\r\n--est-") if b"base64" in part)
        given = load_der_private_key(base64.b64decode(key), None)
        certificate = est.certificate(issued.split(b"\r\n--")[0], "kept-key")
        [kept] = keeper.kept.values()
        assert kept.public_key() == given.public_key() == certificate.public_key()
        est.post("free/serverkeygen", csr(name="not-kept"), *ME)
        assert len(keeper.kept) == 1


def test_where_nothing_keeps_keys_a_template_that_wants_it_generates_none(
    engine: Engine, tmp_path: Path, on_reactor: OnReactor
) -> None:
    with site(tmp_path, engine, on_reactor, None) as port:
        est = Site(engine, port, tmp_path)
        assert b"nothing here keeps keys" in est.post("kept/serverkeygen", csr(name="kept-key"), *ME, status=501)
        est.post("free/serverkeygen", csr(name="kept-key"), *ME)
