"""Revocation lists of other authorities that come from places which give an older one now and then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.logger import capturedLogs

from pkiserver.foundation.clock import SystemClock
from pkiserver.foundation.errors import Unavailable
from pkiserver.registration.connectors.certificate import ForeignCertificates
from pkiserver.registration.connectors.certsettings import CrlSource
from pkiserver.registration.connectors.crlkeeping import KeptLists, OlderListError
from pkiserver.registration.connectors.settings import load_connector
from pkiserver.registration.connectors.values import Denied, Shown
from tests.registration.connectors.test_certificate import Adjustable, device
from tests.support.tlsfiles import TestCa

Making = Callable[..., ForeignCertificates]


@pytest.fixture
def ca(tmp_path: Path) -> TestCa:
    made = TestCa(tmp_path, "Maker CA")
    (tmp_path / "crl.pem").write_bytes(made.crl())
    return made


@pytest.fixture
def made(ca: TestCa) -> Iterator[Making]:
    opened: list[ForeignCertificates] = []

    def make(*places: Path) -> ForeignCertificates:
        crls = ", ".join(f'"file:{place}"' for place in places)
        table = f"[certificate]\nanchors = '''{ca.pem}'''\nname = \"subject.serial_number\"\ncrls = [{crls}]\n"
        settings = load_connector(f'name = "factory"\nkind = "connector"\n{table}', "factory.toml").certificate
        assert settings is not None
        opened.append(ForeignCertificates("factory", settings, SystemClock()))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


OLD, NEW = timedelta(hours=2), timedelta(hours=1)


@pytest.mark.parametrize(
    ("number", "age"),
    [(4, OLD), (4, NEW), (5, OLD), (6, OLD)],
    ids=["both", "lower number", "earlier date", "earlier date under a higher number"],
)
async def test_a_mirror_that_lags_behind_makes_nobody_good_again(
    ca: TestCa, made: Making, tmp_path: Path, number: int, age: timedelta
) -> None:
    one = device(ca, "one")
    connector = made(tmp_path / "crl.pem")

    async def given(octets: bytes) -> object:
        (tmp_path / "crl.pem").write_bytes(octets)
        connector._material = None  # it is time to read again
        return await connector.identify(one, ())

    assert isinstance(await given(ca.crl(one, number=5, age=NEW)), Denied)
    older = ca.crl(number=number, age=age)
    with capturedLogs() as captured:
        assert isinstance(await given(older), Denied)
        assert isinstance(await given(older), Denied)
    assert sum("is older than list 5" in event.get("why", "") for event in captured) == 1
    # a forger's list with a high number neither opens the way for an older one nor keeps a genuine one out
    forged = x509.load_pem_x509_crl(ca.crl(number=99, age=timedelta())).public_bytes(Encoding.DER)
    for octets in (forged[:-1] + bytes((forged[-1] ^ 1,)), older):
        with pytest.raises(Unavailable, match="no CRL in force"):
            await given(octets)
    assert isinstance(await given(ca.crl(one, number=5, age=NEW)), Denied)
    assert isinstance(await given(ca.crl(number=6)), Shown), "it was on hold"


async def test_a_list_of_an_authority_below_the_anchor_is_kept_as_well(
    ca: TestCa, made: Making, tmp_path: Path
) -> None:
    below = TestCa(tmp_path, "Line CA")
    between = below.under(ca)
    one, other = device(below, "one"), device(below, "other")
    connector = made(tmp_path / "crl.pem", tmp_path / "line.pem")
    connector._clock = clock = Adjustable()
    (tmp_path / "line.pem").write_bytes(below.crl(one, number=5, age=NEW))
    assert isinstance(await connector.identify(other, (between,)), Shown)
    (tmp_path / "line.pem").write_bytes(below.crl(number=4, age=OLD))
    clock.ahead += 3601
    assert isinstance(await connector.identify(one, (between,)), Denied)


def test_an_authority_may_number_anew_once_its_last_list_has_ended(ca: TestCa) -> None:
    place, kept = CrlSource.parse("file:/x"), KeptLists()
    now = datetime.now(UTC)
    kept.take(place, ca.crl(number=5, age=NEW), (ca.certificate,), now)
    with pytest.raises(OlderListError):
        kept.take(place, ca.crl(number=1, age=timedelta()), (ca.certificate,), now)
    kept.take(place, ca.crl(number=1, age=timedelta()), (ca.certificate,), now + timedelta(days=2))


def test_a_list_that_was_made_while_the_clock_was_wrong_keeps_no_later_one_out(ca: TestCa) -> None:
    place, kept = CrlSource.parse("file:/x"), KeptLists()
    now = datetime.now(UTC)
    kept.take(place, ca.crl(number=5, age=-timedelta(hours=20)), (ca.certificate,), now)
    with pytest.raises(OlderListError):
        kept.take(place, ca.crl(number=4, age=NEW), (ca.certificate,), now)
    right = kept.take(place, ca.crl(number=6, age=timedelta()), (ca.certificate,), now)
    assert kept.get(place) == right
