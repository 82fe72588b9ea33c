"""SCEP over the real engine: SoftHSM, SQLite, the gate; openssl on the other side."""

from __future__ import annotations

from cryptography import x509

from tests.protocols.scep.support import SUCCESS, World


def test_a_code_brings_a_certificate(scep: World) -> None:
    device = scep.device("walker")
    answer = device.enroll(scep.code())
    assert answer.status == SUCCESS, answer
    (certificate,) = device.certificates(answer)
    assert certificate.subject.rfc4514_string() == "CN=walker"
    own = x509.load_pem_x509_certificate((device.folder / "self.crt").read_bytes())
    assert certificate.public_key() == own.public_key()
    assert answer.transaction_id == device.transaction
