"""What tokens say, by what the unit's configuration says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from pkiserver.foundation import der
from pkiserver.foundation.errors import Rejected
from pkiserver.keys import structures
from pkiserver.keys.faults import WrongDoor
from pkiserver.timestamping.unit import Chain, ImprintHash, Precision
from protocols.cms import oids
from protocols.timestamp.messages import encode_request
from protocols.timestamp.tokens import encode_accuracy
from protocols.timestamp.verification import read_token, verify_token
from tests.protocols.timestamp.world import TimestampWorld

QUERY = encode_request(ImprintHash.SHA256, bytes(32), nonce=7)
MICROSECOND = timedelta(microseconds=1)


def roots(world: TimestampWorld) -> list[x509.Certificate]:
    return [world.at.world.road.authorities.get("root").current.certificate.certificate]


def test_the_unit_s_certificate_is_for_time_stamps_alone(shared: TimestampWorld) -> None:
    active = shared.directory.get("main")
    assert active is not None
    certificate = active.profile.certificate
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert usage.critical
    assert list(usage.value) == [ExtendedKeyUsageOID.TIME_STAMPING]
    period = certificate.extensions.get_extension_for_class(x509.PrivateKeyUsagePeriod).value
    assert period.not_after is not None
    assert period.not_after.replace(tzinfo=UTC) == certificate.not_valid_before_utc + timedelta(days=365)
    assert certificate.not_valid_before_utc <= shared.clock.now()


def test_tokens_are_strict_der_with_sorted_sets(shared: TimestampWorld) -> None:
    shared.make("rich", certificates=Chain.ROOT, ess_cert_id_v1=True, algorithm_protection=True, qualified=True)
    token = read_token(shared.stamp("rich", QUERY))
    assert list(token.message.certificates) == sorted(token.message.certificates)
    assert len(token.message.certificates) == 3
    names = [name for name, _ in token.signer.signed.items]
    assert set(names) == {
        oids.CONTENT_TYPE,
        oids.MESSAGE_DIGEST,
        oids.SIGNING_TIME,
        oids.SIGNING_CERTIFICATE,
        oids.SIGNING_CERTIFICATE_V2,
        oids.ALGORITHM_PROTECTION,
    }
    assert token.extensions == ("1.3.6.1.5.5.7.1.3",)
    # The door that signs refuses attributes that are not in DER order.
    octets = token.signer.signed_octets
    assert octets is not None
    structures.signed_attributes(der.tlv(0x31, octets), structures.TST_INFO_OID)
    verify_token(token, bytes(32), roots=roots(shared), nonce=7)


@pytest.mark.parametrize(("chain", "count"), [(Chain.UNIT, 1), (Chain.FULL, 2), (Chain.ROOT, 3)])
def test_certificates_are_sent_when_they_are_asked_for(shared: TimestampWorld, chain: Chain, count: int) -> None:
    shared.make(f"chain-{count}", certificates=chain)
    assert len(read_token(shared.stamp(f"chain-{count}", QUERY)).message.certificates) == count
    bare = encode_request(ImprintHash.SHA256, bytes(32), certificates=False)
    assert read_token(shared.stamp(f"chain-{count}", bare)).message.certificates == ()


def test_a_plain_unit_says_no_more_than_it_must(shared: TimestampWorld) -> None:
    shared.make("plain", tsa_name=False, signing_time=False, state_accuracy=False, serial_octets=8)
    token = read_token(shared.stamp("plain", QUERY))
    assert token.accuracy is None
    assert token.serial.bit_length() <= 64
    assert oids.SIGNING_TIME not in [name for name, _ in token.signer.signed.items]
    verify_token(token, bytes(32), roots=roots(shared))


@pytest.mark.parametrize(
    ("precision", "micros", "fraction"),
    [
        (Precision.SECONDS, 999_999, b""),
        (Precision.MILLISECONDS, 0, b""),
        (Precision.MILLISECONDS, 120_999, b".12"),
        (Precision.MICROSECONDS, 100_000, b".1"),
        (Precision.MICROSECONDS, 1, b".000001"),
        (Precision.MICROSECONDS, 0, b""),
    ],
)
def test_gentime_has_no_trailing_zeros(
    server: TimestampWorld, precision: Precision, micros: int, fraction: bytes
) -> None:
    server.make("fine", precision=precision, accuracy=timedelta(seconds=2))
    server.clock.advance(timedelta(microseconds=micros))
    token = read_token(server.stamp("fine", QUERY))
    content = token.message.content
    assert content is not None
    assert f"{server.clock.now():%Y%m%d%H%M%S}".encode() + fraction + b"Z" in content
    assert timedelta() <= server.clock.now() - token.at < timedelta(seconds=1)


def test_seconds_turn_over_years_and_gentime_reaches_2050(server: TimestampWorld) -> None:
    server.make("last", key_usage_period=timedelta(days=3000), precision=Precision.MICROSECONDS)
    active = server.directory.get("last")
    assert active is not None
    for moment in (
        datetime(2049, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2050, 1, 1, 0, 0, 0, tzinfo=UTC),
        datetime(2028, 2, 29, 12, 0, 0, tzinfo=UTC),
    ):
        imprint = encode_request(ImprintHash.SHA256, bytes(32))[5:-3]
        signable = active.template.signable("2.999.3161.1", imprint, b"\x41", moment, b"")
        assert f"{moment:%Y%m%d%H%M%S}".encode() in signable.info
        kind = 0x17 if moment.year < 2050 else 0x18
        assert bytes((kind,)) in signable.attributes
        structures.signed_attributes(signable.attributes, structures.TST_INFO_OID)


@given(st.integers(1, 86_399_999_999))
def test_accuracy_is_read_back(micros: int) -> None:
    from cryptography.hazmat import asn1

    from protocols.timestamp.verification import _Accuracy, _accuracy

    wanted = micros * MICROSECOND
    assert _accuracy(asn1.decode_der(_Accuracy, encode_accuracy(wanted))) == wanted


def test_the_door_remembers_a_structure_and_still_refuses_another(shared: TimestampWorld) -> None:
    active = shared.directory.get("main")
    assert active is not None
    check = structures.SignedAttributesCheck(structures.TST_INFO_OID)
    signable = active.template.signable("2.999.3161.1", bytes(0), b"\x41", shared.clock.now(), b"")
    good = signable.attributes
    check(good)
    check(good[:-40] + good[-40:])
    for at in range(len(good)):
        changed = good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :]
        outcomes = []
        for one in (check, lambda octets: structures.signed_attributes(octets, structures.TST_INFO_OID)):
            try:
                one(changed)
            except WrongDoor:
                outcomes.append("refused")
            else:
                outcomes.append("taken")
        assert outcomes[0] == outcomes[1], at
        check(good)


def test_verification_tells_everything_that_is_wrong(shared: TimestampWorld) -> None:
    answer = shared.stamp("main", QUERY)
    token = read_token(answer)
    assert verify_token(token, bytes(32), roots=roots(shared)).path[-1] == roots(shared)[0]
    with pytest.raises(Rejected) as caught:
        verify_token(token, b"x" * 32, roots=[], nonce=8)
    texts = [reason.text for reason in caught.value.reasons]
    assert any("other data" in text for text in texts)
    assert any("nonce" in text for text in texts)
    assert any("not trusted" in text for text in texts)
    content = token.message.content
    assert content is not None
    at = answer.index(content)
    forged = answer[: at + 50] + bytes((answer[at + 50] ^ 1,)) + answer[at + 51 :]
    with pytest.raises(Rejected):
        verify_token(read_token(forged), bytes(32), roots=roots(shared))
    # A certificate put in the signer's place is told by the signing-certificate attribute.
    active = shared.directory.get("main")
    assert active is not None
    other = shared.make("other", subject="CN=Time-stamping unit main")
    stranger = shared.directory.get(other.name)
    assert stranger is not None
    swapped = answer.replace(active.credential.certificate, stranger.credential.certificate)
    if len(active.credential.certificate) == len(stranger.credential.certificate):
        with pytest.raises(Rejected):
            verify_token(read_token(swapped), bytes(32), roots=roots(shared))


def test_a_refusal_is_no_token(shared: TimestampWorld) -> None:
    with pytest.raises(Rejected, match="not a DER TimeStampReq"):
        read_token(shared.ask("/tsa", b"").body)
    certificate = roots(shared)[0].public_bytes(Encoding.DER)
    for octets in (b"", b"\x30\x00", certificate, b"\x30\x80\x00\x00"):
        with pytest.raises(Rejected):
            read_token(octets)
