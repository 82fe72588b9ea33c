"""Publishing to a customer's directory: a real slapd, what it holds after each change, and when it was away."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography import x509
from sqlalchemy import select
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater

from pkiserver.authority.delivery.queue import TargetDown
from pkiserver.authority.revocation import ByFingerprint, Order
from pkiserver.authority.status.turns import Turns
from pkiserver.foundation.clock import SystemClock
from pkiserver.foundation.tomlfile import ConfigurationError
from pkiserver.publication.contacts import ContactWriter
from pkiserver.publication.outward.comparing import DirectoryComparison
from pkiserver.publication.outward.entries import NO_ENTRY, Comparison
from pkiserver.publication.outward.settings import load_directory
from pkiserver.runtime.engine import Engine, open_engine
from pkiserver.runtime.health import Health
from pkiserver.runtime.services.outward import OutwardPublishing
from pkiserver.store.authority import templates
from pkiserver.store.certificates import RevocationReason
from pkiserver.store.names import address_keys, sans_of
from pkiserver.store.publication import outward
from pkiserver.store.publication.outward import DIRECTORY
from pkiserver.store.schema.outward import outward_task
from tests.protocols.addressbook.support import TEMPLATES, enrolled
from tests.support.clock import FakeClock
from tests.support.engines import engine_with
from tests.support.outward import deliver
from tests.support.ports import free_port
from tests.support.slapd import ADMIN, ADMIN_PASSWORD, SUFFIX, Slapd

reactor: Any = _reactor
ORDER = Order(actor="test", approved_by=None, comment="")
ALICE = ("alice@example.org",)


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOOK_WRITER", ADMIN_PASSWORD)


def directory_text(url: str, name: str = "corporate", more: str = "") -> str:
    return f"""
kind = "directory"
name = "{name}"
servers = ["{url}"]
insecure = true
base = "ou=people,{SUFFIX}"
bind_name = "{ADMIN}"
bind_password = "env:BOOK_WRITER"
connect_timeout = "1s"
answer_timeout = "2s"
{more}
"""


@attrs.frozen
class Outside:
    """An engine that publishes to a slapd, with a clock that the test moves."""

    engine: Engine
    slapd: Slapd
    clock: FakeClock

    def held(self, who: str = "alice") -> set[bytes]:
        """The certificates in somebody's entry."""
        shown = self.slapd.search(f"uid={who},ou=people,{SUFFIX}", "userCertificate")
        return {base64.b64decode(one) for one in re.findall(r"^userCertificate;binary:: (.*)$", shown, re.MULTILINE)}

    async def settled(self, who: str = "alice") -> set[bytes]:
        """The same, after all that is due was brought there."""
        (standing,) = await deliver(self.engine)
        assert (standing.waiting, standing.problem) == (0, None)
        return self.held(who)


async def add_directory(engine: Engine, text: str, name: str = "corporate") -> None:
    now = engine.clock.now()
    await engine.database.write(
        lambda connection: templates.put(connection, name, text, now=now, expected=None, kind=DIRECTORY)
    )
    await engine.refresh()
    assert engine.directories.problems() == ()


@asynccontextmanager
async def outside(tmp_path: Path, slapd: Slapd, *, url: str | None = None, more: str = "") -> AsyncIterator[Outside]:
    clock = FakeClock(SystemClock().now())
    async with engine_with(tmp_path, TEMPLATES, url=url, clock=clock) as engine:
        await add_directory(engine, directory_text(slapd.url, more=more))
        yield Outside(engine, slapd, clock)


def which(der: bytes) -> ByFingerprint:
    return ByFingerprint(hashlib.sha256(der).digest())


async def test_the_directory_follows_every_change(tmp_path: Path, slapd: Slapd, empty_url: str) -> None:
    async with outside(tmp_path, slapd, url=empty_url) as at:
        engine, revocations = at.engine, at.engine.status.revocations
        first = await enrolled(engine, "Alice", ALICE)
        assert await at.settled() == {first.der}
        newer = await enrolled(engine, "Alice", (*ALICE, "alice@elsewhere.example"))
        assert await at.settled() == {newer.der}, "of each kind of key only the newest"
        await revocations.hold(which(newer.der), ORDER)
        assert await at.settled() == {first.der}
        await revocations.release(which(newer.der), ORDER)
        assert await at.settled() == {newer.der}
        people = ContactWriter(engine.database, engine.audit, engine.clock)
        for address in (*ALICE, "alice@elsewhere.example"):
            await people.opt_out(address, out=True, by="test")
        assert await at.settled() == set()
        for address in (*ALICE, "alice@elsewhere.example"):
            await people.opt_out(address, out=False, by="test")
        assert await at.settled() == {newer.der}
        await revocations.revoke(which(newer.der), RevocationReason.SUPERSEDED, ORDER)
        assert await at.settled() == {first.der}
        at.clock.advance(timedelta(days=91))
        assert await at.settled() == set(), "nobody said so: the end of the certificate was planned for"


async def test_what_is_not_the_address_books_stays(tmp_path: Path, slapd: Slapd) -> None:
    async with outside(tmp_path, slapd) as at:
        other = await enrolled(at.engine, "Alice", ALICE, template="client")
        signing = await enrolled(at.engine, "Alice", ALICE, template="sign")
        foreign = at.engine.authorities.list()[0].current.certificate.der
        for der in (other.der, signing.der, foreign):
            text = base64.b64encode(der).decode()
            slapd.load(
                f"dn: uid=alice,ou=people,{SUFFIX}\nchangetype: modify\nadd: userCertificate;binary\n"
                f"userCertificate;binary:: {text}\n"
            )
        issued = await enrolled(at.engine, "Alice", ALICE)
        assert await at.settled() == {other.der, signing.der, foreign, issued.der}
        await at.engine.status.revocations.revoke(which(issued.der), RevocationReason.SUPERSEDED, ORDER)
        assert await at.settled() == {other.der, signing.der, foreign}


async def test_entries_with_several_addresses_hold_what_is_shown_for_all_of_them(tmp_path: Path, slapd: Slapd) -> None:
    async with outside(tmp_path, slapd) as at:
        one = await enrolled(at.engine, "Alice", ALICE)
        two = await enrolled(at.engine, "Alice", ("alice@elsewhere.example",))
        assert await at.settled() == {one.der, two.der}


async def test_a_directory_may_be_given_some_templates_only(tmp_path: Path, slapd: Slapd) -> None:
    async with outside(tmp_path, slapd, more='templates = ["history"]') as at:
        await enrolled(at.engine, "Alice", ALICE)
        assert await at.settled() == set()
        both = {(await enrolled(at.engine, "Alice", ALICE, template="history")).der for _ in range(2)}
        assert await at.settled() == both, "this template shows all that are in force"


async def test_a_directory_that_is_switched_off_gathers_what_changes(tmp_path: Path, slapd: Slapd) -> None:
    async with outside(tmp_path, slapd, more="enabled = false") as at:
        issued = await enrolled(at.engine, "Alice", ALICE)
        await looked(at.engine)
        assert at.held() == set()
        key = outward.directory_key("corporate")
        (task,) = await at.engine.database.read(lambda c: outward.due(c, key, now=at.clock.now(), limit=9))
        assert task.subject == "alice@example.org"
        now, text = at.clock.now(), directory_text(slapd.url)
        await at.engine.database.write(
            lambda c: templates.put(c, "corporate", text, now=now, expected=1, kind=DIRECTORY)
        )
        await at.engine.refresh()
        await looked(at.engine)
        assert at.held() == {issued.der}
        await at.engine.database.write(lambda c: templates.remove(c, "corporate", expected=2, kind=DIRECTORY))
        await at.engine.refresh()
        publishing = await looked(at.engine)
        await publishing.forget()
        assert await at.engine.database.read(outward.targets) == ()


async def test_an_address_is_a_value_in_the_filter_whatever_it_has(tmp_path: Path, slapd: Slapd) -> None:
    async with outside(tmp_path, slapd) as at:
        odd = "a*e@example.org"
        slapd.load(
            f"dn: uid=odd,ou=people,{SUFFIX}\nobjectClass: inetOrgPerson\nuid: odd\ncn: Odd\nsn: Odd\nmail: {odd}\n"
        )
        wild = await enrolled(at.engine, "Wild", ("a*@example.org",))
        issued = await enrolled(at.engine, "Odd", (odd,))
        (standing,) = await deliver(at.engine)
        assert standing.refused == 1, "nobody has the address that only a pattern would match"
        assert at.held("odd") == {issued.der}
        assert wild.der not in at.held()


async def looked(engine: Engine) -> OutwardPublishing:
    """A process's publishing after one round."""
    publishing = OutwardPublishing(engine, "another process")
    await publishing.run_due()
    while publishing.busy:
        await deferLater(reactor, 0.01)
    return publishing


async def test_a_directory_that_is_away_is_served_when_it_is_back_and_delays_no_other(
    tmp_path: Path, slapd: Slapd, empty_url: str
) -> None:
    async with outside(tmp_path, slapd, url=empty_url) as at:
        engine = at.engine
        await add_directory(engine, directory_text(f"ldap://127.0.0.1:{free_port()}", "away"), "away")
        issued = await enrolled(engine, "Alice", ALICE)
        down, up = await deliver(engine)
        assert (down.waiting, down.attempts, up.waiting) == (1, 1, 0)
        assert at.held() == {issued.der}
        slapd.stop()
        newer = await enrolled(engine, "Alice", ALICE)
        for _ in range(3):
            _, standing = await deliver(engine)
        assert standing.attempts == 1, "it is left alone until the pause is over"
        publishing = await looked(engine)
        findings = {one.name: one for one in await publishing.check().run()}
        assert findings["directory/away"].health is Health.WARNING
        settings = engine.settings
    slapd.start()
    later = FakeClock(at.clock.now() + timedelta(minutes=1))
    async with open_engine(settings, clock=later) as engine:
        _, standing = await deliver(engine)
        assert (standing.waiting, standing.attempts, standing.problem) == (0, 0, None)
        assert at.held() == {newer.der}, "what was to be brought outlives a restart"
        publishing = await looked(engine)
        figures = {one.name: one.samples for one in publishing.collect()}
        assert {one.labels["target"] for one in figures["pkiserver_outward_waiting"]} == {
            "directory/away",
            "directory/corporate",
        }


async def test_a_refused_entry_is_told_of_and_tried_again_later(tmp_path: Path, slapd: Slapd) -> None:
    async with outside(tmp_path, slapd) as at:
        issued = await enrolled(at.engine, "Nobody Yet", ("new@example.org",))
        (standing,) = await deliver(at.engine)
        assert (standing.refused, standing.problem) == (1, None)
        key = outward.directory_key("corporate")
        told = await at.engine.database.read(lambda c: outward.problems(c, key, after="", limit=9))
        assert told == (("new@example.org", NO_ENTRY),)
        slapd.load(
            f"dn: uid=new,ou=people,{SUFFIX}\nobjectClass: inetOrgPerson\nuid: new\ncn: N\nsn: N\n"
            "mail: new@example.org\n"
        )
        at.clock.advance(timedelta(minutes=2))
        assert await at.settled("new") == {issued.der}


async def test_two_writers_of_a_change_do_not_lose_it(tmp_path: Path, slapd: Slapd, empty_url: str) -> None:
    async with outside(tmp_path, slapd, url=empty_url) as at:
        await enrolled(at.engine, "Alice", ALICE)
        key, now = outward.directory_key("corporate"), at.clock.now()
        database = at.engine.database
        (task,) = await database.read(lambda c: outward.due(c, key, now=now, limit=9))
        await enrolled(at.engine, "Alice", ALICE)
        await database.write(lambda c: outward.done(c, task, again=None))
        (again,) = await database.read(lambda c: outward.due(c, key, now=now, limit=9))
        assert (again.subject, again.version) == ("alice@example.org", task.version + 1)
        far = now + timedelta(days=9)
        await database.write(lambda c: outward.schedule(c, key, [("alice@example.org", far)]))
        assert await database.read(lambda c: outward.due(c, key, now=now, limit=9)) == (again,), "not what resync saw"
        await database.write(lambda c: outward.failed(c, again, "no", again=now + timedelta(hours=1)))
        standing = await database.read(lambda c: outward.standing(c, key, now=now))
        assert (standing.waiting, standing.refused) == (1, 1)
        assert await database.read(outward.targets) == (key,)
        await database.write(lambda c: outward.forget(c, key))
        assert await database.read(outward.targets) == ()


def test_addresses_beyond_ascii_are_told_of_too() -> None:
    text = "jürgen@example.org".encode()
    utf8 = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.9"), bytes((0x0C, len(text))) + text)
    names = sans_of(x509.SubjectAlternativeName([x509.RFC822Name("J@Example.org"), utf8, x509.DNSName("a.example")]))
    assert address_keys(names) == {"j@example.org", "jürgen@example.org"}


async def differences(at: Outside) -> list[Comparison]:
    comparison = DirectoryComparison(
        at.engine.directories.get("corporate"), at.engine.database, seen=lambda progress: None
    )
    return [one async for one in comparison.differences()]


async def test_a_full_resynchronisation_mends_what_the_report_tells(
    tmp_path: Path, slapd: Slapd, empty_url: str
) -> None:
    async with engine_with(tmp_path, TEMPLATES, url=empty_url) as engine:
        # before there was a directory
        issued = await enrolled(engine, "Alice", ALICE)
        old = await enrolled(engine, "Bob", ("bob@example.org",))
        many = [await enrolled(engine, f"U{n}", (f"u{n:03}@example.org",)) for n in range(7)]
        for n, one in enumerate(many):
            slapd.load(
                f"dn: uid=u{n},ou=people,{SUFFIX}\nobjectClass: inetOrgPerson\nuid: u{n}\ncn: U\nsn: U\n"
                f"mail: u{n:03}@example.org\nuserCertificate;binary:: {base64.b64encode(one.der).decode()}\n"
            )
        # Bob's entry has no address, and holds a certificate of his that is revoked
        text = base64.b64encode(old.der).decode()
        slapd.load(
            f"dn: uid=bob,ou=people,{SUFFIX}\nchangetype: modify\nadd: userCertificate;binary\n"
            f"userCertificate;binary:: {text}\n"
        )
        await engine.status.revocations.revoke(which(old.der), RevocationReason.SUPERSEDED, ORDER)
        await add_directory(engine, directory_text(slapd.url))
        at = Outside(engine, slapd, FakeClock())
        found = {one.dn: one for one in await differences(at)}
        assert set(found) == {f"uid=alice,ou=people,{SUFFIX}", f"uid=bob,ou=people,{SUFFIX}"}
        assert found[f"uid=alice,ou=people,{SUFFIX}"].missing == (issued.der,)
        assert found[f"uid=bob,ou=people,{SUFFIX}"].wanted.surplus == (old.der,)
        comparison = DirectoryComparison(
            engine.directories.get("corporate"), engine.database, seen=lambda progress: None
        )
        turns = Turns(engine.database, engine.clock, "resync")
        assert [one async for one in comparison.resync(turns)] == []
        assert comparison.progress.mended == 2
        assert (at.held("alice"), at.held("bob")) == ({issued.der}, set())
        assert await differences(at) == []
        key = outward.directory_key("corporate")
        tasks = outward_task.c
        mine = select(tasks.due).where(tasks.target == key, tasks.subject == "u003@example.org")
        planned = await engine.database.read(lambda c: c.execute(mine).scalars().all())
        assert len(planned) == 1, "its end is planned for"
        slapd.stop()
        with pytest.raises(TargetDown, match="refused"):
            await differences(at)


async def test_a_long_directory_is_read_in_pages(tmp_path: Path, slapd: Slapd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pkiserver.publication.outward.comparing.PAGE", 3)
    async with outside(tmp_path, slapd) as at:
        for n in range(8):
            slapd.load(
                f"dn: uid=p{n},ou=people,{SUFFIX}\nobjectClass: inetOrgPerson\nuid: p{n}\ncn: P\nsn: P\n"
                f"mail: p{n}@example.org\n"
            )
            await enrolled(at.engine, f"P{n}", (f"p{n}@example.org",))
        assert len(await differences(at)) == 8
        (standing,) = await deliver(at.engine)
        assert standing.waiting == 0
        seen = []
        comparison = DirectoryComparison(at.engine.directories.get("corporate"), at.engine.database, seen=seen.append)
        assert [one async for one in comparison.differences()] == []
        assert (seen[-1].addresses, seen[-1].entries) == (8, 8)
        assert [one.entries for one in seen][-3:] == [3, 6, 8]


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (("insecure = true", ""), "the password would be in the clear"),
        (("ldap://", "ldaps://"), "TLS needs"),
        (('kind = "directory"', 'kind = "directory"\nfilter = "(mail=x)"'), "does not name the address"),
        (('kind = "directory"', 'kind = "directory"\nfilter = "(mail=$(mail)"'), "is not closed"),
        (('kind = "directory"', 'kind = "directory"\ncertificate_attribute = "a b"'), "is no attribute"),
        (('answer_timeout = "2s"', 'answer_timeout = "60s"'), "at most 20s"),
        (("env:BOOK_WRITER", "secret"), "reference to a secret"),
        (('kind = "directory"', 'kind = "directory"\nunknown = 1'), "unknown"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: tuple[str, str], wanted: str) -> None:
    text = directory_text("ldap://127.0.0.1:389")
    assert load_directory(text, "corporate.toml").user_certificate == "userCertificate;binary"
    with pytest.raises(ConfigurationError, match=wanted):
        load_directory(text.replace(*change), "corporate.toml")


def test_the_documented_directory_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "protocols" / "addressbook.md").read_text()
    (text,) = [one for one in re.findall(r"```toml\n(.*?)```", page, re.DOTALL) if 'kind = "directory"' in one]
    documented = load_directory(text, "addressbook.md")
    default = load_directory(directory_text("ldap://127.0.0.1"), "x")
    for name in ("filter", "mail_attributes", "user_certificate", "active_directory", "templates"):
        assert getattr(documented, name) == getattr(default, name)
    assert default.smime_attribute is None
