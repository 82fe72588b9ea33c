"""A search over hundreds of templates of which one is busy: a page looks at as much of that one as of any other."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, Engine, insert

from pkiserver.store import certificates
from pkiserver.store.certificates import CertificateState, Criteria
from pkiserver.store.engines import parse_url, reading_engine
from pkiserver.store.migrate import migrate
from pkiserver.store.schema.certificates import certificate
from pkiserver.store.times import to_micros
from tests.support.steps import steps_of
from tests.support.stored import NOW, write

TEMPLATES = [f"device-{number:03}" for number in range(300)]
BUSY = 20_000
MOST = 1000
SCOPE = frozenset([*TEMPLATES, "busy"])


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Below as many revoked certificates of one template, an issued one of each other."""
    url = f"sqlite:///{tmp_path_factory.mktemp('scoped') / 'pki.db'}"
    migrate(url)
    write(url, fill)
    return reading_engine(parse_url(url), 1)


def fill(connection: Connection) -> None:
    now = to_micros(NOW)
    common = {"issuer_id": 1, "generation_id": 1, "subject": "CN=x", "subject_key": "cn=x", "sans": "[]"}
    common |= {
        "not_before": now,
        "not_after": now,
        "created": now,
        "settled": now,
        "spki_sha256": b"",
        "request_id": "",
    }
    common |= {"requester": "alice", "protocol": "est"}
    fates = [(name, "issued") for name in TEMPLATES] + [("busy", "revoked")] * BUSY
    rows = [
        {**common, "id": number, "serial": number.to_bytes(20), "template": template, "state": state}
        for number, (template, state) in enumerate(fates, 1)
    ]
    connection.execute(insert(certificate), rows)


@pytest.mark.parametrize("templates", [SCOPE, frozenset(["busy"])])
def test_pages_of_which_hardly_a_certificate_is_wanted_come_on_as_fast_beside_many_templates(
    engine: Engine, templates: frozenset[str]
) -> None:
    wanted = Criteria(state=CertificateState.ISSUED, templates=templates)
    found: list[str] = []
    pages, cursor = 0, None
    with engine.connect() as connection:
        while True:
            page = certificates.search(connection, wanted, limit=50, cursor=cursor, most=MOST)
            found += [one.template for one in page.certificates]
            pages += 1
            if (cursor := page.cursor) is None:
                break
    assert found == sorted(set(TEMPLATES) & templates, reverse=True)
    assert pages <= BUSY / MOST + len(found) / 50 + 2


def test_a_page_costs_by_what_it_may_look_at(engine: Engine) -> None:
    def steps(most: int) -> int:
        wanted = Criteria(state=CertificateState.ISSUED, templates=SCOPE)
        return steps_of(connection, lambda c: certificates.search(c, wanted, limit=50, most=most))

    with engine.connect() as connection:
        few, many = steps(MOST), steps(11 * MOST)
    assert (many - few) / (10 * MOST) < 20
