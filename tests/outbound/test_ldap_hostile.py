"""Row 18: filters are built from values, and a directory that misbehaves costs an error, never the process."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ldaptor.protocols import pureber, pureldap
from ldaptor.protocols.ldap.distinguishedname import DistinguishedName
from twisted.internet import reactor as _reactor

from pkiserver.foundation import der
from pkiserver.foundation.clock import SystemClock
from pkiserver.foundation.secret import Secret
from pkiserver.foundation.tomlfile import Invalid
from pkiserver.outbound import ldap, ldapnames, ldapwire
from pkiserver.outbound.addresses import LdapServer, Timeouts
from pkiserver.outbound.dial import Servers
from pkiserver.outbound.ldap import LdapService, open_server, opened
from pkiserver.outbound.ldapclient import AT_ONCE
from pkiserver.outbound.ldapfilter import MAX_DEPTH, Filter, equal, filled
from pkiserver.outbound.ldapwire import Scope, wire_filter
from pkiserver.outbound.problems import OutboundError, Trouble

reactor: Any = _reactor
DECODER = pureldap.LDAPBERDecoderContext_Filter(fallback=pureber.BERDecoderContext())


def wire(tree: Filter) -> bytes:
    return bytes(wire_filter(tree).toWire())  # type: ignore[attr-defined]


def decoded(tree: Filter) -> object:
    return pureber.berDecodeObject(DECODER, wire(tree))[0]


@given(st.text(max_size=60))
def test_a_value_is_a_value_whatever_it_contains(value: str) -> None:
    tree = Filter.parse("(&(objectClass=person)(|(uid=$(userid))(mail=x$(userid)y)))", ("userid",))
    both = decoded(filled(tree, {"userid": value}))
    assert isinstance(both, pureldap.LDAPFilter_and)
    inner = list(list(both)[1])
    assert [bytes(one.assertionValue.value) for one in inner] == [value.encode(), b"x" + value.encode() + b"y"]
    assert wire(equal("uid", value.encode())) == inner[0].toWire()


@pytest.mark.parametrize(
    "text",
    [
        "(uid=*)",
        "(cn=a*b*c)",
        "(cn=*b)",
        "(!(cn>=5))",
        "(cn=\\2a\\28)",
        "(member:1.2.840.113556.1.4.1941:=cn=x)",
        "(&(a=1)(b<=2)(c~=3)(|(d=\u00e4)(e=f*)))",
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_filters_mean_what_another_reader_says(text: str) -> None:
    from ldaptor.ldapfilter import parseFilter

    assert wire(Filter.parse(text)) == parseFilter(text).toWire()


@pytest.mark.parametrize(
    "text",
    ["", "uid=x", "(uid=x", "(uid=x))", "(&)", "(!(a=1)(b=2))", "(=x)", "(a b=x)", "(uid=\\zz)", "(uid=$(other))",
     "(uid=$x)", "(uid=(x)", "(" * 3000, "(&" * (MAX_DEPTH + 2) + "(a=1)" + ")" * (MAX_DEPTH + 2)],
)  # fmt: skip
def test_what_is_no_filter(text: str) -> None:
    with pytest.raises(Invalid):
        Filter.parse(text, ("userid",))


@given(st.text(max_size=200))
def test_any_text_is_a_filter_or_invalid(text: str) -> None:
    try:
        tree = Filter.parse(text)
    except Invalid:
        return
    encoded = wire(tree)
    assert der.element(encoded).end == len(encoded)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40))
def test_a_value_in_a_dn_stays_one_value(value: str) -> None:
    dn = f"uid={ldapnames.escape(value)},ou=people,dc=example"
    assert ldapnames.first_value(dn) == value


@contextmanager
def saying(octets: bytes) -> Iterator[LdapServer]:
    """A server that answers every connection's first request with these octets."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            try:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(4096)
                    for at in range(0, len(octets), 65536):
                        connection.sendall(octets[at : at + 65536])
                    connection.settimeout(3)
                    connection.recv(4096)
            except OSError:
                return

        threading.Thread(target=serve, daemon=True).start()
        yield LdapServer("ldap", "127.0.0.1", listening.getsockname()[1])


def nested(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        size = len(inner)
        length = bytes((size,)) if size < 128 else b"\x83" + size.to_bytes(3, "big")
        inner = b"\x30" + length + inner
    return inner


@pytest.mark.parametrize(
    "octets",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x30\x84\x7f\xff\xff\xff",
        b"\x30\x80\x02\x01\x01\x00\x00",
        b"\x30\x85\x01\x00\x00\x00\x00",
        b"\x30\x03\x02\x01\x63",
        bytes.fromhex("300c020163 61070a010004000400".replace(" ", "")),
        nested(5000),
        b"\x30\x82\x01",
        b"",
    ],
)
async def test_row_18_a_directory_that_misbehaves(octets: bytes) -> None:
    timeouts = Timeouts(timedelta(seconds=1), timedelta(milliseconds=500))
    with saying(octets) as server:
        service = LdapService((server,), None, timeouts=timeouts)
        connection = await open_server(service, server)
        with pytest.raises(OutboundError) as caught:
            await connection.bind("cn=x", Secret("y"))
        assert caught.value.trouble in {Trouble.ANSWER, Trouble.SILENT}
        with pytest.raises(OutboundError):
            await connection.search("dc=x", Scope.TREE, Filter.parse("(a=*)"), ("b",))


async def test_row_18_more_entries_than_asked_for_end_the_search() -> None:
    entry = pureldap.LDAPMessage(pureldap.LDAPSearchResultEntry("cn=x", [("a", ["b"])]), id=0)

    def numbered(number: int) -> bytes:
        entry.id = number
        return bytes(entry.toWire())

    flood = b"".join(numbered(number) * 50 for number in range(1, 100))
    with saying(flood) as server:
        service = LdapService((server,), None, timeouts=Timeouts(timedelta(seconds=1), timedelta(seconds=1)))
        async with opened(service, Servers(SystemClock())) as connection:
            with pytest.raises(OutboundError):
                await connection.search("dc=x", Scope.TREE, Filter.parse("(a=*)"), ("b",), limit=5)


def test_names_are_compared_without_case_and_spaces() -> None:
    assert ldapnames.same("CN=Staff, ou=groups,DC=x", "cn=staff,OU=Groups,dc=x")
    assert not ldapnames.same("cn=staff,dc=x", "no dn")


@given(st.lists(st.text("aB1 .-é", min_size=1, max_size=6), min_size=1, max_size=4))
def test_names_without_escapes_are_read_as_ldaptor_reads_them(values: list[str]) -> None:
    dn = ",".join(f"{kind}={value}" for kind, value in zip(("CN", "ou", "o", "dc"), values, strict=False))
    theirs = DistinguishedName(stringValue=dn)
    assert ldapnames.first_value(dn) == theirs.split()[0].split()[0].value
    assert ldapnames.normal(dn) == DistinguishedName(stringValue=dn.lower()).getText()


async def test_row_34_a_long_answer_is_taken_in_turns_with_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = 0
    taken: Counter[int] = Counter()
    inner = ldapwire.entry_of

    def count(entry: pureldap.LDAPSearchResultEntry) -> ldapwire.Entry:
        taken[turn] += 1
        return inner(entry)

    def tick() -> None:
        nonlocal turn
        turn += 1
        again.append(reactor.callLater(0, tick))

    monkeypatch.setattr(ldap, "entry_of", count)
    again: list[Any] = []
    entries = (pureldap.LDAPSearchResultEntry(f"cn={number}", [("a", ["b"])]) for number in range(400))
    wire = [bytes(pureldap.LDAPMessage(one, id=1).toWire()) for one in entries]
    done = pureldap.LDAPMessage(pureldap.LDAPSearchResultDone(resultCode=0), id=1)
    monkeypatch.setattr(pureldap, "next_ldap_message_id", 1)
    with saying(b"".join(wire) + bytes(done.toWire())) as server:
        service = LdapService((server,), None)
        async with opened(service, Servers(SystemClock())) as connection:
            tick()
            found = await connection.search("dc=x", Scope.TREE, Filter.parse("(a=*)"), ("b",))
            again[-1].cancel()
    assert [one.dn for one in found] == [f"cn={number}" for number in range(400)]
    assert max(taken.values()) <= AT_ONCE
