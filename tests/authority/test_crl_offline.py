"""A root CRL made from files alone, as on a machine without network."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.authority.model import CaCertificate
from pkiserver.authority.status.crlder import CrlEntry
from pkiserver.authority.status.offline import CrlView, OfflineCrl, encode_offline, entries_of, read_crl
from pkiserver.foundation import der
from pkiserver.foundation.errors import Rejected
from pkiserver.keys.algorithms import SignatureScheme

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
KEY = ec.derive_private_key(7, ec.SECP256R1())
SCHEME = SignatureScheme.parse("ecdsa-sha256")
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Offline Root")])


def certificate(*, crl_sign: bool = True, key: ec.EllipticCurvePrivateKey = KEY) -> CaCertificate:
    built = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(False, False, False, False, False, True, crl_sign, False, False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(b"\x05" * 20), critical=False)
        .sign(key, hashes.SHA256())
    )
    return CaCertificate.load(built.public_bytes(Encoding.DER))


ROOT = certificate()


def make(**changes: object) -> OfflineCrl:
    fields: dict[str, object] = {
        "issuer": ROOT,
        "scheme": SCHEME,
        "this_update": NOW,
        "validity": timedelta(days=180),
    }
    return OfflineCrl(**(fields | changes))  # type: ignore[arg-type]


def sign(wanted: OfflineCrl, key: ec.EllipticCurvePrivateKey = KEY) -> bytes:
    tbs = encode_offline(wanted).der
    signature = key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    return der.sequence(tbs, SCHEME.algorithm_identifier(), der.bit_string(signature))


def view(wanted: OfflineCrl) -> CrlView:
    return read_crl(sign(wanted), ROOT)


def test_lists_follow_each_other_from_files() -> None:
    first = view(make(revoked=(CrlEntry(10, 1000, 1), CrlEntry(11, 1001, 6), CrlEntry(12, 1002, 6, 900))))
    assert first.number == 1
    assert first.next_update == NOW + timedelta(days=180)
    second = view(
        make(previous=first, revoked=(CrlEntry(11, 5000, 4), CrlEntry(13, 5001, 0)), released=frozenset({12}))
    )
    assert second.number == 2
    # Who was on hold and is now revoked keeps the date of the hold (X.509 on certificateHold).
    assert list(entries_of(second)) == [CrlEntry(10, 1000, 1), CrlEntry(11, 1001, 4), CrlEntry(13, 5001, 0)]
    aki = second.crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert aki.key_identifier == b"\x05" * 20


def test_the_number_rises_or_there_is_no_list() -> None:
    first = view(make(number=40))
    assert view(make(previous=first)).number == 41
    assert view(make(previous=first, number=100)).number == 100
    with pytest.raises(Rejected, match="does not rise"):
        encode_offline(make(previous=first, number=40))
    with pytest.raises(Rejected, match="the clock here is behind"):
        encode_offline(make(previous=first, this_update=NOW - timedelta(seconds=1)))


def test_every_senseless_change_is_named() -> None:
    first = view(make(revoked=(CrlEntry(10, 1000, 1),)))
    with pytest.raises(Rejected) as refused:
        encode_offline(make(previous=first, revoked=(CrlEntry(10, 2000, 4),), released=frozenset({10, 99})))
    assert len(refused.value.reasons) == 3


def test_a_foreign_or_forged_list_is_not_carried_over() -> None:
    other = ec.derive_private_key(8, ec.SECP256R1())
    with pytest.raises(Rejected, match="signature"):
        read_crl(sign(make(), other), ROOT)
    with pytest.raises(Rejected, match="not a certificate revocation list"):
        read_crl(sign(make())[:-3], ROOT)


def test_a_certificate_without_crl_sign_signs_none() -> None:
    with pytest.raises(Rejected, match="cRLSign"):
        encode_offline(make(issuer=certificate(crl_sign=False)))
