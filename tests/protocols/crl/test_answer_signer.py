"""Who may sign an OCSP answer, as the self-check asks: the issuer, or whom it certified for that and for now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from pkiserver.authority.status.answersigner import WrongAnswerError, check_signer
from tests.protocols.ocsp.foreign_site import DAY, Other

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
CA = Other(NOW)
KEY = ec.generate_private_key(ec.SECP256R1())


@attrs.frozen
class Signer:
    """Whose certificate an answer shows, and whose key signs it."""

    by: Other = CA
    usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.OCSP_SIGNING
    end: datetime = NOW + DAY

    def certificate(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "responder")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.by.name)
            .public_key(KEY.public_key())
            .serial_number(9)
            .not_valid_before(NOW - DAY)
            .not_valid_after(self.end)
        )
        if self.usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([self.usage]), False)
        return builder.sign(self.by.key, hashes.SHA256())

    def check(self) -> None:
        builder = ocsp.OCSPResponseBuilder().add_response(
            CA.leaf(5), CA.certificate(), hashes.SHA1(), ocsp.OCSPCertStatus.GOOD, NOW, NOW + DAY, None, None
        )
        shown = self.certificate()
        signed = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, shown).certificates([shown])
        answer = signed.sign(KEY, hashes.SHA256())
        check_signer(answer, answer.public_bytes(Encoding.DER), CA.certificate(), NOW)


def test_whom_the_issuer_certified_may_sign() -> None:
    Signer().check()


@pytest.mark.parametrize("naming", list(ocsp.OCSPResponderEncoding))
def test_a_responder_may_be_known_by_other_means(naming: ocsp.OCSPResponderEncoding) -> None:
    stranger, known = Signer(by=Other(NOW)).certificate(), Signer().certificate()
    answer = (
        ocsp.OCSPResponseBuilder()
        .add_response(CA.leaf(5), CA.certificate(), hashes.SHA1(), ocsp.OCSPCertStatus.GOOD, NOW, NOW + DAY, None, None)
        .responder_id(naming, known)
        .sign(KEY, hashes.SHA256())
    )
    octets = answer.public_bytes(Encoding.DER)
    check_signer(answer, octets, CA.certificate(), NOW, known=[CA.certificate(), known])
    with pytest.raises(WrongAnswerError, match="not the responder's"):
        check_signer(answer, octets, CA.certificate(), NOW)
    with pytest.raises(WrongAnswerError, match="not signed by the issuer's key"):
        check_signer(answer, octets, CA.certificate(), NOW, known=[stranger])


@pytest.mark.parametrize(
    ("signer", "why"),
    [
        (Signer(usage=None), "not for OCSP"),
        (Signer(usage=ExtendedKeyUsageOID.TIME_STAMPING), "not for OCSP"),
        (Signer(end=NOW - timedelta(seconds=1)), "not valid now"),
        (Signer(by=Other(NOW)), "not signed by the issuer's key"),
    ],
)
def test_nobody_else_may(signer: Signer, why: str) -> None:
    with pytest.raises(WrongAnswerError, match=why):
        signer.check()
