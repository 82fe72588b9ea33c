"""Searches find exactly what meets their criteria, page by page, whatever the page size, and never by a full scan."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.store import certificates
from pkiserver.store.certificates import Certificate, CertificateState, Criteria, RevocationReason
from pkiserver.store.certificates.queries import build_queries
from pkiserver.store.engines import parse_url, reading_engine
from pkiserver.store.migrate import migrate
from pkiserver.store.names import San, SanKind, folded, san_key, subject_key
from tests.support.postgres import PostgresServer
from tests.support.stored import NOW, issue, new_intent, write

SUBJECTS = ["CN=Web 1,O=Example", "CN=web 2,O=Example", "CN=Straße,O=Example", "CN=" + "long " * 80, "O=Other"]
SANS = [
    San(SanKind.DNS, "a.example"),
    San(SanKind.DNS, "A.Example."),
    San(SanKind.DNS, "b.example"),
    San(SanKind.IP, "10.0.0.1"),
    San(SanKind.IP, "2001:DB8::1"),
    San(SanKind.URI, "HTTP://a.example/x"),
    San(SanKind.EMAIL, "Who@example.com"),
]
TEMPLATES = ["tls-server", "device", "user"]
REQUESTERS = ["alice", "bob"]
WRITTEN = 150


def fill(connection: Connection) -> list[int]:
    """Certificates of every kind and state."""
    chance = random.Random(7)
    numbers = []
    for _ in range(WRITTEN):
        intent = new_intent(
            issuer_id=chance.choice([1, 2]),
            generation_id=chance.choice([1, 2]),
            subject=chance.choice(SUBJECTS),
            sans=tuple(chance.sample(SANS, chance.randint(0, 3))),
            template=chance.choice(TEMPLATES),
            requester=chance.choice(REQUESTERS),
            not_after=NOW + timedelta(days=chance.randint(-3, 3)),
            spki_sha256=bytes([chance.randint(0, 3)]) * 32,
        )
        fate = chance.choice(["issued", "issued", "revoked", "held", "burnt"])
        if fate == "burnt":
            number = certificates.insert_prepared(connection, intent)
            certificates.burn(connection, number, at=NOW)
        else:
            number = issue(connection, intent)
        if fate == "revoked":
            certificates.revoke(connection, number, reason=RevocationReason.SUPERSEDED, at=NOW)
        elif fate == "held":
            certificates.hold(connection, number, at=NOW)
        numbers.append(number)
    return numbers


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A filled database to read."""
    if request.param == "sqlite":
        url = f"sqlite:///{Path(tmp_path_factory.mktemp('search')) / 'store.db'}"
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.new_url()
    migrate(url)
    write(url, fill)
    engine = reading_engine(parse_url(url), 1)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def everything(engine: Engine) -> list[Certificate]:
    """What is in it, by number."""
    with engine.connect() as connection:
        found = [certificates.get(connection, number) for number in range(1, WRITTEN + 1)]
    assert None not in found
    return [one for one in found if one is not None]


def meets(one: Certificate, wanted: Criteria) -> bool:
    """The criteria's meaning, said without SQL."""
    keys = {(san.kind, san_key(san)) for san in one.sans} if one.state is not CertificateState.BURNT else set()
    checks = [
        wanted.issuer_id in (None, one.issuer_id),
        wanted.serial in (None, one.serial),
        wanted.fingerprint in (None, one.fingerprint),
        wanted.spki_sha256 in (None, one.spki_sha256),
        wanted.subject is None or subject_key(wanted.subject) == subject_key(one.subject),
        wanted.subject_prefix is None or folded(one.subject).startswith(folded(wanted.subject_prefix)),
        wanted.san is None or (wanted.san.kind, san_key(wanted.san)) in keys,
        wanted.san_prefix is None
        or any(kind is wanted.san_prefix.kind and value.startswith(san_key(wanted.san_prefix)) for kind, value in keys),
        wanted.template in (None, one.template),
        wanted.requester in (None, one.requester),
        wanted.state in (None, one.state),
        wanted.expires_from is None or one.not_after >= wanted.expires_from,
        wanted.expires_before is None or one.not_after < wanted.expires_before,
        wanted.templates is None or one.template in wanted.templates,
        wanted.generation_ids is None or one.generation_id in wanted.generation_ids,
    ]
    return all(checks)


def rarely(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.one_of(st.none(), st.none(), st.none(), strategy)


days = st.integers(-4, 4).map(lambda day: NOW + timedelta(days=day))
criteria = st.builds(
    Criteria,
    issuer_id=rarely(st.sampled_from([1, 2])),
    spki_sha256=rarely(st.integers(0, 4).map(lambda n: bytes([n]) * 32)),
    subject=rarely(st.sampled_from([*SUBJECTS, "cn=WEB 1,o=example", "nobody"])),
    subject_prefix=rarely(st.sampled_from(["CN=", "cn=web", "CN=Stras", "cn=long long", "x", ""])),
    san=rarely(st.sampled_from(SANS)),
    san_prefix=rarely(st.sampled_from([San(SanKind.DNS, ""), San(SanKind.DNS, "A."), San(SanKind.URI, "http://a")])),
    template=rarely(st.sampled_from(TEMPLATES)),
    requester=rarely(st.sampled_from(REQUESTERS)),
    state=rarely(st.sampled_from(sorted(set(CertificateState) - {"prepared", "asked"}))),
    expires_from=rarely(days),
    expires_before=rarely(days),
    templates=rarely(st.frozensets(st.sampled_from([*TEMPLATES, "gone"]))),
    generation_ids=rarely(st.frozensets(st.sampled_from([1, 2]))),
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=criteria, size=st.integers(1, 40), most=st.sampled_from([1, 3, 20, 10_000]))
def test_pages_hold_each_match_once(
    engine: Engine, everything: list[Certificate], wanted: Criteria, size: int, most: int
) -> None:
    found: list[Certificate] = []
    cursor = None
    with engine.connect() as connection:
        while True:
            page = certificates.search(connection, wanted, limit=size, cursor=cursor, most=most)
            found += page.certificates
            assert len(page.certificates) == size or page.cursor is None or (page.is_short and most < WRITTEN)
            cursor = page.cursor
            if cursor is None:
                break
    expected = [one for one in everything if meets(one, wanted)]
    if wanted.san_prefix is None:
        assert sorted(one.id for one in found) == [one.id for one in expected]
    else:  # a certificate comes once for each of its names that begins so
        assert {one.id for one in found} == {one.id for one in expected}


def test_single_certificates_are_found_by_serial_and_fingerprint(engine: Engine, everything: list[Certificate]) -> None:
    one = next(one for one in everything if one.state is CertificateState.HELD)
    with engine.connect() as connection:
        for wanted in (Criteria(serial=one.serial), Criteria(fingerprint=one.fingerprint, state=CertificateState.HELD)):
            assert certificates.search(connection, wanted).certificates == (one,)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cursor=st.one_of(st.text(), st.sampled_from(["WyJhbGwiLG51bGwsMV0", "WyJhbGwiLCJhIiwiYiJd", "W10", "bnVsbA"])))
def test_a_strange_cursor_is_refused_or_serves(engine: Engine, cursor: str) -> None:
    with engine.connect() as connection:
        try:
            outcome = certificates.search(connection, Criteria(), cursor=cursor).certificates
        except Rejected as refused:
            outcome = refused.reasons
    assert all(isinstance(one, Certificate) or one.code is Refusal.MALFORMED for one in outcome)


def test_a_cursor_of_another_search_is_refused(engine: Engine) -> None:
    with engine.connect() as connection:
        page = certificates.search(connection, Criteria(), limit=1)
        with pytest.raises(Rejected):
            certificates.search(connection, Criteria(subject_prefix="cn="), cursor=page.cursor)
        for limit in (0, certificates.PAGE_LIMIT + 1):
            with pytest.raises(Rejected):
                certificates.search(connection, Criteria(), limit=limit)


PLANS = [
    (Criteria(serial=5), "serial"),
    (Criteria(fingerprint=b"x"), "uq_certificate_fingerprint"),
    (Criteria(spki_sha256=b"x", template="t"), "ix_certificate_spki"),
    (Criteria(subject="CN=x", requester="r"), "ix_certificate_subject"),
    (Criteria(subject_prefix="CN=x", template="t"), "ix_certificate_subject"),
    (Criteria(san=SANS[0], state=CertificateState.ISSUED), "certificate_san"),
    (Criteria(san_prefix=SANS[0]), "certificate_san"),
    (Criteria(template="t", generation_ids=frozenset({1}), issuer_id=1), "ix_certificate_template"),
    (Criteria(requester="r", templates=frozenset({"t", "u"})), "ix_certificate_requester"),
    (Criteria(requester="r", template="t"), "ix_certificate_requester"),
    (Criteria(state=CertificateState.HELD, template="t"), "ix_certificate_exceptional"),
    (Criteria(state=CertificateState.REVOKED, template="t"), "ix_certificate_exceptional"),
    (Criteria(expires_from=NOW, expires_before=NOW, template="t"), "ix_certificate_expiry"),
    (Criteria(), "certificate"),
]


@pytest.mark.parametrize(("wanted", "index"), PLANS)
@pytest.mark.parametrize("following", [False, True])
def test_every_search_runs_along_an_index_in_order(
    engine: Engine, wanted: Criteria, index: str, *, following: bool
) -> None:
    with engine.connect() as connection:
        _, driver = build_queries(connection, wanted, 51, None)
        key = {"subject_prefix": "cn=x", "san_prefix": "a.example", "expires": 1}.get(driver.name)
        cursor = cursor_of(driver.name, key) if following else None
        queries, _ = build_queries(connection, wanted, 51, cursor)
        single = driver.name in {"serial", "fingerprint"}
        plan = "\n".join(plan_of(connection, query, sorting=single) for query in queries)
    assert "Seq Scan" not in plan
    if not single:
        assert "TEMP B-TREE" not in plan
        assert "Sort" not in plan
    if engine.dialect.name == "sqlite":
        assert index in plan
        scans = [line for line in plan.splitlines() if line.startswith("SCAN")]
        assert scans == (["SCAN certificate"] if wanted == Criteria() and not following else [])
    else:  # which of several indexes is best is for PostgreSQL's statistics to say
        assert index in plan or sum(value is not None for value in attrs.astuple(wanted)) > 1
        assert "Index" in plan


def cursor_of(driver: str, key: object) -> str:
    import base64
    import json

    return base64.urlsafe_b64encode(json.dumps([driver, key, 10]).encode()).decode().rstrip("=")


def plan_of(connection: Connection, query: object, *, sorting: bool) -> str:
    """The engine's plan; PostgreSQL, whose test table is small, is told what a large table tells it by itself."""
    compiled = query.compile(connection.engine, compile_kwargs={"literal_binds": True})  # type: ignore[attr-defined]
    if connection.dialect.name == "sqlite":
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}")
        return "\n".join(row.detail for row in rows)
    for setting in ("enable_seqscan", "enable_bitmapscan", *(() if sorting else ("enable_sort",))):
        connection.execute(text(f"SET LOCAL {setting} = off"))
    rows = connection.execute(text(f"EXPLAIN {compiled}".replace(":", r"\:")))
    return "\n".join(row[0] for row in rows)


def test_the_crl_stream_and_the_status_of_a_serial_run_along_an_index(engine: Engine) -> None:
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            statement = "EXPLAIN QUERY PLAN "
            column = 3
        else:
            connection.execute(text("SET LOCAL enable_seqscan = off"))
            connection.execute(text("SET LOCAL enable_sort = off"))
            connection.execute(text("SET LOCAL enable_bitmapscan = off"))
            statement, column = "EXPLAIN ", 0
        stream = (
            "SELECT serial FROM certificate WHERE generation_id = 1 AND revoked_at IS NOT NULL AND not_after >= 5"
            " ORDER BY not_after, id"
        )
        plan = "\n".join(row[column] for row in connection.execute(text(statement + stream)))
        assert "ix_certificate_revoked" in plan
        assert "TEMP B-TREE" not in plan
        assert "Sort" not in plan


def test_a_cursor_is_short_enough_to_be_sent_whatever_the_name(empty_url: str) -> None:
    migrate(empty_url)
    subjects = [f"CN={'漢' * 251}{turn}" for turn in range(2)]
    write(empty_url, lambda connection: [issue(connection, new_intent(subject=one)) for one in subjects])
    engine = reading_engine(parse_url(empty_url), 1)
    with engine.connect() as connection:
        wanted = Criteria(subject_prefix="cn=")
        first = certificates.search(connection, wanted, limit=1)
        assert len(first.cursor or "") <= 1536
        second = certificates.search(connection, wanted, limit=1, cursor=first.cursor)
    engine.dispose()
    assert {one.subject for one in (*first.certificates, *second.certificates)} == set(subjects)


def test_pages_of_addresses_that_tell_case_apart_go_on(empty_url: str) -> None:
    migrate(empty_url)
    sans = [San(SanKind.URI, f"https://x.example/{path}") for path in ("ABC", "ABD", "abc")]
    write(empty_url, lambda connection: [issue(connection, new_intent(sans=(one,))) for one in sans])
    engine = reading_engine(parse_url(empty_url), 1)
    found, cursor = [], None
    with engine.connect() as connection:
        for _ in sans:
            wanted = Criteria(san_prefix=San(SanKind.URI, "https://x.example/"))
            page = certificates.search(connection, wanted, limit=1, cursor=cursor)
            found += [one.sans[0] for one in page.certificates]
            cursor = page.cursor
    engine.dispose()
    assert (found, cursor) == (sans, None)


@pytest.mark.parametrize(
    "octets", [b"[" * 1150, b'["subject_prefix","\\u0000",1]', b'["subject_prefix",{},1]', b"[]", b"1"]
)
def test_what_is_no_cursor_is_refused_as_such(engine: Engine, octets: bytes) -> None:
    made = base64.urlsafe_b64encode(octets).decode().rstrip("=")
    with engine.connect() as connection, pytest.raises(Rejected, match="not the cursor of a page of this search"):
        certificates.search(connection, Criteria(subject_prefix="cn="), limit=1, cursor=made)
