"""Who may ask: addresses, passwords over TLS, client certificates, quotas."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from pkiserver.foundation.tomlfile import ConfigurationError
from pkiserver.timestamping.unit import Access, Authenticode, ImprintHash, Who, load_unit
from protocols.timestamp.messages import encode_request
from protocols.timestamp.verification import read_token
from protocols.web.headers import Headers
from protocols.web.values import Peer, Request, Response, TlsPeer
from tests.protocols.timestamp.world import TimestampWorld

QUERY = encode_request(ImprintHash.SHA256, bytes(32))
TLS = TlsPeer("TLSv1.3", None, (), None, b"", None)


def ask(world: TimestampWorld, name: str, *, address: str = "127.0.0.1", tls: Any = None, **headers: str) -> Response:
    """Through the edge, as a connection from elsewhere would come."""
    peer = Peer(address, 1000, tls)
    path = f"/tsa/{name}"
    request = Request("POST", path, path, "", name, Headers.of(**headers), QUERY, peer, "0" * 16)
    answer: Response = world.run(lambda: world.edge.post(request))
    return answer


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def test_only_listed_addresses_may_ask_whatever_a_header_says(shared: TimestampWorld) -> None:
    shared.make("near", access=Access(addresses=("10.0.0.0/8", "2001:db8::/32")))
    for address in ("10.1.2.3", "2001:db8::7", "::ffff:10.9.9.9"):
        assert ask(shared, "near", address=address).status == 200
    for address in ("11.0.0.1", "2001:db9::1", "::ffff:11.0.0.1", "unix", ""):
        assert ask(shared, "near", address=address).status == 403
    # No header is believed about where a request comes from.
    assert ask(shared, "near", address="11.0.0.1", X_Forwarded_For="10.0.0.1").status == 403


def test_passwords_over_tls_only(shared: TimestampWorld) -> None:
    shared.make("members", access=Access(who=Who.PASSWORD, groups=frozenset({"signers"})))
    right = basic("alice", "secret")
    assert ask(shared, "members", Authorization=right).status == 403
    assert ask(shared, "members", tls=TLS).status == 401
    refused = ask(shared, "members", tls=TLS, Authorization=basic("alice", "wrong"))
    assert refused.status == 401
    assert dict(refused.headers)["WWW-Authenticate"].startswith("Basic realm=")
    for bad in (
        "Basic",
        "Basic ???",
        "Basic " + base64.b64encode(b"alice").decode(),
        "Bearer x",
        "Basic " + "A" * 9999,
    ):
        assert ask(shared, "members", tls=TLS, Authorization=bad).status == 401
    before = shared.clients.asked
    for _ in range(5):
        answer = ask(shared, "members", tls=TLS, Authorization=right)
        assert read_token(answer.body)
    assert shared.clients.asked == before + 1, "remembered for a minute"


def test_a_right_password_outside_the_groups_is_refused(shared: TimestampWorld) -> None:
    shared.make("others", access=Access(who=Who.PASSWORD, groups=frozenset({"notaries"})))
    assert ask(shared, "others", tls=TLS, Authorization=basic("alice", "secret")).status == 403


def test_only_a_known_client_certificate_of_the_connection_itself_may_ask(shared: TimestampWorld) -> None:
    shared.make("certified", access=Access(who=Who.CERTIFICATE))
    assert ask(shared, "certified").status == 403
    assert ask(shared, "certified", tls=TLS).status == 403
    known = TlsPeer("TLSv1.3", b"alice's certificate", (), None, b"", None)
    stranger = TlsPeer("TLSv1.3", b"somebody's", (), None, b"", None)
    assert ask(shared, "certified", tls=known).status == 200
    assert ask(shared, "certified", tls=stranger).status == 403
    assert ask(shared, "certified", X_SSL_Client_Cert="alice's certificate").status == 403


def test_quotas_are_each_client_s_own(server: TimestampWorld) -> None:
    from datetime import timedelta

    server.make("few", access=Access(per_minute=3))
    statuses = [ask(server, "few", address="10.0.0.1").status for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    assert ask(server, "few", address="10.0.0.2").status == 200
    server.clock.advance(timedelta(seconds=61))
    assert ask(server, "few", address="10.0.0.1").status == 200


def test_authenticode_requests_that_mean_harm(shared: TimestampWorld) -> None:
    shared.make("old", authenticode=Authenticode(enabled=True))
    for body in (b"", b"!!!", base64.b64encode(b"\x30\x00"), base64.b64encode(QUERY), b"A" * 10_000):
        assert shared.ask("/tsa/old/authenticode", body, Content_Type="application/octet-stream").status == 400


BASE = 'name = "u"\nissuer = "issuing"\npolicies = ["1.2.3"]\n'


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ('precision = "seconds"\n', "accuracy"),
        ("ordering = true\n", "genTime"),
        ('key_type = "rsa-2048"\nscheme = "ecdsa-sha256"\n', "scheme"),
        ('renew_before = "500d"\n', "shorter"),
        ("serial_octets = 21\n", "serial_octets"),
        ('[access]\naddresses = ["10.0.0.1/8"]\n', "host bits"),
        ('[access]\ngroups = ["a"]\n', "who"),
        ("archive_strict = true\n", "archive"),
        ('hashes = ["md5"]\n', "sha256"),
        ('subject = "nonsense"\n', ""),
    ],
)
def test_impossible_units_are_told_by_their_lines(more: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_unit(BASE + more, "u.toml")
    told = [str(one) for one in caught.value.problems]
    assert any(text in one for one in told), told


def test_a_unit_survives_being_written() -> None:
    from pkiserver.foundation.tomlfile import dump

    unit = load_unit(BASE + 'archive = "tokens"\n[access]\nwho = "password"\ngroups = ["a"]\n', "u.toml")
    assert load_unit(dump(unit), "again") == unit
