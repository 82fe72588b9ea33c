"""What an old server has kept is not read again for each request, nor by what cleans up while all other writes wait."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine

from pkiserver.registration.identities import ANONYMOUS, SELF_SIGNED
from pkiserver.registration.waiting import nameless_site
from pkiserver.store import audit, certificates, migrations
from pkiserver.store.authority import crl_history, crls
from pkiserver.store.authority.crls import Crl, CrlKind
from pkiserver.store.certificates import CertificateState, Criteria, RevocationReason
from pkiserver.store.engines import parse_url, writing_engine
from pkiserver.store.migrate import migrate
from pkiserver.store.outbox import Feed
from pkiserver.store.publication import addressbook, outward
from pkiserver.store.registration import codes, onetime, requests, scep, seats
from pkiserver.store.registration.requests import NewRequest
from pkiserver.store.schema.columns import metadata
from pkiserver.store.schema.shared import feed_clock
from pkiserver.store.times import to_micros
from tests.support.steps import steps_of
from tests.support.stored import NOW, issue, new_intent, opened

FEW, MANY = 30, 1500
DAY = timedelta(days=1)
_NOW, _DAY = to_micros(NOW), DAY // timedelta(microseconds=1)
_KEY = {"spki_sha256": b"s", "signer_sha256": b"g", "asks": b"a", "payload": b""}
_CERTIFICATE: dict[str, Any] = {
    "issuer_id": 1,
    "generation_id": 1,
    "subject": "CN=x",
    "subject_key": "cn=x",
    "sans": "[]",
    "not_before": _NOW,
    "template": "device",
    "requester": "alice",
    "protocol": "est",
    "request_id": "",
    "created": _NOW,
    "settled": _NOW,
}
_REQUEST: dict[str, Any] = {
    "template": "device",
    "spki": b"",
    "payload": b"{}",
    "evidence": "alice by est from 192.0.2.1",
    "reasons": "[]",
    "created": _NOW,
}
_HASHES = ("prev_hash", "hash")
_LIST = {"scope_id": 1, "kind": "complete", "der": b"list", "entries": 0, "status_seq": 0}


def rows_of(count: int) -> dict[str, Iterable[dict[str, Any]]]:
    """By table, what clients have brought about who use one of everything."""
    many = range(1, count + 1)

    def end(number: int) -> int:
        return _NOW + (-_DAY if number % 3 == 0 else _DAY)

    def certificate(number: int) -> dict[str, Any]:
        state = "issued" if number > count - 2 or number % 3 == 0 else "revoked"
        key = number.to_bytes(20)
        only = {"id": number, "serial": key, "spki_sha256": key, "not_after": end(number), "state": state}
        return {**_CERTIFICATE, **only}

    task = {"version": 1, "attempts": 0}
    queues = (("quiet", _NOW + _DAY, None), ("away", _NOW - 1, None), ("picky", _NOW + _DAY, "no"))
    small = {"generation_id": 2, "serial": b"small", "spki_sha256": b"", "not_after": _NOW, "state": "issued"}

    def request(state: str, ends: int) -> dict[str, Any]:
        return {**_REQUEST, "state": state, "expires": ends, "fingerprint": os.urandom(32)}

    at = {"created": _NOW, "expires": _NOW}
    seat = {"archived": False, "metadata": "[]", "created": _NOW}
    code = {"template": "device", "sans": "[]", "created_by": "x", "spent_at": _NOW, **at}
    password = {"connector": "mail", "account": "alice", "tries": 0, "spent_at": _NOW, **at}
    event = {
        "writer_id": 1,
        "actor": "x",
        "object": "x",
        "outcome": "ok",
        "details": "[]",
        "prev_hash": b"",
        "hash": b"",
    }
    return {
        "audit_event": [
            {**event, "seq": n, "at": n, "kind": "issuance" if n % 1000 else "configuration"} for n in (0, *many)
        ],
        # an authority of one certificate, the oldest, under the template of all others
        "certificate": [{**_CERTIFICATE, **small, "id": 0}, *map(certificate, many)],
        "seat": [
            {**seat, "template": name, "identity": f"{name}{n}", "place": n}
            for name in ("device", "rare")
            for n in many
        ]
        + [{**seat, "template": "single", "identity": "alice", "place": 1}],
        "seat_certificate": [{"seat_id": 1, "certificate_id": n, "at": _NOW, "ends": end(n)} for n in many],
        "enroll_code": [{**code, "keyed_hash": os.urandom(32), "certificate_id": n} for n in many],
        "one_time_password": [{**password, "keyed_hash": b"", "certificate_id": n} for n in many],
        "enrollment_request": [
            request(state, _NOW + _DAY) for state in ("pending", "approved", "issued") for _ in many
        ],
        "scep_transaction": [
            {**_KEY, "template": "device", "transaction_id": "one", "kind": f"renewal:{n}", "certificate_id": n, **more}
            for n in many
            for more in ({"created": _NOW + n, "ends": _NOW + _DAY},)
        ],
        "outward_task": [
            {**task, "target": f"directory/{name}", "subject": f"s{n}", "due": due, "problem": why}
            for n in many
            for name, due, why in queues
        ],
        "addressbook_change": [{"seq": n, "address": "x"} for n in many],
        "issuer": [{"id": 1, "dn_der": b"d", "dn_text": "CN=ca", "created": _NOW}],
        "authority": [{"name": "ca", "issuer_id": 1, "config": "", "state": "", "created": _NOW}],
        "authority_generation": [
            {"id": 1, "authority": "ca", "number": 1, "chain": "[]", "state": "active", "created": _NOW}
        ],
        "crl_scope": [{"id": 1, "issuer_id": 1, "generation_id": 1, "scope": "full", "last_number": count}],
        "crl": [{**_LIST, "number": n, "this_update": _NOW - _DAY + n, "next_update": _NOW + n - 5} for n in many],
    }


def filled(path: Path, count: int) -> Engine:
    url = f"sqlite:///{path}"
    migrate(url)
    engine = writing_engine(parse_url(url))
    with engine.begin() as connection:
        for name, rows in rows_of(count).items():
            connection.execute(metadata.tables[name].insert(), list(rows))
    with engine.begin() as connection:
        seats.note_ended(connection, 1, now=NOW)  # as the last that was issued did
        clock = feed_clock.update().where(feed_clock.c.name == Feed.ADDRESSBOOK)
        connection.execute(clock.values(value=count))
    return engine


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Engine]]:
    """A young database and an old one."""
    folder = tmp_path_factory.mktemp("growth")
    made = filled(folder / "young.db", FEW), filled(folder / "old.db", MANY)
    yield made
    for engine in made:
        engine.dispose()


RARE = frozenset({"single", "none"})
SMALL = Criteria(generation_ids=frozenset({2}))
LONG_AGO = NOW - 400 * DAY
LIST = Crl(1, CrlKind.COMPLETE, 10**6, None, NOW + DAY, NOW + 2 * DAY, b"", 0, 0)
HARDLY = {
    "a requester": Criteria(requester="alice", template="rare"),
    "a subject": Criteria(subject="CN=x", requester="bob"),
    "all": Criteria(issuer_id=9),
    "a template": Criteria(template="device", issuer_id=9),
    "a time": Criteria(expires_from=LONG_AGO, template="rare"),
    "a beginning": Criteria(subject_prefix="cn=", template="rare"),
    "the revoked": Criteria(state=CertificateState.REVOKED, template="rare"),
}


def few_of(wanted: Criteria) -> Callable[[Connection], object]:
    return lambda c: certificates.search(c, wanted, limit=2, most=10)


ASKED: dict[str, Callable[[Connection], object]] = {
    "a request: which have expired": lambda c: requests.expire(c, now=NOW),
    "a request: who waits and shows nobody": lambda c: requests.count_nameless(c, "device", now=NOW),
    "a request: who waits at one address": lambda c: requests.count_nameless(c, "device", "192.0.2.1", now=NOW),
    "a new seat: how many there are": lambda c: seats.count(c, "device"),
    "a seat: its valid certificates": lambda c: seats.valid_certificates(c, 1, now=NOW),
    "a seat: those that have ended": lambda c: seats.note_ended(c, 1, now=NOW),
    "a SCEP poll": lambda c: scep.newest(c, "device", "one"),
    "a process that died: codes": lambda c: codes.release(c, -1),
    "a process that died: transactions": lambda c: scep.give_back(c, -1),
    "a process that died: a place in a seat": lambda c: seats.give_back(c, 1),
    "an account that is deleted: seats": lambda c: seats.retire(c, "alice", actor="admin:olga", now=NOW),
    "an account that is deleted: what it owned": lambda c: seats.disown(c, "alice", actor="admin:olga", now=NOW),
    "a clean-up: requests": lambda c: requests.forget_ended(c, ended_before=LONG_AGO),
    "a clean-up: codes": lambda c: codes.forget_expired(c, expired_before=LONG_AGO),
    "a clean-up: passwords": lambda c: onetime.forget_expired(c, expired_before=LONG_AGO),
    "a clean-up: transactions": lambda c: scep.forget(c, ended_before=LONG_AGO, limit=1000),
    "a page of codes of few templates": lambda c: codes.list_page(c, templates=RARE, limit=10),
    "a page of requests of few templates": lambda c: requests.list_page(c, state=None, templates=RARE, limit=10),
    "a page of what waits, of few templates": lambda c: requests.list_page(c, templates=RARE, limit=10),
    "a page of seats of one template": lambda c: seats.search(c, template="device", limit=10),
    "a page of seats of few templates": lambda c: seats.search(c, templates=RARE, limit=10),
    "a page of seats of large templates": lambda c: seats.search(c, templates=frozenset({"device", "rare"}), limit=10),
    "a page of certificates of a small authority": lambda c: certificates.search(c, SMALL),
    "a page of certificates of a template": lambda c: certificates.search(c, Criteria(template="device"), limit=10),
    **{f"a page of certificates of {name}, few of them wanted": few_of(one) for name, one in HARDLY.items()},
    "a directory with nothing to do": lambda c: outward.standing(c, "directory/quiet", now=NOW),
    "a directory with much to do": lambda c: outward.standing(c, "directory/away", now=NOW),
    "a directory that took little": lambda c: outward.standing(c, "directory/picky", now=NOW),
    "what was set, beside what was issued": lambda c: list(audit.events_of_settings(c, "configuration")),
    "a list: those that ended": lambda c: crls.forget_before(c, 1, LONG_AGO),
    "a list: the one in force at a time": lambda c: crl_history.newest_until(c, 1, NOW - DAY),
    "a list: the oldest in force": lambda c: crl_history.oldest_in_force(c, 1, NOW + timedelta(seconds=1), 0),
    "a list: whether it is later": lambda c: crl_history.is_later(c, 1, LIST),
}


@pytest.mark.parametrize("name", ASKED)
def test_it_takes_no_more_steps_where_much_is_kept(
    engines: tuple[Engine, Engine], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outward, "MOST_COUNTED", 20)
    taken = []
    for engine in engines:
        with engine.connect() as connection:
            transaction = connection.begin()
            taken.append(steps_of(connection, ASKED[name]))
            transaction.rollback()
    young, old = taken
    assert old <= 1.2 * young + 30


def test_what_is_over_by_the_thousand_is_dealt_with_in_parts(engines: tuple[Engine, Engine]) -> None:
    later = NOW + 2 * DAY
    parts: dict[str, Callable[[Connection], int]] = {
        "expire": lambda c: len(requests.expire(c, now=later, most=7)),
        "requests": lambda c: requests.forget_ended(c, ended_before=later, most=7),
        "codes": lambda c: codes.forget_expired(c, expired_before=later, most=7),
        "passwords": lambda c: onetime.forget_expired(c, expired_before=later, most=7),
        "transactions": lambda c: scep.forget(c, ended_before=later, limit=7),
        "lists": lambda c: crls.forget_before(c, 1, later, most=7),
        "addresses": lambda c: addressbook.prune_changes(c, keep=10, most=7),
    }
    for part in parts.values():
        with engines[1].connect() as connection:
            transaction = connection.begin()
            assert part(connection) == 7
            transaction.rollback()


def test_who_may_see_a_small_authority_finds_its_certificates(engines: tuple[Engine, Engine]) -> None:
    with engines[1].connect() as connection:
        page = certificates.search(connection, SMALL)
        assert ([one.id for one in page.certificates], page.cursor) == ([0], None)
        both = Criteria(generation_ids=frozenset({1, 2}), template="device", expires_before=NOW + timedelta(seconds=1))
        assert certificates.search(connection, both, limit=1000).certificates[-1].id == 0
        for other in (Criteria(template="rare"), attrs.evolve(SMALL, templates=frozenset({"rare"}))):
            assert certificates.search(connection, other) == certificates.Page((), None)


def test_a_seat_is_not_said_to_have_more_certificates_than_it_has(engines: tuple[Engine, Engine]) -> None:
    valid = MANY - 1  # the newest but one; the newest has expired
    with engines[1].connect() as connection:
        assert seats.valid_certificates(connection, 1, now=NOW) == 1
        assert seats.valid_certificates(connection, 1, now=NOW, besides=valid) == 0


def test_who_shows_nobody_is_counted_by_site() -> None:
    assert nameless_site(ANONYMOUS, "2001:db8::1") == nameless_site(f"{SELF_SIGNED}ab", "2001:db8::2")
    assert nameless_site("alice", "192.0.2.1") is None


async def test_a_seats_place_is_free_once_its_certificate_is_revoked_expired_or_never_came_to_be(url: str) -> None:
    async with opened(url) as database:

        def fill(connection: Connection) -> int:
            seat, _ = seats.add(connection, "device", "alice", owner=None, now=NOW)
            for number in (
                issue(connection, new_intent()),
                issue(connection, new_intent()),
                issue(connection, new_intent(not_after=NOW + DAY)),
                certificates.insert_prepared(connection, new_intent()),
                certificates.insert_prepared(connection, new_intent()),
            ):
                seats.add_certificate(connection, seat.id, number, None, NOW)
            return seat.id

        seat = await database.write(fill)

        async def valid(after: timedelta = timedelta()) -> int:
            return await database.read(lambda c: seats.valid_certificates(c, seat, now=NOW + after))

        assert (await valid(), await valid(2 * DAY)) == (5, 4)
        reason = RevocationReason.SUPERSEDED
        await database.write(lambda c: certificates.revoke(c, 1, reason=reason, at=NOW))
        await database.write(lambda c: certificates.hold(c, 2, at=NOW))
        await database.write(lambda c: certificates.burn(c, 4, at=NOW))
        assert await valid() == 3
        await database.write(lambda c: seats.note_ended(c, seat, now=NOW))
        assert (await valid(), await valid(2 * DAY), await valid(-DAY)) == (3, 2, 3)


async def test_seats_are_counted_whether_they_have_a_place_or_not_and_whether_they_are_archived(url: str) -> None:
    async with opened(url) as database:

        def fill(connection: Connection) -> list[int]:
            counts = []
            for number in range(6):
                placed = number not in {2, 3}  # the template had no limit then
                made, _ = seats.add(connection, "few", str(number), owner=None, now=NOW, placed=placed)
                seats.add(connection, "other", str(number), owner=None, now=NOW, placed=placed)
                if number % 2:
                    seats.change(connection, attrs.evolve(made, archived=True))
                counts.append(seats.count(connection, "few"))
            seats.add(connection, "few", "0", owner=None, now=NOW, placed=True)
            seats.change(connection, attrs.evolve(made, archived=False))
            return [*counts, seats.count(connection, "few"), seats.count(connection, "none")]

        assert await database.write(fill) == [1, 1, 2, 2, 3, 3, 4, 0]


async def test_pages_of_few_templates_hold_what_is_theirs_newest_first(url: str) -> None:
    async with opened(url) as database:

        def fill(connection: Connection) -> None:
            for number in range(12):
                template, mark = f"t{number % 3}", bytes([number]) * 32
                code = codes.NewCode(mark, template, None, (), NOW + DAY, "alice", NOW)
                asked = NewRequest(template, None, b"", b"{}", "alice", mark, NOW, NOW + DAY)
                codes.insert_code(connection, code)
                seats.add(connection, template, str(number), owner=f"o{number % 2}", now=NOW)
                one = requests.open_request(connection, asked)
                if number % 2:
                    requests.decide(connection, one.id, approved=True, by="bob", at=NOW)

        await database.write(fill)
        both = {"templates": frozenset({"t0", "t2", "none"}), "limit": 3}

        async def numbers(ask: Callable[[Connection], tuple[Any, ...]]) -> list[int]:
            return [one.id for one in await database.read(ask)]

        assert await numbers(lambda c: codes.list_page(c, **both)) == [12, 10, 9]
        assert await numbers(lambda c: codes.list_page(c, before=9, **both)) == [7, 6, 4]
        assert await numbers(lambda c: requests.list_page(c, state=None, **both)) == [12, 10, 9]
        assert await numbers(lambda c: requests.list_page(c, before=9, **both)) == [7, 3, 1]
        assert await numbers(lambda c: seats.search(c, before=12, **both)) == [10, 9, 7]
        assert await numbers(lambda c: seats.search(c, owner="o0", **both)) == [9, 7, 3]
        assert await numbers(lambda c: seats.search(c, template="t2", **both)) == [12, 9, 6]
        assert await numbers(lambda c: seats.search(c, template="t1", **both)) == []
        assert await numbers(lambda c: seats.search(c, template="t1", identity="4")) == [5]
        assert await numbers(lambda c: codes.list_page(c, templates=frozenset())) == []


def test_an_upgrade_tells_when_what_it_finds_ends(empty_url: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations.__path__[0]))
    engine = writing_engine(parse_url(empty_url))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0014")
        for statement in _AN_OLD_SERVER:
            connection.exec_driver_sql(statement)
        command.upgrade(config, "head")
        assert [seats.count(connection, name) for name in ("device", "user")] == [2, 1]
        places = "SELECT place FROM seat ORDER BY id"
        assert connection.exec_driver_sql(places).scalars().all() == [1, 1, 2, 3]
        assert connection.exec_driver_sql("SELECT ends FROM seat_certificate").scalars().all() == [70]
        ends = "SELECT ends FROM scep_transaction ORDER BY transaction_id"
        assert connection.exec_driver_sql(ends).scalars().all() == [70, 80, 9]
        sites = "SELECT nameless_site FROM enrollment_request ORDER BY id"
        assert connection.exec_driver_sql(sites).scalars().all() == ["", "", None]
        assert requests.count_nameless(connection, "device", now=NOW - 60 * 365 * DAY) == 2
    engine.dispose()


_AN_OLD_SERVER = (
    """INSERT INTO certificate (id, issuer_id, generation_id, serial, state, subject, subject_key, sans, not_before,
       not_after, template, requester, protocol, request_id, spki_sha256, created, settled)
       VALUES (1, 1, 1, '1', 'issued', 's', 's', '[]', 1, 70, 'device', 'r', 'est', 'q', 'k', 1, 1)""",
    *(
        f"""INSERT INTO seat (template, identity, archived, metadata, created)
            VALUES ('{template}', '{identity}', {archived}, '[]', 1)"""
        for template, identity, archived in (
            ("device", 1, False),
            ("user", 1, False),
            ("device", 2, True),
            ("device", 3, False),
        )
    ),
    "INSERT INTO seat_certificate (seat_id, certificate_id, at) VALUES (1, 1, 1)",
    *(
        f"""INSERT INTO enrollment_request
            (template, spki, payload, state, evidence, reasons, created, expires, fingerprint)
            VALUES ('device', '', '', 'pending', '{evidence}', '[]', 1, 80, '{evidence}')"""
        for evidence in ("anonymous by est from 192.0.2.1", "self-signed:ab by scep from 192.0.2.1", "alice by est")
    ),
    *(
        f"""INSERT INTO scep_transaction
            (template, transaction_id, kind, spki_sha256, signer_sha256, asks, request_number, certificate_id, payload,
            created) VALUES ('t', '{name}', '', 'k', 'k', 'a', {request}, {number}, '', 9)"""
        for name, request, number in (("a", 1, 1), ("b", 1, "NULL"), ("c", "NULL", "NULL"))
    ),
)
