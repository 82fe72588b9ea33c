"""One authority with several keys and certificates: each certificate is answered for by the key that signed it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from pkiserver.authority.lifecycle.ceremonies import KeyChoice
from pkiserver.authority.requests import IssuedCertificate
from pkiserver.foundation.errors import Unavailable
from pkiserver.keys.algorithms import KeyType
from tests.authority.world import ACTOR, authorised
from tests.protocols.ocsp.asking import change, openssl, post, read, request
from tests.protocols.status_server import StatusServer

GOOD, UNKNOWN = ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.UNKNOWN


def about(serial: int, beside: IssuedCertificate) -> bytes:
    """A request about a serial number of whoever issued another certificate."""
    mine = ocsp.load_der_ocsp_request(request(beside.der, beside.chain[0]))
    builder = ocsp.OCSPRequestBuilder()
    builder = builder.add_certificate_by_hash(mine.issuer_name_hash, mine.issuer_key_hash, serial, hashes.SHA256())
    return builder.build().public_bytes(Encoding.DER)


def keep_up(server: StatusServer) -> None:
    server.run(server.at.status.responders.run_due)
    server.run(server.at.status.directory.refresh)


def test_of_two_keys_of_one_name_each_answers_for_its_own_certificates(server: StatusServer) -> None:
    before = server.issue("before")
    key = KeyChoice(key_type=KeyType.parse("ec-p256"), store="softhsm")
    server.run(lambda: server.at.world.road.succession.rekey("issuing", key, ACTOR))
    keep_up(server)
    after = server.issue("after")
    assert before.chain[0] != after.chain[0]
    for issued, other in ((before, after), (after, before)):
        found = read(post(server, request(issued.der, issued.chain[0])))
        assert found.certificate_status is GOOD
        [responder] = found.certificates
        responder.verify_directly_issued_by(x509.load_der_x509_certificate(issued.chain[0]))
        assert "good" in openssl(server, issued.der, issued.chain)
        assert read(post(server, about(issued.serial, other))).certificate_status is UNKNOWN


def test_a_renewed_certificate_of_the_same_key_changes_nothing_for_its_own(server: StatusServer) -> None:
    before = server.issue("before")
    responder = read(post(server, request(before.der, before.chain[0]))).certificates
    server.run(lambda: server.at.world.road.succession.renew("issuing", ACTOR))
    keep_up(server)
    after = server.issue("after")
    assert before.chain[0] != after.chain[0]
    for issued in (before, after):
        for issuer in (before.chain[0], after.chain[0]):
            found = read(post(server, request(issued.der, issuer)))
            assert found.certificate_status is GOOD
            assert found.certificates == responder
            assert "good" in openssl(server, issued.der, (issuer, *issued.chain[1:]))


def test_after_the_end_of_an_authority_its_own_key_tells_how_things_stood(server: StatusServer) -> None:
    """A responder's certificate would end before it began; nothing of that is a fault."""
    good, bad = server.issue("good"), server.issue("bad")
    server.run(lambda: server.at.revoke(bad))
    ca = server.at.issuing.current.certificate
    change(server, archive=timedelta(days=7300))
    server.at.clock.advance(ca.not_after - server.at.clock.now())
    keys = len(server.at.world.keys.list())
    for _ in range(2):
        keep_up(server)
        server.at.clock.advance(timedelta(days=1))
    for issued, status in ((good, GOOD), (bad, ocsp.OCSPCertStatus.REVOKED)):
        found = read(post(server, request(issued.der, issued.chain[0])))
        assert found.certificate_status is status
        assert found.certificates == []
        key = ca.certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert found.signature_hash_algorithm is not None
        key.verify(found.signature, found.tbs_response_bytes, ec.ECDSA(found.signature_hash_algorithm))
        assert found.next_update_utc == server.at.clock.now() + timedelta(hours=1)
    assert server.at.status.responders.problems() == ()
    assert len(server.at.world.keys.list()) <= keys, "none was made for nothing"


def test_a_serial_number_that_was_only_prepared_or_given_up_is_unknown(
    server: StatusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    road = server.at.world.road
    prepared = server.run(lambda: road.prepare(authorised(common_name="never")))
    asked = about(prepared.serial, server.issue())
    assert read(post(server, asked)).certificate_status is UNKNOWN

    def away(*_: object) -> None:
        raise Unavailable("the key is away")

    monkeypatch.setattr(server.at.world.keys, "certificate_signer", away)
    with pytest.raises(Unavailable):
        server.run(lambda: road.issue(prepared))
    assert read(post(server, asked)).certificate_status is UNKNOWN
