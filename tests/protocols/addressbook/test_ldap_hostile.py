"""Octets that no mail client sends, and some that only Windows does."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from twisted.internet.task import Clock

from pkiserver.publication.contacts import ContactWriter
from pkiserver.runtime.config import LdapSettings
from pkiserver.runtime.ldapsettings import CallerSettings, LdapLimitSettings
from protocols.addressbook.errors import LimitHit
from protocols.addressbook.limits import LdapLimits
from protocols.addressbook.pacing import Pace
from tests.protocols.addressbook import wire
from tests.protocols.addressbook.support import BASE, Site
from tests.protocols.addressbook.wire import equality, octets, receive, search, tlv
from tests.support.clock import FakeClock

DONE, NOTICE = 0x65, 0x78


@pytest.fixture(scope="module")
def ldap_settings() -> LdapSettings:
    generous = CallerSettings(searches_per_minute=60_000_000, results_per_hour=100_000_000)
    limits = LdapLimitSettings(
        message=timedelta(seconds=1),
        idle=timedelta(seconds=2),
        write_stall=timedelta(seconds=2),
        connections_per_address=40,
    )
    return LdapSettings(base=BASE, anonymous=generous, limits=limits)


@pytest.fixture(scope="module", autouse=True)
def alice(site: Site) -> None:
    site.issue("Alice", "alice@example.com")


def counted(site: Site, hit: LimitHit) -> Callable[[], int]:
    before = site.service.metrics.limit_count(hit)
    return lambda: site.service.metrics.limit_count(hit) - before


def long_form(data: bytes) -> bytes:
    """Every constructed length as Windows writes it: 84 00 00 00 xx."""
    out = b""
    position = 0
    while position < len(data):
        tag, length = data[position], data[position + 1]
        assert length < 0x80
        content = data[position + 2 : position + 2 + length]
        if tag & 0x20:
            content = long_form(content)
        out += bytes((tag, 0x84)) + len(content).to_bytes(4, "big") + content
        position += 2 + length
    return out


def test_lengths_as_windows_writes_them(site: Site) -> None:
    with site.connect() as one:
        one.sendall(long_form(search(equality("mail", "alice@example.com"), "mail")))
        assert receive(one, 2) == [(1, 0x64, -1), (1, DONE, 0)]


def test_messages_in_single_octets_and_many_in_one_piece(site: Site) -> None:
    request = search(equality("mail", "alice@example.com"), "mail")
    with site.connect() as one:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for octet in request:
            one.sendall(bytes((octet,)))
        assert receive(one, 2)[1] == (1, DONE, 0)
        one.sendall(b"".join(search(equality("mail", "alice@example.com"), number=n) for n in range(1, 101)))
        answers = receive(one, 200)
        assert sorted(number for number, tag, _ in answers if tag == DONE) == list(range(1, 101))


@pytest.mark.parametrize("kind", [0xA0, 0xA1, 0xA2])
def test_deeply_nested_filters_are_refused_before_anybody_is_known(site: Site, kind: int) -> None:
    nested = equality("mail", "alice@example.com")
    for _ in range(900):
        nested = tlv(kind, nested)
    hit = counted(site, LimitHit.FILTER)
    with site.connect() as one:
        one.sendall(search(nested))
        assert receive(one, 1) == [(1, DONE, 11)]
        one.sendall(search(equality("mail", "alice@example.com"), number=2))
        assert receive(one, 2)[1] == (2, DONE, 0)
    assert hit() == 1


def test_sixty_kilobytes_of_nesting_end_the_search_and_nothing_else(site: Site) -> None:
    nested = equality("cn", "x")
    while len(nested) < 60_000:
        nested = tlv(0xA2, nested)
    with site.connect() as one:
        one.sendall(search(nested))
        assert receive(one, 1) == [(1, DONE, 11)]
        one.sendall(search(equality("mail", "alice@example.com"), number=2))
        assert receive(one, 2)[1] == (2, DONE, 0)


def test_wide_filters_are_refused(site: Site) -> None:
    wide = tlv(0xA1, b"".join(equality("mail", f"p{n}@example.com") for n in range(500)))
    many = tlv(0xA4, octets("cn") + tlv(0x30, b"".join(octets(f"m{n}", 0x81) for n in range(500))))
    with site.connect() as one:
        for filter_ in (wide, many):
            one.sendall(search(filter_))
            assert receive(one, 1) == [(1, DONE, 11)]


def test_an_unfinished_message_is_refused_by_its_length_and_not_taken_in(site: Site) -> None:
    hit = counted(site, LimitHit.MESSAGE_SIZE)
    with site.connect() as one:
        one.sendall(b"\x30\x84\x01\x00\x00\x00")
        assert receive(one)[0][1:] == (NOTICE, 2)
    with site.connect() as one:
        one.sendall(b"\x30\x88\xff\xff\xff\xff\xff\xff\xff\xff")
        assert receive(one)[0][1:] == (NOTICE, 2)
    assert hit() == 2


def test_pouring_on_does_not_fill_the_memory(site: Site) -> None:
    with site.connect() as one:
        one.settimeout(5)
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 200_000_000:
                sent += one.send(b"\x30\x83\x00\xf0\x00" + bytes(60_000))
        assert sent < 20_000_000


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x30\x80\x02\x01\x01\x00\x00",
        b"\x30\x00",
        b"\x30\x03\x02\x01\x01",
        b"\x30\x05\x02\x01\x01\x42\x05",
        b"\x30\x05\x02\x01\x00\x63\x00",
        b"\x30\x06\x02\x02\xff\xff\x63\x00",
        b"\x30\x05\x02\x01\x01\x65\x00",
        b"\x30\x05\x02\x01\x01\x7f\x00",
        b"\x30\x07\x02\x01\x01\x63\x02\x04\x7f",
        b"\x30\x8a" + bytes(10),
        wire.message(
            tlv(0x63, octets(BASE) + b"\x0a\x01\x02\x0a\x01\x00\x02\x01\x00\x02\x01\x00\x01\x01\x00\xab\x00\x30\x00")
        ),
        search(tlv(0xA2, equality("cn", "a") + equality("cn", "b"))),
        search(tlv(0xA4, octets("cn") + tlv(0x30, b""))),
        search(tlv(0xA4, octets("cn") + tlv(0x30, octets("x", 0x82) + octets("y", 0x80)))),
        search(tlv(0xA9, octets("v", 0x83))),
        wire.message(tlv(0x63, b""), 1, tlv(0xA0, b"\x30\x00")),
    ],
)
def test_what_is_no_ldap_ends_the_connection_with_a_notice(site: Site, data: bytes) -> None:
    with site.connect() as one:
        one.sendall(data)
        one.shutdown(socket.SHUT_WR)
        answers = receive(one)
        assert all(answer[:2] == (0, NOTICE) for answer in answers)


def test_numbers_in_use_and_zero_end_the_connection(site: Site) -> None:
    with site.connect() as one:
        one.sendall(search(equality("mail", "alice@example.com"), number=0))
        assert receive(one)[0][:2] == (0, NOTICE)


def test_octets_behind_start_tls_are_never_obeyed(site: Site) -> None:
    hit = counted(site, LimitHit.STARTTLS_INJECTION)
    with site.connect() as one:
        one.sendall(wire.extended("1.3.6.1.4.1.1466.20037") + search(equality("mail", "alice@example.com"), number=2))
        numbers = [number for number, _, _ in receive(one)]
        assert 2 not in numbers
    assert hit() == 1


def test_start_tls_beside_other_operations_is_refused(site: Site) -> None:
    with site.connect() as one:
        slow = search(tlv(0xA4, octets("cn") + tlv(0x30, octets("nobody", 0x80))), number=1)
        one.sendall(slow + wire.extended("1.3.6.1.4.1.1466.20037", number=2))
        answers = {number: code for number, tag, code in receive(one, 2)}
        assert answers[2] == 1


def test_bad_binds(site: Site) -> None:
    with site.connect() as one:
        for request, code in (
            (wire.bind("uid=x", ""), 53),
            (wire.bind("uid=x", "secret"), 13),
            (wire.bind(version=2), 2),
            (wire.message(tlv(0x60, b"\x02\x01\x03" + octets("") + tlv(0xA3, octets("GSSAPI")))), 7),
            (wire.message(tlv(0x60, b"\x02\x01\x03" + octets("") + tlv(0xA3, octets("EXTERNAL")))), 48),
            (wire.bind("x" * 50_000, "y" * 10_000), 13),
            (wire.bind(), 0),
        ):
            one.sendall(request)
            assert receive(one, 1) == [(1, 0x61, code)]


def test_unknown_operations_and_critical_controls(site: Site) -> None:
    critical = tlv(0xA0, tlv(0x30, octets("1.2.3") + b"\x01\x01\xff"))
    with site.connect() as one:
        one.sendall(wire.extended("1.2.3.4"))
        assert receive(one, 1) == [(1, NOTICE, 2)]
        one.sendall(wire.message(tlv(0x60, b"\x02\x01\x03" + octets("") + octets("", 0x80)), 1, critical))
        assert receive(one, 1) == [(1, 0x61, 12)]
        one.sendall(wire.message(octets("uid=x,dc=example,dc=com", 0x4A), 2))
        assert receive(one, 1) == [(2, 0x6B, 53)]


@pytest.mark.parametrize(
    "base", ["=", "cn", "cn=a\\", "cn=\\zz", 'cn="a', "uid=" + "x" * 5000, "\x00", "cn=a,,", "\ud800"]
)
def test_names_that_are_none(site: Site, base: str) -> None:
    with site.connect() as one:
        one.sendall(search(equality("mail", "x"), base=base.encode("utf-8", "surrogatepass").decode("latin-1")))
        assert receive(one, 1)[0][2] in {34, 32}


def test_no_such_person_and_not_allowed_look_alike(site: Site) -> None:
    site.issue("Opal Out", "opal@example.com")
    site.issue("Pia Private", "pia@example.com", template="private")
    site.issue("Sue Signing", "sue@example.com", template="sign")
    writer = ContactWriter(site.engine.database, site.engine.audit, site.engine.clock)
    site.do(lambda: writer.opt_out("opal@example.com", out=True, by="test"))
    site.settle()
    questions = [equality("mail", f"{name}@example.com") for name in ("nobody", "opal", "pia", "sue")]
    questions += [tlv(0x87, b"mail"), tlv(0xA4, octets("cn") + tlv(0x30, octets("zzz", 0x80)))]
    with site.connect() as one:
        for question in questions:
            begun = time.perf_counter()
            one.sendall(search(question))
            assert receive(one, 1) == [(1, DONE, 0)]
            assert time.perf_counter() - begun >= LdapLimits().nobody_seconds
        for name in ("nobody", "opal", "pia", "sue"):
            begun = time.perf_counter()
            one.sendall(search(tlv(0x87, b"objectClass"), base=f"uid={name}@example.com,ou=People,{BASE}", scope=0))
            assert receive(one, 1) == [(1, DONE, 32)]
            assert time.perf_counter() - begun >= LdapLimits().nobody_seconds
        one.sendall(search(equality("mail", "alice@example.com")))
        assert [tag for _, tag, _ in receive(one, 2)][-1] == DONE


def test_the_work_that_was_done_does_not_show_in_the_moment_of_the_answer() -> None:
    clock, timer = FakeClock(), Clock()
    pace = Pace(timer, clock, 0.01)
    moments = set()
    for work in (0.0, 0.0004, 0.0031, 0.0099):
        begun = pace.begin()
        clock.advance(timedelta(seconds=work))
        moments.add(round(work + pace.left(begun), 9))
    assert moments == {0.01}
    begun = pace.begin()
    clock.advance(timedelta(seconds=0.0123))
    assert pace.left(begun) == pytest.approx(0.0077)


def test_abandon_and_cancel(site: Site) -> None:
    slow = search(tlv(0xA4, octets("cn") + tlv(0x30, octets("alic", 0x80))), number=1)
    with site.connect() as one:
        one.sendall(slow + wire.abandon(1) + search(equality("mail", "alice@example.com"), number=3))
        assert [answer for answer in receive(one, 2) if answer[0] == 1] == []
        one.sendall(slow + wire.extended("1.3.6.1.1.8", tlv(0x30, b"\x02\x01\x01"), number=5))
        assert {number: code for number, _, code in receive(one, 2)} == {1: 118, 5: 0}
        one.sendall(wire.extended("1.3.6.1.1.8", tlv(0x30, b"\x02\x01\x63"), number=6))
        assert receive(one, 1) == [(6, NOTICE, 119)]
        one.sendall(wire.extended("1.3.6.1.1.8", b"\x30", number=7))
        assert receive(one)[0][:2] == (0, NOTICE)


def test_slow_senders_and_idle_ones_are_dropped(site: Site) -> None:
    late, idle = counted(site, LimitHit.MESSAGE_TIME), counted(site, LimitHit.IDLE)
    with site.connect() as slow, site.connect() as silent:
        message, sent = search(equality("mail", "alice@example.com" * 20)), 0
        with contextlib.suppress(OSError):
            for octet in message:
                slow.sendall(bytes((octet,)))
                sent += 1
                time.sleep(0.1)
        assert sent < len(message)
        assert receive(silent) == [(0, NOTICE, 52)]
    assert (late(), idle()) == (1, 1)


def test_who_does_not_read_is_cut(site: Site) -> None:
    hit = counted(site, LimitHit.WRITE_STALL)
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(("127.0.0.1", site.ldap))
        one.setblocking(False)
        stream = memoryview(b"".join(search(equality("mail", "alice@example.com"), number=n) for n in range(1, 40_000)))
        until = time.monotonic() + 60
        while time.monotonic() < until and not hit():
            try:
                stream = stream[one.send(stream[:65536]) :] if stream else stream
                time.sleep(0 if stream else 0.02)
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:
                break
    assert hit() == 1


def test_one_address_gets_so_many_connections(site: Site) -> None:
    hit = counted(site, LimitHit.CONNECTIONS_PER_ADDRESS)
    held = [site.connect() for _ in range(60)]
    try:
        time.sleep(0.2)
        assert hit() >= 20
    finally:
        for one in held:
            one.close()
    time.sleep(0.3)
    assert "alice@example.com" in site.search("(mail=alice@example.com)", "mail")


@pytest.mark.parametrize("offered", [["http/1.1"], ["h2", "ldap"]])
def test_a_browser_that_was_sent_to_ldaps_gets_no_connection(site: Site, offered: list[str]) -> None:
    context = ssl.create_default_context(cafile=str(site.folder / "ca.pem"))
    with socket.create_connection(("127.0.0.1", site.ldaps), timeout=10) as plain:
        assert context.wrap_socket(plain, server_hostname="localhost").selected_alpn_protocol() is None
    context.set_alpn_protocols(offered)
    with (
        socket.create_connection(("127.0.0.1", site.ldaps), timeout=10) as plain,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(plain, server_hostname="localhost")
