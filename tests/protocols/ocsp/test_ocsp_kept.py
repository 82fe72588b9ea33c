"""Answers that are given more than once: to caches, from memory, and not a moment too long."""

from __future__ import annotations

import tracemalloc
from datetime import timedelta

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from pkiserver.authority.revocation import ByCertificate
from pkiserver.authority.status.cache import TRUSTED_SECONDS
from pkiserver.store.certificates import RevocationReason
from protocols.web.conditional import http_date
from tests.authority.status_world import ORDER
from tests.protocols.ocsp.asking import change, in_target, post, read, request
from tests.protocols.status_server import StatusServer


def test_get_answers_can_be_cached_and_asked_again(server: StatusServer) -> None:
    issued = server.issue()
    path = in_target(request(issued.der, issued.chain[0]))
    first = server.ask("GET", path)
    assert read(first).certificate_status is ocsp.OCSPCertStatus.GOOD
    assert first.headers["cache-control"] == "max-age=3599, public, no-transform, must-revalidate"
    for field in ("etag", "last-modified", "expires", "date"):
        assert first.headers[field]
    for validator in ({"If_Modified_Since": first.headers["last-modified"]}, {"If_None_Match": first.headers["etag"]}):
        again = server.ask("GET", path, **validator)
        assert (again.status, again.body) == (304, b"")
    head = server.ask("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["content-length"]) > 200
    server.at.clock.advance(timedelta(minutes=10))
    assert server.ask("GET", path).headers["cache-control"].startswith("max-age=2999,")
    server.run(lambda: server.at.revoke(issued))
    assert server.ask("GET", path, If_Modified_Since=first.headers["last-modified"]).status == 200
    assert "cache-control" not in post(server, request(issued.der, issued.chain[0])).headers


@pytest.mark.parametrize("after", [timedelta(0), timedelta(minutes=20)])
def test_a_client_that_knows_only_when_its_answer_was_made_learns_of_a_change_within_that_second(
    server: StatusServer, after: timedelta
) -> None:
    """Last-Modified tells seconds: of two answers that were made within one it cannot tell which the client has."""
    issued = server.issue()
    path = in_target(request(issued.der, issued.chain[0]))
    first = server.ask("GET", path)
    server.run(lambda: server.at.revoke(issued, RevocationReason.CERTIFICATE_HOLD))
    other = server.ask("GET", path)
    assert other.headers["last-modified"] == first.headers["last-modified"]
    server.at.clock.advance(after)
    second = server.ask("GET", path, If_Modified_Since=first.headers["last-modified"])
    assert read(second).certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert server.ask("GET", path, If_None_Match=second.headers["etag"]).status == 304


def test_an_answer_from_before_a_hold_is_not_given_again_after_it(server: StatusServer) -> None:
    """Another process told of the hold; whoever has that answer must not hear that it still stands."""
    issued = server.issue()
    path = in_target(request(issued.der, issued.chain[0]))
    first = server.ask("GET", path)
    server.run(lambda: server.at.revoke(issued, RevocationReason.CERTIFICATE_HOLD))
    server.at.clock.advance(timedelta(minutes=1))
    told = http_date(server.at.clock.now())
    server.run(lambda: server.at.status.revocations.release(ByCertificate(issued.der), ORDER))
    server.run(server.at.status.directory.cache.poll)
    again = server.ask("GET", path, If_Modified_Since=told)
    assert again.status == 200
    assert read(again).certificate_status is ocsp.OCSPCertStatus.GOOD
    assert read(again).produced_at_utc > read(first).produced_at_utc
    assert server.ask("GET", path, If_None_Match=again.headers["etag"]).status == 304


def test_answers_without_nonce_are_signed_once_in_half_their_life_and_not_after_a_change(server: StatusServer) -> None:
    issued = server.issue()
    asked = request(issued.der, issued.chain[0])
    first = post(server, asked).body
    server.at.clock.advance(timedelta(minutes=29))
    assert post(server, asked).body == first
    server.run(server.at.status.directory.refresh)
    assert post(server, asked).body == first
    server.at.clock.advance(timedelta(minutes=1))
    second = post(server, asked).body
    assert second != first
    server.run(lambda: server.at.revoke(issued))
    assert read(post(server, asked)).certificate_status is ocsp.OCSPCertStatus.REVOKED
    server.run(lambda: server.at.revoke(issued, RevocationReason.KEY_COMPROMISE))
    server.run(server.at.status.directory.cache.poll)
    assert read(post(server, asked)).revocation_reason is x509.ReasonFlags.key_compromise
    with_nonce = request(issued.der, issued.chain[0], nonce=b"n" * 16)
    assert post(server, with_nonce).body != post(server, with_nonce).body


def test_what_was_asked_in_this_second_is_answered_again_until_something_changes(server: StatusServer) -> None:
    """All within one second of the clock, in which headers and octets would not change by themselves."""
    issued, other = server.issue(), server.issue("device 2")
    path = in_target(request(issued.der, issued.chain[0]))
    cache = server.at.status.directory.cache
    server.run(cache.poll)
    first = server.ask("GET", path)
    assert server.ask("GET", path).body == first.body
    looked = attrs.astuple(cache.counts)
    assert server.ask("GET", path).body == first.body
    assert server.ask("GET", path, If_None_Match=first.headers["etag"]).status == 304
    assert attrs.astuple(cache.counts) == looked

    server.run(lambda: server.at.revoke(other))
    server.run(cache.poll)
    assert server.ask("GET", path).body == first.body
    assert attrs.astuple(cache.counts) != looked

    change(server, include_certificate=False)
    assert read(server.ask("GET", path)).certificates == []
    server.run(lambda: server.at.revoke(issued, RevocationReason.CERTIFICATE_HOLD))
    server.run(cache.poll)
    assert read(server.ask("GET", path)).certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert read(server.ask("GET", path)).certificate_status is ocsp.OCSPCertStatus.REVOKED


def test_long_targets_are_answered_and_not_remembered(server: StatusServer) -> None:
    """Any prefix may stand before a request, so that there is no end of targets about one certificate."""
    issued = server.issue()
    path = in_target(request(issued.der, issued.chain[0]))
    server.run(server.at.status.directory.cache.poll)
    assert server.ask("GET", path).status == 200

    def held() -> int:
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = held()
        for number in range(200):
            prefix = f"/ocsp/{number:0>10000}"
            assert read(server.ask("GET", path.replace("/ocsp", prefix))).certificate_status is ocsp.OCSPCertStatus.GOOD
        assert held() - before < 100 * 10_000
    finally:
        tracemalloc.stop()


def test_answers_are_not_given_again_when_the_feed_of_changes_was_not_read_lately(server: StatusServer) -> None:
    issued = server.issue()
    path = in_target(request(issued.der, issued.chain[0]))
    server.run(server.at.status.directory.cache.poll)
    for _ in range(3):
        assert read(server.ask("GET", path)).certificate_status is ocsp.OCSPCertStatus.GOOD
    server.run(lambda: server.at.revoke(issued))
    server.at.clock.advance(timedelta(seconds=TRUSTED_SECONDS))
    assert read(server.ask("GET", path)).certificate_status is ocsp.OCSPCertStatus.REVOKED


def test_unknown_is_found_out_anew_each_time(server: StatusServer) -> None:
    """The certificate may be issued meanwhile, of which no feed tells."""
    issued = server.issue()
    mine = ocsp.load_der_ocsp_request(request(issued.der, issued.chain[0]))
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
        mine.issuer_name_hash, mine.issuer_key_hash, issued.serial ^ 1, hashes.SHA256()
    )
    path = in_target(builder.build().public_bytes(Encoding.DER))
    cache = server.at.status.directory.cache
    server.run(cache.poll)
    for number in range(1, 4):
        assert read(server.ask("GET", path)).certificate_status is ocsp.OCSPCertStatus.UNKNOWN
        assert cache.counts.misses == number
