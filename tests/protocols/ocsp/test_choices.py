"""What an answer says and who signs it, where policy or client choose: algorithms, names, chains, references."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp

from pkiserver.authority.status.policy import NoncePolicy, OcspPolicy, OcspSigning, ResponderIdentity
from pkiserver.foundation import der
from pkiserver.keys.settings import ProviderSettings
from protocols.ocsp import messages
from protocols.ocsp.edge import OcspSettings
from tests.authority.status_world import lint_ocsp
from tests.protocols.ocsp.asking import change, openssl, post, read, request
from tests.protocols.status_server import StatusServer, status_server

ECDSA_SHA384 = der.sequence(der.object_identifier("1.2.840.10045.4.3.3"))
RSA_SHA256 = der.sequence(der.object_identifier("1.2.840.113549.1.1.11"))
RSA_KEY = der.sequence(der.object_identifier("1.2.840.113549.1.1.1"), b"\x05\x00")
ED448 = der.sequence(der.object_identifier("1.3.101.113"))


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory,
    stores: tuple[ProviderSettings, ...],
    on_reactor: Callable[[Any], Any],
) -> Iterator[StatusServer]:
    directory: Path = tmp_path_factory.mktemp("choices")
    with status_server(directory, stores, on_reactor) as opened:
        yield opened


def preferring(issued: bytes, issuer: bytes, *wishes: bytes) -> bytes:
    """A request with preferred signature algorithms (RFC 6960 section 4.4.7.1)."""
    [one] = messages.decode_request(request(issued, issuer)).certificates
    extension = der.extension(messages.PREFERRED_ALGORITHMS, der.sequence(*wishes))
    asked = der.sequence(der.sequence(one.encoded))
    return der.sequence(der.sequence(asked, der.explicit(2, der.sequence(extension))))


def test_the_clients_preferred_algorithm_signs_where_there_is_a_key_for_it(server: StatusServer) -> None:
    issued = server.issue()
    change(server, further_key_types=("rsa-2048",))
    server.run(server.at.status.responders.run_due)
    server.run(server.at.status.directory.refresh)
    cases: list[tuple[tuple[bytes, ...], type[Any], type[hashes.HashAlgorithm]]] = [
        ((), ec.EllipticCurvePublicKey, hashes.SHA256),
        ((der.sequence(ECDSA_SHA384),), ec.EllipticCurvePublicKey, hashes.SHA384),
        ((der.sequence(RSA_SHA256, RSA_KEY),), rsa.RSAPublicKey, hashes.SHA256),
        ((der.sequence(ED448), der.sequence(RSA_SHA256)), rsa.RSAPublicKey, hashes.SHA256),
        ((der.sequence(ED448),), ec.EllipticCurvePublicKey, hashes.SHA256),
        ((der.sequence(ECDSA_SHA384, RSA_KEY),), ec.EllipticCurvePublicKey, hashes.SHA256),
    ]
    for wishes, kind, digest in cases:
        asked = preferring(issued.der, issued.chain[0], *wishes) if wishes else request(issued.der, issued.chain[0])
        answer = post(server, asked)
        found = read(answer)
        [responder] = found.certificates
        key = responder.public_key()
        assert isinstance(key, kind)
        assert isinstance(found.signature_hash_algorithm, digest)
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(found.signature, found.tbs_response_bytes, ec.ECDSA(digest()))
        assert lint_ocsp(answer.body) == []
    openssl_says = openssl(server, issued.der, issued.chain)
    assert "Response verify OK" in openssl_says


@pytest.mark.parametrize("wrong", [b"\x05\x00", b"\x30\x02\x05\x00", b"\x30\x02\x30\x00", b"\x04\x01"])
def test_preferences_that_are_none_are_malformed(server: StatusServer, wrong: bytes) -> None:
    issued = server.issue()
    [one] = messages.decode_request(request(issued.der, issued.chain[0])).certificates
    extension = der.extension(messages.PREFERRED_ALGORITHMS, wrong)
    asked = der.sequence(
        der.sequence(der.sequence(der.sequence(one.encoded)), der.explicit(2, der.sequence(extension)))
    )
    assert read(post(server, asked)).response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


def test_answers_name_the_crl_that_a_certificate_is_on_and_only_that(server: StatusServer) -> None:
    issued = server.issue("on the list")
    change(server, crl_reference=True)
    server.run(lambda: server.at.revoke(issued))
    asked = request(issued.der, issued.chain[0])
    assert list(read(post(server, asked)).single_extensions) == [], "no list has it yet"
    server.at.clock.advance(timedelta(seconds=11))
    server.run(server.at.status.schedule.run_due)
    server.run(server.at.status.directory.refresh)
    answer = post(server, asked)
    crl = server.run(server.at.crl)
    assert crl.get_revoked_certificate_by_serial_number(issued.serial) is not None
    [reference] = read(answer).single_extensions
    assert reference.oid.dotted_string == messages.CRL_REFERENCE
    number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    expected = messages.crl_reference("http://pki.example/crl/issuing-1.crl", number, crl.last_update_utc)
    assert reference.value.public_bytes() in expected
    assert lint_ocsp(answer.body) == []
    assert "Response verify OK" in openssl(server, issued.der, issued.chain)
    change(server, crl_reference=False)


@pytest.mark.parametrize("signing", [OcspSigning.DELEGATED, OcspSigning.AUTHORITY])
@pytest.mark.parametrize("identity", list(ResponderIdentity))
@pytest.mark.parametrize("shown", [True, False])
def test_every_way_to_sign_is_believed_and_linted(
    server: StatusServer, signing: OcspSigning, identity: ResponderIdentity, shown: bool
) -> None:
    issued = server.issue()
    change(server, signing=signing, identity=identity, include_certificate=shown, further_key_types=())
    answer = post(server, request(issued.der, issued.chain[0], nonce=b"n" * 32))
    found = read(answer)
    assert (found.responder_name is not None) == (identity is ResponderIdentity.NAME)
    assert len(found.certificates) == (shown and signing is OcspSigning.DELEGATED)
    assert lint_ocsp(answer.body) == []
    if signing is OcspSigning.AUTHORITY:
        issuer = x509.load_der_x509_certificate(issued.chain[0])
        if identity is ResponderIdentity.KEY:
            digest = x509.SubjectKeyIdentifier.from_public_key(issuer.public_key()).digest
            assert found.responder_key_hash == digest
            assert issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        else:
            assert found.responder_name == issuer.subject
    if shown or signing is OcspSigning.AUTHORITY:
        assert "Response verify OK" in openssl(server, issued.der, issued.chain)


def test_settings_outside_reason_are_refused() -> None:
    for wrong in ({"path": "ocsp"}, {"path": "/ocsp/"}, {"max_body": 1}, {"max_requests": 0}, {"max_requests": 65}):
        with pytest.raises(ValueError, match="must"):
            OcspSettings(**wrong)  # type: ignore[arg-type]
    assert OcspPolicy().nonce is NoncePolicy.ANSWER
