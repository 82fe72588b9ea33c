"""OCSP octets: cryptography and openssl on the other side, and a table of hostile requests."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.foundation import der
from protocols.ocsp import messages
from protocols.ocsp.messages import MalformedRequest, decode_request
from tests.support.work import counted_work

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
ECDSA_SHA256 = der.sequence(der.object_identifier("1.2.840.10045.4.3.2"))
KEY = ec.derive_private_key(0xABCDEF, ec.SECP256R1())
HASHES = {"sha1": hashes.SHA1(), "sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
OIDS = {name: oid for oid, (name, _) in messages.HASH_OIDS.items()}


def cert_id(serial: int = 1, name: str = "sha1", *, null: bool = True) -> bytes:
    size = hashlib.new(name).digest_size
    algorithm = der.sequence(der.object_identifier(OIDS[name]), b"\x05\x00" if null else b"")
    return der.sequence(algorithm, der.octet_string(b"n" * size), der.octet_string(b"k" * size), der.integer(serial))


def request(*ids: bytes, extensions: tuple[bytes, ...] = (), before: bytes = b"", after: bytes = b"") -> bytes:
    tail = der.explicit(2, der.sequence(*extensions)) if extensions else b""
    return der.sequence(der.sequence(before, der.sequence(*(der.sequence(one) for one in ids)), tail), after)


def nonce(octets: bytes) -> bytes:
    return der.extension(messages.NONCE, der.octet_string(octets))


@settings(max_examples=100, deadline=None)
@given(
    serial=st.integers(min_value=1, max_value=(1 << 159) - 1),
    name=st.sampled_from(sorted(HASHES)),
    octets=st.none() | st.binary(min_size=1, max_size=128),
)
def test_what_cryptography_writes_is_read(serial: int, name: str, octets: bytes | None) -> None:
    size = hashlib.new(name).digest_size
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(b"n" * size, b"k" * size, serial, HASHES[name])
    if octets is not None:
        builder = builder.add_extension(x509.OCSPNonce(octets), critical=False)
    read = decode_request(builder.build().public_bytes(Encoding.DER))
    assert read.nonce == octets
    [one] = read.certificates
    assert (one.hash_name, one.serial) == (name, serial)
    assert (one.issuer_name_hash, one.issuer_key_hash) == (b"n" * size, b"k" * size)
    assert one.encoded in builder.build().public_bytes(Encoding.DER)


def test_many_requests_signed_requests_and_named_requestors_are_read() -> None:
    ids = [cert_id(serial, name) for serial, name in enumerate(sorted(HASHES), start=1)]
    requestor = der.explicit(1, der.explicit(4, x509.Name([]).public_bytes()))
    signature = der.explicit(0, der.sequence(ECDSA_SHA256, der.bit_string(b"no such signature")))
    read = decode_request(request(*ids, before=requestor, after=signature))
    assert [one.encoded for one in read.certificates] == ids
    assert [one.serial for one in read.certificates] == [1, 2, 3, 4]


def test_hash_parameters_come_back_as_they_were_sent() -> None:
    without = cert_id(null=False)
    assert decode_request(request(without)).certificates[0].encoded == without


def test_a_hash_unknown_here_is_no_malformed_request() -> None:
    md5 = der.sequence(der.object_identifier("1.2.840.113549.2.5"), b"\x05\x00")
    unknown = der.sequence(md5, der.octet_string(b"n" * 16), der.octet_string(b"k" * 16), der.integer(1))
    assert decode_request(request(unknown)).certificates[0].hash_name is None


def nested(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        inner = der.tlv(0x30, inner)
    return inner


GOOD = request(cert_id())
HOSTILE = {
    "empty": b"",
    "truncated": GOOD[:-1],
    "trailing octet": GOOD + b"\0",
    "indefinite length": b"\x30\x80" + GOOD[2:] + b"\0\0",
    "length not minimal": b"\x30\x81" + GOOD[1:],
    "four gigabytes announced": b"\x30\x84\xff\xff\xff\xff",
    "nested ten thousand deep": nested(10_000),
    "nesting where a requestor name stands": request(cert_id(), before=der.explicit(1, nested(5_000) + b"\x04")),
    "no requests": request(),
    "ten thousand requests": request(*[cert_id(n) for n in range(1, 10_001)]),
    "empty nonce": request(cert_id(), extensions=(nonce(b""),)),
    "nonce of 129 octets": request(cert_id(), extensions=(nonce(bytes(129)),)),
    "nonce of ten million octets": request(cert_id(), extensions=(nonce(bytes(10_000_000)),)),
    "nonce not an octet string": request(cert_id(), extensions=(der.extension(messages.NONCE, b"raw"),)),
    "two nonces": request(cert_id(), extensions=(nonce(b"1" * 16), nonce(b"2" * 16))),
    "critical extension": request(cert_id(), extensions=(der.extension("1.2.3", b"", critical=True),)),
    "critical extension of one certificate": der.sequence(
        der.sequence(
            der.sequence(
                der.sequence(cert_id(), der.explicit(0, der.sequence(der.extension("1.2.3", b"", critical=True))))
            )
        )
    ),
    "hash of wrong length": request(
        der.sequence(
            der.sequence(der.object_identifier(OIDS["sha256"])),
            der.octet_string(b"n" * 20),
            der.octet_string(b"k" * 20),
            der.integer(1),
        )
    ),
    "version 2": request(cert_id(), before=der.explicit(0, der.integer(1))),
    "a certificate": x509.Name([]).public_bytes(),
    "text": b"GET / HTTP/1.0",
    "oid of a megabyte": request(der.sequence(der.sequence(der.tlv(0x06, b"\x81" * 1_000_000)), b"", b"")),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_requests_are_malformed_and_cost_nothing(what: str) -> None:
    with counted_work() as work, pytest.raises(MalformedRequest):
        decode_request(HOSTILE[what], max_requests=16)
    assert work.calls < len(HOSTILE[what]) + 1000


def test_long_requests_leave_nothing_in_memory() -> None:
    """Each is about another certificate, so that whatever is kept of one is kept of all."""
    asked = [request(cert_id((1 << 100_000) + number)) for number in range(200)]
    decode_request(asked[0])
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for one in asked:
            assert decode_request(one).certificates[0].serial > 0
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 10 * len(asked[0])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_octets_are_read_or_malformed(data: st.DataObject) -> None:
    octets = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedRequest):
        decode_request(bytes(octets))


@settings(max_examples=60, deadline=None)
@given(
    serial=st.integers(min_value=1, max_value=(1 << 159) - 1),
    status=st.sampled_from([messages.Good(), messages.Unknown(), messages.Revoked(NOW, 0), messages.Revoked(NOW, 6)]),
    octets=st.none() | st.binary(min_size=1, max_size=128),
    name=st.sampled_from(sorted(HASHES)),
)
def test_what_is_written_cryptography_reads(
    serial: int, status: messages.CertStatus, octets: bytes | None, name: str
) -> None:
    period = messages.times(NOW, NOW + timedelta(hours=1))
    answer = messages.single_response(cert_id(serial, name), status, period)
    key_hash = hashlib.sha1(os.urandom(8)).digest()
    tbs = messages.response_data(messages.opening(messages.by_key(key_hash), NOW), [answer], octets)
    signature = KEY.sign(tbs, ec.ECDSA(hashes.SHA256()))
    read = ocsp.load_der_ocsp_response(
        messages.encode_response(der.sequence(tbs, ECDSA_SHA256, der.bit_string(signature)))
    )
    assert read.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
    assert read.tbs_response_bytes == tbs
    assert read.signature == signature
    assert read.responder_key_hash == key_hash
    assert (read.serial_number, read.hash_algorithm.name) == (serial, name)
    assert (read.this_update_utc, read.next_update_utc) == (NOW, NOW + timedelta(hours=1))
    expected = {
        messages.Good: ocsp.OCSPCertStatus.GOOD,
        messages.Revoked: ocsp.OCSPCertStatus.REVOKED,
        messages.Unknown: ocsp.OCSPCertStatus.UNKNOWN,
    }
    assert read.certificate_status is expected[type(status)]
    if isinstance(status, messages.Revoked):
        assert read.revocation_time_utc == NOW
        assert read.revocation_reason == (x509.ReasonFlags.certificate_hold if status.reason else None)
    found = [one.value.nonce for one in read.extensions if isinstance(one.value, x509.OCSPNonce)]
    assert found == ([] if octets is None else [octets])


def test_errors_are_what_cryptography_and_openssl_call_them(tmp_path: Path) -> None:
    for status in messages.ResponseStatus:
        if status is messages.ResponseStatus.SUCCESSFUL:
            continue
        octets = messages.encode_error(status)
        assert ocsp.load_der_ocsp_response(octets).response_status.value == status
    file = tmp_path / "answer.der"
    file.write_bytes(messages.encode_error(messages.ResponseStatus.TRY_LATER))
    shown = subprocess.run(
        ["openssl", "ocsp", "-respin", str(file), "-noverify"], capture_output=True, text=True, check=False
    )
    assert "trylater (3)" in shown.stdout + shown.stderr
