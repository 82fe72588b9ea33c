"""Limits on connections, their life and their operations; each is counted."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater

from pkiserver.runtime.config import LdapSettings
from pkiserver.runtime.ldapsettings import CallerSettings, LdapLimitSettings
from protocols.addressbook.errors import LimitHit
from tests.protocols.addressbook import wire
from tests.protocols.addressbook.support import BASE, Site
from tests.protocols.addressbook.wire import equality, receive, search, tlv

reactor: Any = _reactor
DONE, NOTICE = 0x65, 0x78
OPERATIONS, CONNECTIONS = 3, 8


@pytest.fixture(scope="module")
def ldap_settings() -> LdapSettings:
    few = CallerSettings(searches_per_minute=60, results_per_hour=1000)
    limits = LdapLimitSettings(
        message=timedelta(seconds=1),
        lifetime=timedelta(seconds=3),
        operation=timedelta(seconds=1),
        operations=OPERATIONS,
        connections=CONNECTIONS,
    )
    return LdapSettings(base=BASE, anonymous=few, limits=limits)


def counted(site: Site, hit: LimitHit) -> Callable[[], int]:
    before = site.service.metrics.limit_count(hit)
    return lambda: site.service.metrics.limit_count(hit) - before


def until(wanted: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not wanted():
        assert time.monotonic() < end
        time.sleep(0.05)


def ask(number: int) -> bytes:
    return search(equality("mail", f"nobody{number}@example.com"), number=number)


@pytest.fixture
def slow(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The store takes two seconds for an answer; who was looked for."""
    asked: list[str] = []

    async def find(address: str) -> tuple[Any, ...]:
        asked.append(address)
        await deferLater(reactor, 2)
        return ()

    monkeypatch.setattr(site.service.book, "find", find)
    return asked


def test_operations_beyond_their_number_wait_and_each_has_its_time(site: Site, slow: list[str]) -> None:
    waits = counted(site, LimitHit.OPERATIONS)
    with site.connect() as one:
        one.sendall(b"".join(map(ask, range(1, OPERATIONS + 2))))
        answers = receive(one, OPERATIONS)
        assert sorted(answers) == [(number, DONE, 3) for number in range(1, OPERATIONS + 1)], "timeLimitExceeded"
        assert receive(one, 1) == [(OPERATIONS + 1, DONE, 3)]
    assert len(slow) == OPERATIONS + 1
    assert waits() == 1


def test_a_client_may_ask_for_less_time(site: Site, slow: list[str]) -> None:
    site.search("(mail=nobody@example.com)", options=("-l", "1"), rc=3)
    assert slow == ["nobody@example.com"]


def test_unbind_ends_what_is_under_way(site: Site, slow: list[str]) -> None:
    with site.connect() as one:
        one.sendall(ask(1) + wire.UNBIND)
        assert receive(one) == []
    assert slow == ["nobody1@example.com"]


def test_who_unbinds_over_tls_and_goes_is_no_longer_counted(site: Site) -> None:
    """Also one that goes a while after its goodbye, and without TLS's own; well before the stall time of 30 s."""
    until(lambda: site.service.metrics.open == 0)
    with (
        socket.create_connection(("127.0.0.1", site.ldaps), timeout=10) as plain,
        ssl.create_default_context(cafile=str(site.folder / "ca.pem")).wrap_socket(
            plain, server_hostname="localhost", suppress_ragged_eofs=True
        ) as one,
    ):
        one.sendall(wire.UNBIND)
        assert one.recv(1) == b""
    until(lambda: site.service.metrics.open == 0)


def test_a_connection_has_its_lifetime(site: Site) -> None:
    ended = counted(site, LimitHit.LIFETIME)
    with site.connect() as one:
        for number in range(1, 1000):
            try:
                one.sendall(ask(number))
            except OSError:
                break
            if receive(one, 1)[:1] in ([], [(0, NOTICE, 52)]):
                break
            time.sleep(0.2)
    assert ended() == 1


def test_a_handshake_that_does_not_come_is_cut(site: Site) -> None:
    cut = counted(site, LimitHit.HANDSHAKE)
    with (
        socket.create_connection(("127.0.0.1", site.ldaps), timeout=10) as one,
        contextlib.suppress(ConnectionResetError),
    ):
        assert one.recv(1) == b""
    assert cut() == 1


def test_a_process_has_so_many_connections(site: Site) -> None:
    turned_away = counted(site, LimitHit.CONNECTIONS)
    held = [site.connect() for _ in range(CONNECTIONS + 4)]
    try:
        until(lambda: turned_away() == 4)
    finally:
        for one in held:
            one.close()
    until(lambda: site.service.metrics.open == 0)


def test_what_is_no_message_and_what_is_not_allowed_are_counted(site: Site) -> None:
    malformed, refused = counted(site, LimitHit.MALFORMED), counted(site, LimitHit.NOT_ALLOWED)
    with site.connect() as one:
        one.sendall(search(tlv(0x87, b"mail")))
        assert receive(one, 1) == [(1, DONE, 0)]
        one.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert receive(one)[-1][:2] == (0, NOTICE)
    assert (malformed(), refused()) == (1, 1)


def test_rates_of_searches_and_of_failed_binds_are_counted(site: Site) -> None:
    searches, binds = counted(site, LimitHit.SEARCH_RATE), counted(site, LimitHit.BIND_RATE)
    with site.connect() as one:
        for number in range(1, 40):
            one.sendall(ask(number))
        codes = [code for _, _, code in receive(one, 39)]
    assert codes.count(51) == searches() > 0
    environment = {"LDAPTLS_CACERT": str(site.folder / "ca.pem")}
    for _ in range(40):
        said = site.run(
            *("ldapwhoami", "-x", "-ZZ", "-H", f"ldap://localhost:{site.ldap}", "-D", "uid=nobody," + BASE, "-w", "x"),
            rc=None,
            **environment,
        )
        if "(51)" in said:
            break
    assert binds() == 1
