"""Responders that end and begin while clients ask: every answer can be believed when it is given, and to its end."""

from __future__ import annotations

import os
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import ocsp

from pkiserver.authority.status.policy import OcspSigning
from pkiserver.foundation import der
from protocols.ocsp import messages
from tests.protocols.ocsp.asking import change, in_target, post, read, request
from tests.protocols.status_server import StatusServer

STEP = timedelta(minutes=1)


def believed(found: ocsp.OCSPResponse, issuer: x509.Certificate, now: datetime) -> int:
    """Check an answer as a client does that trusts the issuer alone; the serial number of who signed it."""
    assert found.certificate_status is ocsp.OCSPCertStatus.GOOD
    [signer] = found.certificates
    signer.verify_directly_issued_by(issuer)
    assert signer.not_valid_before_utc <= now < signer.not_valid_after_utc
    key = signer.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert found.signature_hash_algorithm is not None
    key.verify(found.signature, found.tbs_response_bytes, ec.ECDSA(found.signature_hash_algorithm))
    assert found.next_update_utc is not None
    assert found.this_update_utc <= now < found.next_update_utc <= signer.not_valid_after_utc
    return signer.serial_number


@pytest.mark.parametrize(("life", "overlap", "answers"), [(40, 10, 8), (4, 3, 1)])
def test_responders_roll_over_under_steady_requests_without_a_wrong_answer(
    server: StatusServer, life: int, overlap: int, answers: int
) -> None:
    """Four lives of a responder, in minutes; asked each minute, and the task that renews them runs as rarely."""
    issued = server.issue()
    issuer = x509.load_der_x509_certificate(issued.chain[0])
    short = {
        "certificate_validity": timedelta(minutes=life),
        "renew_before": timedelta(minutes=overlap),
        "validity": timedelta(minutes=answers),
        "unknown_validity": timedelta(minutes=1),
        "signing": OcspSigning.DELEGATED,
        "key_type": "ec-p384",  # of which there is none yet with a longer life
    }
    change(server, **short)
    server.run(server.at.status.responders.run_due)
    server.run(server.at.status.directory.refresh)
    plain = request(issued.der, issued.chain[0])
    signers: list[int] = []
    for _ in range(4 * life):
        now = server.at.clock.now()
        asked = request(issued.der, issued.chain[0], nonce=os.urandom(32))
        for answer in (post(server, asked), post(server, plain), server.ask("GET", in_target(plain))):
            signer = believed(read(answer), issuer, now)
            if signer not in signers[-2:]:
                signers.append(signer)
        server.at.clock.advance(STEP)
        if server.run(server.at.status.responders.run_due):
            server.run(server.at.status.directory.refresh)
    assert len(signers) == len(set(signers)), "each took over once"
    assert len(signers) == -(-4 * life // (life - overlap)), "and as long before the end as was set"


def test_a_preferred_signer_that_has_ended_signs_no_more(server: StatusServer) -> None:
    """Before anybody looks again who there is; the usual one is younger."""
    issued = server.issue()
    short = {"certificate_validity": timedelta(minutes=40), "renew_before": timedelta(minutes=20)}
    short |= {"validity": timedelta(minutes=5), "unknown_validity": timedelta(minutes=5)}
    keys = server.at.status

    def renew(*further: str) -> None:
        change(server, key_type="ec-p384", further_key_types=further, **short)
        server.run(keys.responders.run_due)
        server.run(keys.directory.refresh)

    renew("rsa-2048")
    server.at.clock.advance(timedelta(minutes=30))
    renew()
    [one] = messages.decode_request(request(issued.der, issued.chain[0])).certificates
    wish = der.sequence(der.sequence(der.object_identifier("1.2.840.113549.1.1.11"), b"\x05\x00"))
    extension = der.extension(messages.PREFERRED_ALGORITHMS, der.sequence(wish))
    asked = der.sequence(
        der.sequence(der.sequence(der.sequence(one.encoded)), der.explicit(2, der.sequence(extension)))
    )
    for minutes, kind in ((9, rsa.RSAPublicKey), (2, ec.EllipticCurvePublicKey)):
        server.at.clock.advance(timedelta(minutes=minutes))
        found = read(post(server, asked))
        [responder] = found.certificates
        assert isinstance(responder.public_key(), kind)
        assert found.next_update_utc is not None
        assert found.next_update_utc <= responder.not_valid_after_utc
