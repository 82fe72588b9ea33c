"""CRLs brought to directories, by SFTP, by HTTP PUT and to LDAP: real servers, and none that fails delays another."""

from __future__ import annotations

import os
import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from twisted.conch.ssh.keys import Key
from twisted.internet import reactor as _reactor
from twisted.internet.threads import blockingCallFromThread

from pkiserver.authority.delivery.service import LONGEST_PAUSE, TargetDeliveries
from pkiserver.authority.delivery.settings import CrlTarget, DirectoryTarget, LdapTarget, PutTarget, SftpTarget
from pkiserver.authority.status.points import DeltaPolicy, Partition, Point
from pkiserver.authority.status.turns import Turns
from pkiserver.foundation.errors import Unavailable
from pkiserver.foundation.tomlfile import ConfigurationError
from pkiserver.runtime.configfile import load_settings
from pkiserver.store import leases
from pkiserver.store.authority.crls import Covers, CrlKind
from protocols.web.factory import HttpServerFactory
from protocols.web.limits import WebLimits
from protocols.web.router import Router
from protocols.web.values import Method, Request, Response, Route
from tests.authority.crl_world import MINUTE, configure, path_of, point_urls, published, serials, value
from tests.authority.status_world import StatusWorld, lint_crl
from tests.support.sftpserver import USER, SftpServer
from tests.support.slapd import ADMIN, ADMIN_PASSWORD, SUFFIX, Slapd

reactor: Any = _reactor
DELTA = DeltaPolicy(interval=10 * MINUTE, validity=40 * MINUTE)


def to(at: StatusWorld, target: CrlTarget, holder: str = "test") -> TargetDeliveries:
    database = at.world.database
    turns = Turns(database, at.clock, holder)
    authorities = at.world.road.authorities
    return TargetDeliveries(target, node="ca1", database=database, authorities=authorities, turns=turns, clock=at.clock)


async def test_a_directory_has_the_lists_by_the_names_of_their_urls(at: StatusWorld, tmp_path: Path) -> None:
    await configure(at, delta=DELTA, points=(Point(), Point(partition=Partition.SHARDS, shards=2)))
    await at.status.schedule.run_due()
    delivery = to(at, DirectoryTarget(name="www", directory=tmp_path / "www"))
    assert await delivery.run_due() == 7
    assert await delivery.run_due() == 0
    found = {str(one.relative_to(tmp_path / "www")) for one in (tmp_path / "www").rglob("*") if one.is_file()}
    assert found == {
        "root-1.crl", "issuing-1.crl", "issuing-1/delta.crl", "issuing-1/shards/0.crl", "issuing-1/shards/0/delta.crl",
        "issuing-1/shards/1.crl", "issuing-1/shards/1/delta.crl",
    }  # fmt: skip
    file = tmp_path / "www" / "issuing-1" / "delta.crl"
    assert file.read_bytes() == await published(at, "issuing-1", CrlKind.DELTA)
    assert file.stat().st_mode & 0o777 == 0o644
    at.clock.advance(10 * MINUTE)
    await at.status.schedule.run_due()
    assert await delivery.run_due() == 3
    assert file.read_bytes() == await published(at, "issuing-1", CrlKind.DELTA)


@pytest.mark.parametrize("renames", [True, False])
async def test_sftp_with_our_key_to_a_known_host(
    at: StatusWorld, sftp: Callable[..., SftpServer], renames: bool
) -> None:
    server = sftp(renames=renames)
    await at.status.schedule.run_due()
    target = SftpTarget(
        name="mirror",
        sftp=f"{USER}@127.0.0.1:{server.port}",
        key=server.client_key,
        known_hosts=server.known_hosts,
        folder="pki/crl",
    )
    delivery = to(at, target)
    assert await delivery.run_due() == 2, delivery.standing.problem
    place = server.root / "pki" / "crl" / "issuing-1.crl"
    assert place.read_bytes() == await published(at, "issuing-1")
    at.clock.advance(timedelta(hours=1))
    await at.status.schedule.run_due()
    assert await delivery.run_due() == 2, delivery.standing.problem
    assert place.read_bytes() == await published(at, "issuing-1")
    assert [one.name for one in place.parent.iterdir() if one.name.startswith(".")] == []


async def test_sftp_refuses_a_host_that_it_does_not_know(
    at: StatusWorld, sftp: Callable[..., SftpServer], tmp_path: Path
) -> None:
    server = sftp()
    await at.status.schedule.run_due()
    other = Key(ed25519.Ed25519PrivateKey.generate())
    changed, empty = tmp_path / "changed", tmp_path / "empty"
    changed.write_text(f"[127.0.0.1]:{server.port} {other.public().toString('openssh').decode()}\n")
    empty.write_text("")
    stranger = tmp_path / "stranger"
    stranger.write_bytes(other.toString("openssh"))
    for number, (key, known_hosts, why) in enumerate(
        [
            (server.client_key, changed, "ANOTHER"),
            (server.client_key, empty, "is not in"),
            (stranger, server.known_hosts, "our key is refused"),
            (tmp_path / "nothing", server.known_hosts, "No such file"),
        ]
    ):
        address = f"{USER}@127.0.0.1:{server.port}"
        delivery = to(at, SftpTarget(name=f"m{number}", sftp=address, key=key, known_hosts=known_hosts))
        assert await delivery.run_due() == 0
        assert why in (delivery.standing.problem or "")
    assert list(server.root.iterdir()) == []


async def test_lists_are_put_to_a_web_server_and_again_after_it_failed(
    at: StatusWorld, web: PutServer, tmp_path: Path
) -> None:
    await configure(at, delta=DELTA)
    await at.status.schedule.run_due()
    password = tmp_path / "password"
    password.write_text("a secret\n")
    target = PutTarget(name="cdn", put=f"{web.url}/put", user="pki", password_source=f"file:{password}")
    delivery = to(at, target)
    web.status = 500
    assert await delivery.run_due() == 0
    assert "status 500" in (delivery.standing.problem or "")
    web.status = 201
    at.clock.advance(MINUTE)
    assert await delivery.run_due() == 3
    assert delivery.standing.problem is None
    assert web.taken["/put/issuing-1.crl"] == await published(at, "issuing-1")
    assert web.taken["/put/issuing-1/delta.crl"] == await published(at, "issuing-1", CrlKind.DELTA)
    assert web.seen == {("application/pkix-crl", "Basic cGtpOmEgc2VjcmV0")}


def ldap_target(slapd: Slapd, folder: Path, name: str, entry: str) -> LdapTarget:
    """Entries of a slapd, written as its administrator."""
    password = folder / "password"
    password.write_text(ADMIN_PASSWORD)
    return LdapTarget(name=name, ldap=(slapd.url,), entry=entry, bind_dn=ADMIN, password_source=f"file:{password}")


async def test_an_ldap_directory_has_them_as_rfc_4523_says(at: StatusWorld, slapd: Slapd, tmp_path: Path) -> None:
    await configure(at, delta=DELTA, points=(Point(), Point(covers=Covers.AUTHORITIES)))
    await at.status.schedule.run_due()
    delivery = to(at, ldap_target(slapd, tmp_path, "directory", f"cn={{name}},{SUFFIX}"))
    assert await delivery.run_due() == 5, delivery.standing.problem
    at.clock.advance(timedelta(hours=1))
    await at.status.schedule.run_due()
    assert await delivery.run_due() == 5, delivery.standing.problem
    shown = slapd.search(f"cn=issuing-1,{SUFFIX}")
    values = dict(re.findall(r"^(\w+);binary:: (\S+)$", shown, re.MULTILINE))
    assert b64decode(values["certificateRevocationList"]) == await published(at, "issuing-1")
    assert b64decode(values["deltaRevocationList"]) == await published(at, "issuing-1", CrlKind.DELTA)
    shown = slapd.search(f"cn=issuing-1.authorities,{SUFFIX}")
    values = dict(re.findall(r"^(\w+);binary:: (\S+)$", shown, re.MULTILINE))
    assert values.keys() == {"authorityRevocationList", "deltaRevocationList"}
    assert b64decode(values["authorityRevocationList"]) == await published(at, "issuing-1/authorities")


async def test_a_list_is_where_the_ldap_url_of_its_certificates_leads(
    at: StatusWorld, slapd: Slapd, tmp_path: Path
) -> None:
    """Also that of a shard, whose path has slashes; and its name is encoded in it as in the certificate."""
    place = f"{slapd.url}/cn={{name}},{SUFFIX}?certificateRevocationList;binary"
    shards = Point(partition=Partition.SHARDS, shards=2)
    await configure(at, points=(shards,), urls=("{base}/crl/{path}.crl", place))
    issued = await at.certificate()
    await at.revoke(issued)
    await at.status.schedule.run_due()
    password = tmp_path / "password"
    password.write_text(ADMIN_PASSWORD)
    target = LdapTarget(
        name="directory",
        ldap=(slapd.url,),
        entry=f"cn={{name}},{SUFFIX}",
        bind_dn=ADMIN,
        password_source=f"file:{password}",
    )
    assert await to(at, target).run_due() == 3
    http, ldap = point_urls(issued.der)
    dn, _, attribute = ldap.removeprefix(f"{slapd.url}/").partition("?")
    shown = slapd.search(dn, attribute)
    [text] = re.findall(r"^certificateRevocationList;binary:: (\S+)$", shown, re.MULTILINE)
    crl = x509.load_der_x509_crl(b64decode(text))
    assert {one.partition(":")[0] for one in lint_crl(b64decode(text))} == {"pkix.ldap_uri_not_validated"}
    assert b64decode(text) == await published(at, path_of(http))
    assert serials(crl) == {issued.serial}
    parsed = x509.load_der_x509_certificate(issued.der)
    point = value(parsed, x509.CRLDistributionPoints).public_bytes()
    assert point[point.index(b"\xa0") :] in value(crl, x509.IssuingDistributionPoint).public_bytes()


async def test_a_directory_that_refers_elsewhere_is_told_and_nobody_is_followed(
    at: StatusWorld, slapd: Slapd, tmp_path: Path
) -> None:
    """A replica that takes no changes, say: the password is for the servers that are set."""
    await at.status.schedule.run_due()
    slapd.load(
        f"dn: ou=moved,{SUFFIX}\nobjectClass: referral\nobjectClass: extensibleObject\nou: moved\n"
        f"ref: ldap://127.0.0.1:1/ou=moved,{SUFFIX}\n"
    )
    delivery = to(at, ldap_target(slapd, tmp_path, "replica", f"cn={{name}},ou=moved,{SUFFIX}"))
    assert await delivery.run_due() == 0
    assert "referral" in (delivery.standing.problem or "")


async def test_a_target_that_fails_is_left_alone_longer_and_longer(at: StatusWorld, tmp_path: Path) -> None:
    await at.status.schedule.run_due()
    (tmp_path / "file").write_text("in the way")
    failing = to(at, DirectoryTarget(name="bad", directory=tmp_path / "file"))
    fine = to(at, DirectoryTarget(name="good", directory=tmp_path / "good"))
    tries = 0
    for _ in range(120):
        before = failing.standing.failing_for
        await failing.run_due()
        tries += failing.standing.failing_for > before
        at.clock.advance(timedelta(seconds=30))
    assert 5 <= tries <= 15
    assert failing.standing.waiting == 2
    assert "in the way" not in (failing.standing.problem or "")
    assert await fine.run_due() == 2
    (tmp_path / "file").unlink()
    at.clock.advance(LONGEST_PAUSE)
    assert await failing.run_due() == 2
    assert failing.standing.problem is None


async def test_one_list_that_a_target_will_not_have_does_not_hold_up_the_others(
    at: StatusWorld, tmp_path: Path
) -> None:
    await at.status.schedule.run_due()
    (tmp_path / "www" / "root-1.crl").mkdir(parents=True)
    delivery = to(at, DirectoryTarget(name="www", directory=tmp_path / "www"))
    assert await delivery.run_due() == 1
    assert "root-1.crl" in (delivery.standing.problem or "")
    at.clock.advance(timedelta(hours=1))
    await at.status.schedule.run_due()
    await delivery.run_due()
    assert (tmp_path / "www" / "issuing-1.crl").read_bytes() == await published(at, "issuing-1")


async def test_a_target_that_is_moved_has_the_lists_at_its_new_place(at: StatusWorld, tmp_path: Path) -> None:
    """At once: the list of an offline root would be missing there for months."""
    await at.status.schedule.run_due()
    for place in ("old", "new"):
        delivery = to(at, DirectoryTarget(name="www", directory=tmp_path / place))
        assert await delivery.run_due() == 2
        assert await delivery.run_due() == 0
        assert (tmp_path / place / "issuing-1.crl").read_bytes() == await published(at, "issuing-1")


async def test_what_a_process_that_died_left_half_written_is_cleared_away(at: StatusWorld, tmp_path: Path) -> None:
    await at.status.schedule.run_due()
    (tmp_path / "www").mkdir()
    abandoned, begun = (tmp_path / "www" / f".crl-{name}" for name in ("abcdefgh", "ijklmnop"))
    for one in (abandoned, begun):
        one.write_bytes(b"half")
    os.utime(abandoned, (0, 0))
    (tmp_path / "www" / ".htaccess").write_bytes(b"not ours")
    assert await to(at, DirectoryTarget(name="www", directory=tmp_path / "www")).run_due() == 2
    found = {one.name for one in (tmp_path / "www").iterdir()}
    assert found == {".htaccess", begun.name, "issuing-1.crl", "root-1.crl"}, "another node may be writing this moment"


async def test_two_processes_deliver_once_and_one_that_slept_records_nothing(at: StatusWorld, tmp_path: Path) -> None:
    await at.status.schedule.run_due()
    target = DirectoryTarget(name="www", directory=tmp_path / "www")
    assert sorted([await to(at, target, holder).run_due() for holder in ("one", "two")]) == [0, 2]
    at.clock.advance(timedelta(hours=1))
    await at.status.schedule.run_due()
    name = "crl-target:ca1/www"
    await at.world.database.write(
        lambda c: leases.acquire(c, name, "another", now=at.clock.now(), lasting=timedelta(seconds=60))
    )
    assert await to(at, target).run_due() == 0, "another process is at it"

    class Slow:
        async def deliver(self, parcel: object) -> None:
            at.clock.advance(timedelta(minutes=5))

    at.clock.advance(timedelta(minutes=2))
    turns = Turns(at.world.database, at.clock, "slow")
    slow = TargetDeliveries(
        target,
        node="ca1",
        database=at.world.database,
        authorities=at.world.road.authorities,
        turns=turns,
        clock=at.clock,
        through=Slow(),
    )
    with pytest.raises(Unavailable):
        await slow.run_due()
    assert await to(at, target).run_due() == 2


LDAP = 'name = "x"\nentry = "cn={name}"\nbind_dn = "cn=a"\npassword_source = "file:/p"\n'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('name = "x"\nput = "https://cdn.example/crl"', "whom to trust"),
        ('name = "x"\nput = "http://cdn.example/crl/"', "no URL to put below"),
        ('name = "x"\nsftp = "mirror.example"\nkey = "k"\nknown_hosts = "h"', "no account"),
        ('name = "x"\nput = "https://me:secret@cdn.example/crl"\ntrust = "t"', r"is no URL .*settings of their own"),
        ('name = "x"\nput = "http://cdn.example:0/crl"', "no URL to put below"),
        (
            'name = "x"\nput = "http://cdn.example/crl"\nuser = "u"\npassword_source = "file:/p"',
            "in the clear .allowed: https",
        ),
        ('name = "x"\nsftp = "me@mirror.example:70000"\nkey = "k"\nknown_hosts = "h"', r"no account.*USER@HOST\[:PORT"),
        (f'{LDAP}ldap = ["ldap://localhost/dc=x"]', r"no LDAP server .allowed: ldap://HOST\[:PORT"),
        (f"{LDAP}ldap = []", "names no server"),
        (f'{LDAP}ldap = ["ldap://localhost:3268"]', "Global Catalog"),
        (f'{LDAP}ldap = ["ldap://directory.example"]', "in the clear .allowed: ldaps"),
        (f'{LDAP}ldap = ["ldaps://directory.example"]', "whom to trust"),
        (f'{LDAP}ldap = ["ldaps://directory.example"]\nstart_tls = true\ntrust = "t"', "goes with an ldap"),
        ('name = "x"\nldap = ["ldap://h"]\nentry = "cn=crl"\nbind_dn = "cn=a"\npassword_source = "file:/p"', "name"),
        ('name = "../x"\ndirectory = "d"', "allowed: 1 to 63"),
        ('name = "x"\ndirectory = "d"\n[[crl_target]]\nname = "x"\ndirectory = "e"', "two CRL targets"),
    ],
)
def test_targets_that_cannot_be_are_refused(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text(f'state_dir = "s"\n[database]\nurl = "sqlite:///x.db"\n[[crl_target]]\n{text}\n')
    with pytest.raises(ConfigurationError, match=why) as refused:
        load_settings(file)
    assert "secret" not in str(refused.value)


class PutServer:
    """Takes what is put; ``status`` is its answer."""

    def __init__(self, clock: Any) -> None:
        self.status, self.taken, self.seen = 201, dict[str, bytes](), set[tuple[str | None, str | None]]()
        route = Route("put", "/put/", {Method.PUT}, self._take, prefix=True, max_body=1 << 20)  # type: ignore[arg-type]
        factory = HttpServerFactory(Router([route]), WebLimits(), clock, reactor)
        self._port = blockingCallFromThread(reactor, reactor.listenTCP, 0, factory, 50, "127.0.0.1")
        self.url = f"http://127.0.0.1:{self._port.getHost().port}"

    def _take(self, request: Request) -> Response:
        if self.status < 300:
            self.taken[request.path] = request.body
            self.seen.add((request.headers.get("content-type"), request.headers.get("authorization")))
        return Response(self.status)

    def discard(self) -> None:
        blockingCallFromThread(reactor, self._port.stopListening)


@pytest.fixture
def web(at: StatusWorld) -> Iterator[PutServer]:
    server = PutServer(at.clock)
    yield server
    server.discard()


@pytest.fixture
def sftp(tmp_path: Path) -> Iterator[Callable[..., SftpServer]]:
    servers: list[SftpServer] = []

    def start(**options: bool) -> SftpServer:
        servers.append(SftpServer(tmp_path / f"sftp{len(servers)}", **options))
        return servers[-1]

    start(renames=True), start(renames=False)  # before the test, whose coroutine runs on the reactor
    yield lambda renames=True: servers[0 if renames else 1]
    for server in servers:
        server.discard()
