"""The responder over HTTP, asked by openssl, gnutls, curl and by hand; friendly and hostile."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import LogLevel, capturedLogs

from pkiserver.authority.revocation import ByCertificate
from pkiserver.authority.status.cache import TRUSTED_SECONDS
from pkiserver.authority.status.policy import NeverIssued, NoncePolicy, OcspSigning, ResponderIdentity
from pkiserver.authority.status.values import reason_name
from pkiserver.foundation import der
from pkiserver.store.certificates import FINAL_REASONS, RevocationReason
from protocols.ocsp import messages
from tests.authority.status_world import ORDER, lint_ocsp
from tests.protocols.ocsp.asking import HASHES, OCSP_REQUEST, UNSIGNED, change, in_target, openssl, post, read, request
from tests.protocols.ocsp.test_messages import HOSTILE
from tests.protocols.status_server import StatusServer, tool

reactor: Any = _reactor


def test_openssl_follows_a_certificate_from_good_to_hold_to_good_to_revoked(shared: StatusServer) -> None:
    issued = shared.issue()
    said = openssl(shared, issued.der, issued.chain)
    assert "Response verify OK" in said
    assert "leaf.pem: good" in said
    assert "WARNING" not in said, "the nonce came back"
    shared.run(lambda: shared.at.status.revocations.hold(ByCertificate(issued.der), ORDER))
    assert "Reason: certificateHold" in openssl(shared, issued.der, issued.chain)
    shared.run(lambda: shared.at.status.revocations.release(ByCertificate(issued.der), ORDER))
    assert "leaf.pem: good" in openssl(shared, issued.der, issued.chain, "-sha256")
    shared.run(lambda: shared.at.revoke(issued, RevocationReason.KEY_COMPROMISE))
    said = openssl(shared, issued.der, issued.chain, "-no_nonce")
    assert "Response verify OK" in said
    assert "leaf.pem: revoked" in said
    assert "Reason: keyCompromise" in said


def test_a_client_that_leaves_while_the_database_is_slow_is_nobodys_failure(
    shared: StatusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = shared.issue()
    asked = threading.Event()
    ended = threading.Event()

    async def never(_work: object) -> None:
        asked.set()
        try:
            await Deferred()
        finally:
            ended.set()

    monkeypatch.setattr(shared.at.world.database, "read", never)
    body = request(issued.der, issued.chain[0])
    with capturedLogs() as captured:
        with socket.create_connection(("127.0.0.1", shared.port)) as client:
            fields = f"Host: x\r\nContent-Type: {OCSP_REQUEST}\r\nContent-Length: {len(body)}"
            client.sendall(f"POST /ocsp HTTP/1.1\r\n{fields}\r\n\r\n".encode() + body)
            assert asked.wait(10)
        assert ended.wait(10)
        shared.run(settled)
    assert [one for one in captured if one["log_level"] >= LogLevel.warn] == []


async def settled() -> None:
    """What was going on when this was called has been followed to its end."""
    await deferLater(reactor, 0)


def test_gnutls_and_curl_agree(shared: StatusServer) -> None:
    issued = shared.issue()
    leaf, issuer = shared.file("leaf.pem", issued.der), shared.file("issuer.pem", issued.chain[0])
    said = tool(
        "ocsptool", f"--ask={shared.url}/ocsp", "--load-cert", leaf, "--load-issuer", issuer, "--load-trust", issuer
    )
    assert "Verifying OCSP Response: Success" in said
    assert "Certificate Status: good" in said
    text = quote(base64.b64encode(request(issued.der, issued.chain[0])).decode(), safe="")
    out = shared.directory / "answer.der"
    tool("curl", "-sS", "--path-as-is", "-o", str(out), f"{shared.url}/ocsp/{text}")
    read_back = ocsp.load_der_ocsp_response(out.read_bytes())
    assert read_back.certificate_status is ocsp.OCSPCertStatus.GOOD


@pytest.mark.parametrize("hash_name", sorted(HASHES))
def test_every_hash_names_the_issuer_and_pkilint_is_content(shared: StatusServer, hash_name: str) -> None:
    issued = shared.issue()
    for nonce in (None, b"n" * 32):
        answer = post(shared, request(issued.der, issued.chain[0], hash_name=hash_name, nonce=nonce))
        found = read(answer)
        assert found.certificate_status is ocsp.OCSPCertStatus.GOOD
        assert found.hash_algorithm.name == hash_name
        assert found.responder_key_hash is not None
        assert found.next_update_utc == shared.at.clock.now() + timedelta(hours=1)
        assert lint_ocsp(answer.body) == []


def test_every_reason_reaches_the_client(shared: StatusServer) -> None:
    for reason in sorted(FINAL_REASONS):
        issued = shared.issue(f"device {reason}")
        shared.run(lambda issued=issued, reason=reason: shared.at.revoke(issued, reason))
        answer = post(shared, request(issued.der, issued.chain[0]))
        found = read(answer)
        assert found.certificate_status is ocsp.OCSPCertStatus.REVOKED
        assert found.revocation_time_utc == shared.at.clock.now()
        told = None if found.revocation_reason is None else found.revocation_reason.value
        assert told == (None if reason == 0 else reason_name(reason))
        assert lint_ocsp(answer.body) == []


def test_what_was_never_issued_is_unknown_and_strangers_are_unauthorized(shared: StatusServer) -> None:
    issued = shared.issue()
    mine = ocsp.load_der_ocsp_request(request(issued.der, issued.chain[0]))
    for serial in (1, issued.serial ^ 1, (1 << 159) - 1, 1 << 300):
        builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
            mine.issuer_name_hash, mine.issuer_key_hash, serial, hashes.SHA256()
        )
        found = read(post(shared, builder.build().public_bytes(Encoding.DER)))
        assert found.certificate_status is ocsp.OCSPCertStatus.UNKNOWN
        assert found.next_update_utc == shared.at.clock.now() + timedelta(minutes=5)
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(bytes(32), mine.issuer_key_hash, 1, hashes.SHA256())
    answer = post(shared, builder.build().public_bytes(Encoding.DER))
    assert read(answer).response_status is ocsp.OCSPResponseStatus.UNAUTHORIZED
    assert "no-store" in answer.headers["cache-control"]


def test_several_certificates_in_one_request_get_their_own_status(shared: StatusServer) -> None:
    good, bad = shared.issue("good"), shared.issue("bad")
    shared.run(lambda: shared.at.revoke(bad))
    files = [shared.file(f"{name}.pem", one.der) for name, one in (("one", good), ("two", bad))]
    issuer, root = shared.file("issuer.pem", good.chain[0]), shared.file("root.pem", good.chain[-1])
    said = tool(
        *("openssl", "ocsp", "-url", f"{shared.url}/ocsp", "-CAfile", root, "-issuer", issuer),
        *("-cert", files[0], "-cert", files[1]),
    )
    assert "Response verify OK" in said
    assert f"{files[0]}: good" in said
    assert f"{files[1]}: revoked" in said
    # The root's certificates are answered for by another key, whose signature this answer does not bear.
    asked = [request(good.der, good.chain[0]), request(good.chain[0], good.chain[1]), request(bad.der, bad.chain[0])]
    ids = [der.sequence(messages.decode_request(one).certificates[0].encoded) for one in asked]
    answer = read(post(shared, der.sequence(der.sequence(der.sequence(*ids)))))
    assert [one.certificate_status for one in answer.responses] == [
        ocsp.OCSPCertStatus.GOOD,
        ocsp.OCSPCertStatus.UNKNOWN,
        ocsp.OCSPCertStatus.REVOKED,
    ]


def test_an_authority_that_is_not_to_answer_is_a_stranger(server: StatusServer) -> None:
    """Also for what was answered this very second, and beside one that is to."""
    issued = server.issue()
    asked = request(issued.der, issued.chain[0])
    path = in_target(asked)
    server.run(server.at.status.directory.cache.poll)
    for _ in range(2):
        assert read(server.ask("GET", path)).certificate_status is ocsp.OCSPCertStatus.GOOD
    change(server, enabled=False)
    for answer in (server.ask("GET", path), post(server, asked), post(server, asked)):
        assert read(answer).response_status is ocsp.OCSPResponseStatus.UNAUTHORIZED
        assert len(answer.body) == 5
    sub = request(issued.chain[0], issued.chain[1])
    ids = [messages.decode_request(one).certificates[0].encoded for one in (asked, sub)]
    both = der.sequence(der.sequence(der.sequence(*(der.sequence(one) for one in ids))))
    statuses = [one.certificate_status for one in read(post(server, both)).responses]
    assert statuses == [ocsp.OCSPCertStatus.UNKNOWN, ocsp.OCSPCertStatus.GOOD]
    change(server, enabled=True)
    assert read(post(server, asked)).certificate_status is ocsp.OCSPCertStatus.GOOD


def test_several_authorities_answer_behind_one_url(shared: StatusServer) -> None:
    issued = shared.issue()
    answer = read(post(shared, request(issued.chain[0], issued.chain[1])))
    assert answer.certificate_status is ocsp.OCSPCertStatus.GOOD
    [responder] = answer.certificates
    root = x509.load_der_x509_certificate(issued.chain[1])
    assert responder.issuer == root.subject


def test_nonces_are_echoed_ignored_or_required_as_the_policy_says(server: StatusServer) -> None:
    issued = server.issue()
    for size in (1, 16, 32, 128):
        found = read(post(server, request(issued.der, issued.chain[0], nonce=b"x" * size)))
        assert found.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == b"x" * size
    change(server, nonce=NoncePolicy.IGNORE)
    assert list(read(post(server, request(issued.der, issued.chain[0], nonce=b"x" * 32))).extensions) == []
    change(server, nonce=NoncePolicy.REQUIRE)
    refused = read(post(server, request(issued.der, issued.chain[0])))
    assert refused.response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST
    assert read(post(server, request(issued.der, issued.chain[0], nonce=b"x"))).serial_number == issued.serial


def test_never_issued_may_be_called_revoked_exactly_as_the_rfc_has_it(server: StatusServer) -> None:
    issued = server.issue()
    change(server, never_issued=NeverIssued.REVOKED)
    mine = ocsp.load_der_ocsp_request(request(issued.der, issued.chain[0]))
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
        mine.issuer_name_hash, mine.issuer_key_hash, 4711, hashes.SHA256()
    )
    never = builder.build().public_bytes(Encoding.DER)
    answer = post(server, never)
    found = read(answer)
    assert found.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert found.revocation_reason is x509.ReasonFlags.certificate_hold
    assert found.revocation_time_utc == datetime(1970, 1, 1, tzinfo=UTC)
    [extended] = [one for one in found.extensions if one.oid.dotted_string == messages.EXTENDED_REVOKE]
    assert not extended.critical
    assert extended.value.public_bytes() == b"\x05\x00"
    assert list(found.single_extensions) == []
    assert lint_ocsp(answer.body) == []
    asked = [request(issued.der, issued.chain[0]), request(issued.chain[0], issued.chain[1])]
    ids = [der.sequence(messages.decode_request(one).certificates[0].encoded) for one in asked]
    both = read(post(server, der.sequence(der.sequence(der.sequence(*ids)))))
    assert [one.certificate_status for one in both.responses] == [ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.UNKNOWN]


def test_answers_carry_invalidity_date_and_archive_cutoff(server: StatusServer) -> None:
    issued = server.issue()
    since = server.at.clock.now() - timedelta(minutes=2)
    server.run(lambda: server.at.revoke(issued, RevocationReason.KEY_COMPROMISE, invalidity_date=since))
    change(server, archive_cutoff=True)
    answer = post(server, request(issued.der, issued.chain[0]))
    extensions = {one.oid.dotted_string: one.value.public_bytes() for one in read(answer).single_extensions}
    assert extensions == {
        messages.INVALIDITY_DATE: der.generalized_time(since),
        messages.ARCHIVE_CUTOFF: der.generalized_time(server.at.clock.now() - timedelta(days=365)),
    }
    assert lint_ocsp(answer.body) == []
    said = openssl(server, issued.der, issued.chain)
    assert "Response verify OK" in said


@pytest.mark.parametrize("prefix", ["/ocsp/", "/ocsp//", "/ocsp/issuing/", "/ocsp/a/b/"])
def test_get_in_every_spelling(shared: StatusServer, prefix: str) -> None:
    issued = shared.issue()
    text = base64.b64encode(request(issued.der, issued.chain[0])).decode()
    for spelling in (text, quote(text, safe=""), text.rstrip("=")):
        assert read(shared.ask("GET", prefix + spelling)).serial_number == issued.serial


def test_responders_may_be_named_and_sent_without_certificate(server: StatusServer) -> None:
    issued = server.issue()
    change(server, identity=ResponderIdentity.NAME, include_certificate=False)
    found = read(post(server, request(issued.der, issued.chain[0])))
    assert found.responder_name is not None
    assert found.certificates == []
    change(server, identity=ResponderIdentity.KEY, include_certificate=True, signing=OcspSigning.AUTHORITY)
    said = openssl(server, issued.der, issued.chain)
    assert "Response verify OK" in said
    assert read(post(server, request(issued.der, issued.chain[0]))).certificates == []


def test_without_signer_or_records_the_answer_is_try_later(server: StatusServer) -> None:
    issued = server.issue()
    change(server, signing=OcspSigning.DELEGATED)

    async def gone() -> None:
        for key in server.at.world.keys.list():
            if key.name.startswith("ocsp-"):
                await server.at.world.keys.delete(key.name)
        await server.at.status.directory.refresh()

    server.run(gone)
    answer = post(server, request(issued.der, issued.chain[0]))
    assert read(answer).response_status is ocsp.OCSPResponseStatus.TRY_LATER
    assert "no-store" in answer.headers["cache-control"]
    server.run(server.at.status.responders.run_due)
    server.at.clock.advance(timedelta(seconds=2))
    assert read(post(server, request(issued.der, issued.chain[0]))).serial_number == issued.serial
    assert "leaf.pem: good" in openssl(server, issued.der, issued.chain)
    server.run(server.at.world.database.close)
    server.at.clock.advance(timedelta(seconds=TRUSTED_SECONDS))
    answer = post(server, request(issued.der, issued.chain[0]))
    assert read(answer).response_status is ocsp.OCSPResponseStatus.TRY_LATER


@pytest.mark.parametrize("where", ["statuses_now", "statuses"])
def test_our_own_fault_is_an_internal_error_and_nothing_more_is_told(
    server: StatusServer, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    issued = server.issue()
    asked = request(issued.der, issued.chain[0])

    def fail(*_: object) -> object:
        raise LookupError("secret details")

    directory = server.at.status.directory
    monkeypatch.setattr(directory, "statuses_now", lambda *_: None)
    monkeypatch.setattr(directory, where, fail)
    for answer in (post(server, asked), server.ask("GET", in_target(asked))):
        assert answer.status == 200
        assert answer.body == bytes.fromhex("30030a0102"), "unsigned (RFC 6960 section 2.3)"
        assert answer.headers["cache-control"] == "no-cache, no-store"
    monkeypatch.undo()
    assert read(post(server, asked)).certificate_status is ocsp.OCSPCertStatus.GOOD


def test_expired_certificates_keep_their_status_for_the_archive_time(server: StatusServer) -> None:
    issued = server.issue()
    server.run(lambda: server.at.revoke(issued))
    server.at.clock.advance(timedelta(days=91))
    server.run(server.at.status.responders.run_due)
    server.run(server.at.status.directory.refresh)
    assert read(post(server, request(issued.der, issued.chain[0]))).certificate_status is ocsp.OCSPCertStatus.REVOKED
    change(server, archive=timedelta(hours=1))
    refused = read(post(server, request(issued.der, issued.chain[0])))
    assert refused.response_status is ocsp.OCSPResponseStatus.UNAUTHORIZED


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_requests_get_ocsps_own_error_and_the_server_lives(shared: StatusServer, what: str) -> None:
    body = HOSTILE[what]
    if len(body) > 16 * 1024:
        # The server may have told the client to stop while it was still sending.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            assert post(shared, body).status == 413
    else:
        answer = post(shared, body)
        assert read(answer).response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST
        assert "no-store" in answer.headers["cache-control"]
        text = quote(base64.b64encode(body).decode(), safe="")
        if len(text) < 12_000:
            assert read(shared.ask("GET", f"/ocsp/{text}")).response_status in UNSIGNED
    issued = shared.issue()
    assert read(post(shared, request(issued.der, issued.chain[0]))).serial_number == issued.serial


@pytest.mark.parametrize("tail", ["", "%%%", "not-base64", "M" * 11_000, "M/" * 5_000, "%00%ff", "?a=b", "MA=="])
def test_targets_that_hold_no_request_are_malformed(shared: StatusServer, tail: str) -> None:
    answer = shared.ask("GET", f"/ocsp/{tail}")
    assert read(answer).response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


def test_a_wrong_content_type_is_malformed_and_other_methods_are_not_allowed(shared: StatusServer) -> None:
    issued = shared.issue()
    body = request(issued.der, issued.chain[0])
    answer = shared.ask("POST", "/ocsp", body, Content_Type="application/json")
    assert read(answer).response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST
    assert shared.ask("PUT", "/ocsp", body).status == 405
    assert shared.ask("GET", "/ocsp").status == 405


def test_a_sender_that_stops_half_way_holds_up_nobody(shared: StatusServer) -> None:
    slow = [socket.create_connection(("127.0.0.1", shared.port)) for _ in range(20)]
    for one in slow:
        one.sendall(b"POST /ocsp HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n\x30")
    issued = shared.issue()
    assert read(post(shared, request(issued.der, issued.chain[0]))).serial_number == issued.serial
    for one in slow:
        one.close()
