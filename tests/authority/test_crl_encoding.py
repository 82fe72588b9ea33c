"""The streaming CRL encoder against three readers that are not ours: cryptography, openssl and pkilint."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.authority.status.crlder import CrlEntry, CrlHead, encode_tbs
from pkiserver.foundation import der
from tests.authority.status_world import lint_crl
from tests.support.work import counted_work

ECDSA_SHA256 = der.sequence(der.object_identifier("1.2.840.10045.4.3.2"))
KEY = ec.derive_private_key(0x1234567890ABCDEF, ec.SECP256R1())
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "CRL Test CA")])
NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)

REASONS = {
    0: None,
    1: x509.ReasonFlags.key_compromise,
    2: x509.ReasonFlags.ca_compromise,
    3: x509.ReasonFlags.affiliation_changed,
    4: x509.ReasonFlags.superseded,
    5: x509.ReasonFlags.cessation_of_operation,
    6: x509.ReasonFlags.certificate_hold,
    8: x509.ReasonFlags.remove_from_crl,
    9: x509.ReasonFlags.privilege_withdrawn,
    10: x509.ReasonFlags.aa_compromise,
}


def head(number: int = 1, this_update: datetime = NOW) -> CrlHead:
    return CrlHead(
        issuer=NAME.public_bytes(),
        algorithm=ECDSA_SHA256,
        this_update=this_update,
        next_update=this_update + timedelta(hours=24),
        number=number,
        key_identifier=b"\x01" * 20,
    )


def signed(tbs: bytes) -> bytes:
    return der.sequence(tbs, ECDSA_SHA256, der.bit_string(KEY.sign(tbs, ec.ECDSA(hashes.SHA256()))))


ENTRIES = st.lists(
    st.tuples(
        st.integers(min_value=1, max_value=(1 << 159) - 1),
        st.integers(min_value=0, max_value=253402300799),
        st.sampled_from(sorted(REASONS)),
        st.none() | st.integers(min_value=0, max_value=253402300799),
    ),
    max_size=20,
    unique_by=lambda entry: entry[0],
)


@settings(max_examples=150, deadline=None)
@given(entries=ENTRIES, number=st.integers(min_value=0, max_value=(1 << 159) - 1))
def test_cryptography_reads_back_every_entry(entries: list[tuple[int, int, int, int | None]], number: int) -> None:
    encoded = encode_tbs(head(number), (CrlEntry(*entry) for entry in entries))
    crl = x509.load_der_x509_crl(signed(encoded.der))
    assert crl.is_signature_valid(KEY.public_key())
    assert encoded.entries == len(crl) == len(entries)
    assert crl.tbs_certlist_bytes == encoded.der
    assert crl.issuer == NAME
    assert crl.last_update_utc == NOW
    assert crl.next_update_utc == NOW + timedelta(hours=24)
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == number
    aki = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert aki == x509.AuthorityKeyIdentifier(b"\x01" * 20, None, None)
    for (serial, at, reason, invalidity), found in zip(entries, crl, strict=True):
        assert found.serial_number == serial
        assert found.revocation_date_utc == datetime.fromtimestamp(at, UTC)
        oids = {one.oid: one for one in found.extensions}
        assert not any(one.critical for one in found.extensions)
        flag = REASONS[reason]
        assert (x509.CRLReason.oid in oids) == (flag is not None)
        if flag is not None:
            assert oids[x509.CRLReason.oid].value == x509.CRLReason(flag)
        assert (x509.InvalidityDate.oid in oids) == (invalidity is not None)
        if invalidity is not None:
            date = found.extensions.get_extension_for_class(x509.InvalidityDate).value.invalidity_date_utc
            assert date == datetime.fromtimestamp(invalidity, UTC)


@pytest.mark.parametrize(
    "this_update", [NOW, datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)]
)
def test_octets_equal_those_of_cryptographys_builder(this_update: datetime) -> None:
    at = datetime(2026, 11, 20, tzinfo=UTC)
    entry = (
        x509.RevokedCertificateBuilder()
        .serial_number(0xFEDCBA98)
        .revocation_date(at)
        .add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), critical=False)
        .build()
    )
    theirs = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(NAME)
        .last_update(this_update)
        .next_update(this_update + timedelta(hours=24))
        .add_revoked_certificate(entry)
        .add_extension(x509.AuthorityKeyIdentifier(b"\x01" * 20, None, None), critical=False)
        .add_extension(x509.CRLNumber(7), critical=False)
        .sign(KEY, hashes.SHA256())
    )
    ours = encode_tbs(head(7, this_update), [CrlEntry(0xFEDCBA98, int(at.timestamp()), 1)])
    assert ours.der == theirs.tbs_certlist_bytes


@pytest.mark.parametrize("count", [0, 1, 300])
def test_pkilint_and_openssl_find_nothing_to_say(count: int, tmp_path: Path) -> None:
    at = int(NOW.timestamp()) - 100
    entries = [
        CrlEntry((1 << 150) + i, at + i % 90, (0, 1, 4, 6)[i % 4], at if i % 5 == 0 else None) for i in range(count)
    ]
    crl = signed(encode_tbs(head(count + 1), entries).der)
    assert lint_crl(crl) == []
    file = tmp_path / "test.crl"
    file.write_bytes(crl)
    public = tmp_path / "key.pem"
    public.write_bytes(
        KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    shown = subprocess.run(
        ["openssl", "crl", "-inform", "DER", "-in", str(file), "-noout", "-text"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.count("Serial Number:") == count
    assert "unspecified" not in shown.lower()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="159"):
        encode_tbs(head(1 << 159), [])
    with pytest.raises(ValueError, match="20 octets"):
        encode_tbs(head(), [CrlEntry(1 << 1000, 0, 0)])


def test_the_work_grows_with_the_number_of_entries_and_no_faster() -> None:
    at = int(NOW.timestamp())
    calls = []
    for count in (10_000, 20_000):
        entries = [CrlEntry((1 << 158) + i, at - i % 5000, 4) for i in range(count)]
        with counted_work() as work:
            assert encode_tbs(head(), entries).entries == count
        calls.append(work.calls)
    assert calls[1] < 2.2 * calls[0]
    assert calls[0] < 20 * 10_000
