"""A key may be certified as often as its holder likes: what is asked about it costs no more for that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine

from pkiserver.store import certificates
from pkiserver.store.certificates import RevocationReason
from pkiserver.store.engines import parse_url, reading_engine
from pkiserver.store.migrate import migrate
from tests.support.steps import steps_of
from tests.support.stored import NOW, issue, new_intent, write

KEY, OTHER = b"k" * 32, b"o" * 32
OFTEN = 2000


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """One key that was certified twice, and one that was so thousands of times, revoked now and then."""
    url = f"sqlite:///{tmp_path_factory.mktemp('one-key') / 'pki.db'}"
    migrate(url)
    write(url, fill)
    return reading_engine(parse_url(url), 1)


def fill(connection: Connection) -> None:
    """Every tenth is revoked, for nothing that is said of the key."""
    for key, times in ((OTHER, 2), (KEY, OFTEN)):
        for number in range(times):
            made = issue(connection, new_intent(spki_sha256=key, subject="CN=router"))
            if number % 10 == 0:
                certificates.revoke(connection, made, reason=RevocationReason.SUPERSEDED, at=NOW)


def steps(connection: Connection, ask: Callable[[bytes], object]) -> tuple[int, int]:
    """Steps of SQLite's machine for the key that was certified twice, and for the other."""
    few, many = (steps_of(connection, lambda _, key=key: ask(key)) for key in (OTHER, KEY))
    return few, many


def test_whether_it_was_compromised_or_known_takes_as_many_steps(engine: Engine) -> None:
    with engine.connect() as connection:
        for ask in (certificates.key_was_compromised, certificates.key_is_new):
            assert not ask(connection, KEY)
            few, many = steps(connection, lambda key, ask=ask: ask(connection, key))
            assert many <= few
        few, many = steps(connection, lambda key: certificates.key_is_in_use(connection, key, now=NOW))
        assert many <= few


def test_whose_it_is_is_seen_in_the_index_without_reading_its_certificates(engine: Engine) -> None:
    def ask(key: bytes) -> bool:
        return certificates.key_is_in_use(connection, key, now=NOW, by_another_than="cn=ROUTER")

    with engine.connect() as connection:
        assert not ask(KEY)
        few, many = steps(connection, ask)
        assert (many - few) / OFTEN < 8  # to read state and end of each as well takes eleven
        assert certificates.key_is_in_use(connection, KEY, now=NOW, by_another_than="CN=switch")


def test_one_compromise_among_thousands_is_found(tmp_path: Path) -> None:
    def compromise(connection: Connection) -> None:
        fill(connection)
        newest = certificates.valid_by_key(connection, KEY, now=NOW, template="device")[0]
        certificates.revoke(connection, newest.id, reason=RevocationReason.KEY_COMPROMISE, at=NOW)

    url = f"sqlite:///{tmp_path / 'pki.db'}"
    migrate(url)
    write(url, compromise)
    engine = reading_engine(parse_url(url), 1)
    with engine.connect() as connection:
        assert certificates.key_was_compromised(connection, KEY)
        assert not certificates.key_was_compromised(connection, OTHER)
    engine.dispose()
