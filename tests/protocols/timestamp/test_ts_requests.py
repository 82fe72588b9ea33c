"""What requests may be, what is refused and by which failInfo; requests that mean harm."""

from __future__ import annotations

import contextlib
import os
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkiserver.foundation import der
from pkiserver.timestamping.unit import Chain, ImprintHash
from protocols.timestamp.messages import (
    SIZES,
    Failure,
    Refused,
    decode_request,
    encode_refusal,
    encode_request,
)
from protocols.timestamp.verification import read_token
from tests.protocols.timestamp.world import POLICY, TimestampWorld, tool

GOOD = encode_request(ImprintHash.SHA256, bytes(range(32)), nonce=0x0102030405060708)
SHA256 = "2.16.840.1.101.3.4.2.1"
TEXTS = {
    Failure.BAD_ALG: "badAlg",
    Failure.BAD_REQUEST: "badRequest",
    Failure.BAD_DATA_FORMAT: "badDataFormat",
    Failure.TIME_NOT_AVAILABLE: "timeNotAvailable",
    Failure.UNACCEPTED_POLICY: "unacceptedPolicy",
    Failure.UNACCEPTED_EXTENSION: "unacceptedExtension",
    Failure.ADD_INFO_NOT_AVAILABLE: "addInfoNotAvailable",
    Failure.SYSTEM_FAILURE: "systemFailure",
}
OPENSSL = {
    Failure.BAD_ALG: "unrecognized or unsupported algorithm identifier",
    Failure.BAD_REQUEST: "transaction not permitted or supported",
    Failure.BAD_DATA_FORMAT: "the data submitted has the wrong format",
    Failure.TIME_NOT_AVAILABLE: "the TSA's time source is not available",
    Failure.UNACCEPTED_POLICY: "the requested TSA policy is not supported by the TSA",
    Failure.UNACCEPTED_EXTENSION: "the requested extension is not supported by the TSA",
    Failure.ADD_INFO_NOT_AVAILABLE: "the additional information requested could not be understood or is not available",
    Failure.SYSTEM_FAILURE: "the request cannot be handled due to system failure",
}


def imprint(oid: str, octets: int, parameters: bytes = der.tlv(5)) -> bytes:
    return der.sequence(der.sequence(der.object_identifier(oid), parameters), der.octet_string(bytes(octets)))


def a_request(*parts: bytes, version: int = 1) -> bytes:
    return der.sequence(der.integer(version), *parts)


def said(world: TimestampWorld, body: bytes) -> str:
    """openssl's reading of an answer."""
    (world.folder / "answer").write_bytes(body)
    return tool("openssl", "ts", "-reply", "-in", str(world.folder / "answer"), "-text")


EXTENSION = der.tlv(0xA0, der.extension("1.2.3.4", b"\x05\x00", critical=True))
REFUSED = {
    "md5": (a_request(imprint("1.2.840.113549.2.5", 16)), Failure.BAD_ALG),
    "an unknown hash": (a_request(imprint("1.2.3.4", 32)), Failure.BAD_ALG),
    "a hash that is off": (encode_request(ImprintHash.SHA1, bytes(20)), Failure.BAD_ALG),
    "sha224, off": (encode_request(ImprintHash.SHA224, bytes(28)), Failure.BAD_ALG),
    "parameters": (a_request(imprint(SHA256, 32, der.integer(1))), Failure.BAD_ALG),
    "sha256 of 20 octets": (a_request(imprint(SHA256, 20)), Failure.BAD_DATA_FORMAT),
    "sha256 of 33 octets": (a_request(imprint(SHA256, 33)), Failure.BAD_DATA_FORMAT),
    "an empty imprint": (a_request(imprint(SHA256, 0)), Failure.BAD_DATA_FORMAT),
    "version 2": (a_request(imprint(SHA256, 32), version=2), Failure.BAD_REQUEST),
    "version 0": (a_request(imprint(SHA256, 32), version=0), Failure.BAD_REQUEST),
    "an unknown policy": (encode_request(ImprintHash.SHA256, bytes(32), policy="1.2.3.4"), Failure.UNACCEPTED_POLICY),
    "a critical extension": (a_request(imprint(SHA256, 32), EXTENSION), Failure.UNACCEPTED_EXTENSION),
    "an extension": (
        a_request(imprint(SHA256, 32), der.tlv(0xA0, der.extension("1.2.3.4", b"\x05\x00"))),
        Failure.UNACCEPTED_EXTENSION,
    ),
    "a nonce of 65 octets": (
        a_request(imprint(SHA256, 32), der.integer(1 << (8 * 64 + 1))),
        Failure.BAD_DATA_FORMAT,
    ),
    "nothing": (b"", Failure.BAD_DATA_FORMAT),
    "text": (b"GET / HTTP/1.0\r\n\r\n", Failure.BAD_DATA_FORMAT),
    "something behind": (GOOD + b"\0", Failure.BAD_DATA_FORMAT),
    "cut short": (GOOD[:-1], Failure.BAD_DATA_FORMAT),
    "indefinite length": (b"\x30\x80" + GOOD[2:] + b"\0\0", Failure.BAD_DATA_FORMAT),
    "a long length": (b"\x30\x81" + GOOD[1:], Failure.BAD_DATA_FORMAT),
    "four gigabytes": (b"\x30\x84\xff\xff\xff\xff" + GOOD[2:], Failure.BAD_DATA_FORMAT),
    "deep nesting": (b"\x30\x82\x20\x00" * 2000, Failure.BAD_DATA_FORMAT),
    "a huge object identifier": (
        a_request(der.sequence(der.sequence(der.tlv(6, b"\x81" * 4000 + b"\x01"))), der.octet_string(bytes(32))),
        Failure.BAD_DATA_FORMAT,
    ),
    "a padded integer": (
        der.sequence(b"\x02\x02\x00\x01", imprint(SHA256, 32)),
        Failure.BAD_DATA_FORMAT,
    ),
    "false written out": (a_request(imprint(SHA256, 32), b"\x01\x01\x00"), Failure.BAD_DATA_FORMAT),
    "an odd true": (a_request(imprint(SHA256, 32), b"\x01\x01\x01"), Failure.BAD_DATA_FORMAT),
    "a PDF hash in a constructed string": (
        a_request(der.sequence(der.sequence(der.object_identifier(SHA256)), b"\x24\x22\x04\x20" + bytes(32))),
        Failure.BAD_DATA_FORMAT,
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_bad_request_gets_its_own_failinfo_and_a_text(shared: TimestampWorld, what: str) -> None:
    body, failure = REFUSED[what]
    answer = shared.ask("/tsa", body)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/timestamp-reply"
    text = said(shared, answer.body)
    assert "Status: Rejected." in text
    assert f"Failure info: {OPENSSL[failure]}" in text
    assert "Status description: unspecified" not in text


def test_every_failinfo_of_the_rfc_is_reachable(server: TimestampWorld) -> None:
    reached = {failure for _, failure in REFUSED.values()}
    server.make("silent", certificates=Chain.NEVER)
    wanted = encode_request(ImprintHash.SHA256, bytes(32), certificates=True)
    text = said(server, server.ask("/tsa/silent", wanted).body)
    assert OPENSSL[Failure.ADD_INFO_NOT_AVAILABLE] in text
    reached.add(Failure.ADD_INFO_NOT_AVAILABLE)
    assert read_token(server.ask("/tsa/silent", encode_request(ImprintHash.SHA256, bytes(32), certificates=False)).body)
    server.clock.step(timedelta(seconds=5))
    text = said(server, server.ask("/tsa", GOOD).body)
    assert OPENSSL[Failure.TIME_NOT_AVAILABLE] in text
    assert "clock-stepped" in text
    reached.add(Failure.TIME_NOT_AVAILABLE)
    server.run(server.services.watch.run_due)

    async def lose() -> None:
        active = server.directory.get("main")
        assert active is not None
        await server.at.world.keys.delete(active.credential.key_name)

    server.run(lose)
    text = said(server, server.ask("/tsa", GOOD).body)
    assert OPENSSL[Failure.SYSTEM_FAILURE] in text
    reached.add(Failure.SYSTEM_FAILURE)
    assert reached == set(Failure)


@pytest.mark.parametrize("size", [1, 8, 63, 64])
@pytest.mark.parametrize("sign", [1, -1])
def test_nonces_come_back_as_they_were(shared: TimestampWorld, size: int, sign: int) -> None:
    nonce = sign * int.from_bytes(b"\x7f" + os.urandom(size - 1), "big")
    query = encode_request(ImprintHash.SHA256, bytes(32), nonce=nonce)
    assert read_token(shared.ask("/tsa", query).body).nonce == nonce


def test_null_parameters_come_back_as_they_were(shared: TimestampWorld) -> None:
    for parameters in (b"", der.tlv(5)):
        asked = imprint(SHA256, 32, parameters)
        token = read_token(shared.ask("/tsa", a_request(asked)).body)
        assert token.imprint.encoded == asked
        assert token.policy == POLICY


def test_weak_hashes_where_they_are_switched_on(shared: TimestampWorld) -> None:
    shared.make("weak", hashes=(ImprintHash.SHA1, ImprintHash.SHA224))
    for name in (ImprintHash.SHA1, ImprintHash.SHA224):
        token = read_token(shared.ask("/tsa/weak", encode_request(name, bytes(SIZES[name]))).body)
        assert token.imprint.hash is name
    assert OPENSSL[Failure.BAD_ALG] in said(shared, shared.ask("/tsa/weak", GOOD).body)


def test_http_has_faults_of_its_own(shared: TimestampWorld) -> None:
    assert shared.ask("/tsa/nobody", GOOD).status == 404
    assert shared.ask("/tsa/main/", GOOD).status == 200
    assert shared.ask("/tsa/main/authenticode", GOOD).status == 404
    assert shared.ask("/tsa/../tsa", GOOD).status == 404
    assert shared.ask("/tsa", b"", method="GET").status == 405
    assert shared.ask("/tsa", GOOD, Content_Type="application/x-www-form-urlencoded").status == 415
    assert shared.ask("/tsa", GOOD, Content_Type="").status == 200
    assert shared.ask("/tsa", bytes(17 * 1024)).status == 413


def test_a_flood_of_different_refusals_keeps_no_memory_and_no_metric_labels(shared: TimestampWorld) -> None:
    before = len(shared.service.counts)
    for number in range(300):
        shared.ask(f"/tsa/none-{number}", GOOD)
        shared.ask("/tsa", a_request(imprint(SHA256, 100 + number)))
    assert len(shared.service.counts) <= before + 1
    assert encode_refusal.cache_info().currsize <= 128


@given(st.binary(max_size=200))
def test_any_octets_are_a_request_or_a_refusal(data: bytes) -> None:
    with contextlib.suppress(Refused):
        decode_request(data)


@given(
    name=st.sampled_from(sorted(ImprintHash)),
    nonce=st.none() | st.integers(-(1 << 500), 1 << 500),
    policy=st.none() | st.sampled_from(["1.2.3", "2.999.1.4294967295"]),
    certificates=st.booleans(),
    data=st.data(),
)
def test_what_is_written_is_read_back(
    name: ImprintHash, nonce: int | None, policy: str | None, certificates: bool, data: st.DataObject
) -> None:
    digest = data.draw(st.binary(min_size=SIZES[name], max_size=SIZES[name]))
    octets = encode_request(name, digest, nonce=nonce, policy=policy, certificates=certificates)
    found = decode_request(octets)
    assert (found.imprint.hash, found.imprint.digest) == (name, digest)
    assert (found.policy, found.certificates) == (policy, certificates)
    assert found.nonce == (b"" if nonce is None else der.integer(nonce))
    # One octet changed is another request or none, never an exception of another kind.
    at = data.draw(st.integers(0, len(octets) - 1))
    changed = octets[:at] + bytes((octets[at] ^ data.draw(st.integers(1, 255)),)) + octets[at + 1 :]
    with contextlib.suppress(Refused):
        decode_request(changed)
