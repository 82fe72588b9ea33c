"""Requests that mean harm. Tests named after anchors are the rows of the attack catalogue in docs/protocols/scep.md."""

from __future__ import annotations

import os
import secrets
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asn1crypto import cms, core
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from sqlalchemy import func, select

from pkiserver.authority.csr import MAXIMUM_OCTETS
from pkiserver.keys.opener import EnvelopeOpener
from pkiserver.store.certificates import CertificateState
from pkiserver.store.schema.certificates import certificate as certificate_table
from protocols.cms import opening
from protocols.cms.ber import header
from protocols.scep.errors import UNREADABLE
from tests.protocols.scep.device import (
    BAD_ALG,
    BAD_CHECK,
    BAD_REQUEST,
    FAILURE,
    PKCS_REQ,
    RENEWAL_REQ,
    SUCCESS,
    Device,
    attribute,
)
from tests.protocols.scep.support import World, enrolled, set_state


def issued(scep: World) -> int:
    """How many certificates there are."""
    query = select(func.count()).select_from(certificate_table)
    return int(scep.one(scep.engine.database.read(lambda c: c.execute(query).scalar_one())))


def test_anchor_1_every_message_type_but_five_is_refused(scep: World) -> None:
    device = scep.device("types")
    envelope = device.envelope(device.csr(scep.code()))
    before = issued(scep)
    for kind in set(range(256)) - {17, 19, 20, 21, 22}:
        answer = device.ask(kind, envelope)
        assert (answer.status, answer.fail_info) == (FAILURE, BAD_REQUEST), kind
        assert "not accepted" in answer.fail_text
    for odd in (None, "", "019", "019x", "-19", "٣", "19 ", "1" * 11):
        if odd == "٣":
            device.post(device.message(None, envelope, extra=(odd_type(odd),)), status=400)
            continue
        answer = device.read(device.post(device.message(odd, envelope)))
        assert (answer.status, answer.fail_info) == (FAILURE, BAD_REQUEST), odd
    assert issued(scep) == before


def odd_type(text: str) -> Any:
    return attribute("2.16.840.1.113733.1.9.2", core.UTF8String(text))


def test_anchor_2_a_replay_brings_the_same_certificate_and_an_altered_one_none(scep: World) -> None:
    device, code = scep.device("replayed"), scep.code()
    message = device.message(PKCS_REQ, device.envelope(device.csr(code)))
    first = device.read(device.post(message))
    (certificate,) = device.certificates(first)
    before = issued(scep)
    again = device.read(device.post(message))
    assert device.certificates(again) == [certificate]
    assert again.sender_nonce != first.sender_nonce
    assert device.content_key(again) != device.content_key(first), "a fresh envelope"
    for position in (len(message) // 2, len(message) - 5):
        altered = bytearray(message)
        altered[position] ^= 1
        assert device.read(device.post(bytes(altered))).fail_info == BAD_CHECK
    changed = device.enroll(code, subject="CN=administrator")
    assert (changed.status, changed.fail_info) == (FAILURE, BAD_REQUEST)
    assert "another request" in changed.fail_text
    assert issued(scep) == before


def test_anchor_2_a_transaction_id_with_another_key_is_refused(scep: World) -> None:
    device = scep.device("first")
    assert device.enroll(scep.code()).status == SUCCESS
    other, code = scep.device("first"), scep.code()
    other.transaction = device.transaction
    answer = other.enroll(code)
    assert (answer.fail_info, "another key" in answer.fail_text) == (BAD_REQUEST, True)
    other.transaction = secrets.token_hex(16)
    assert other.enroll(code).status == SUCCESS, "and nothing was spent"


def test_anchor_2_a_replay_after_revocation_brings_nothing(scep: World) -> None:
    device = scep.device("gone")
    message = device.message(PKCS_REQ, device.envelope(device.csr(scep.code())))
    (certificate,) = device.certificates(device.read(device.post(message)))
    set_state(scep, certificate, CertificateState.REVOKED)
    assert "revoked" in device.read(device.post(message)).fail_text


def parallel(device: Device, messages: list[bytes]) -> list[bytes]:
    """Post all, 16 at a time."""
    files = []
    for number, message in enumerate(messages):
        file = device.folder / f"parallel-{number}"
        file.write_bytes(message)
        files.append(file)

    def post(file: Any) -> bytes:
        command = ["curl", "-sS", "--data-binary", f"@{file}", f"{device.url}?operation=PKIOperation"]
        return subprocess.run(command, capture_output=True, check=True).stdout

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(post, files))


def test_copies_of_one_renewal_that_revokes_the_old_certificate_all_get_the_new_one(scep: World) -> None:
    device, old = enrolled(scep, "copied", "fresh-key")
    device.use(old)
    device.new_key("second")
    message = device.message(RENEWAL_REQ, device.envelope(device.csr(key="second")))
    answers = [device.read(body) for body in parallel(device, [message] * 16)]
    assert len({made for answer in answers for made in device.certificates(answer)}) == 1


def test_anchor_3_fifty_uses_of_one_code_bring_one_certificate(scep: World) -> None:
    device, code = scep.device("fifty"), scep.code()
    envelope = device.envelope(device.csr(code))
    before = issued(scep)
    messages = [device.message(PKCS_REQ, envelope, transaction=f"race-{number}") for number in range(50)]
    answers = [device.read(body) for body in parallel(device, messages)]
    assert [one.status for one in answers].count(SUCCESS) == 1
    assert {one.fail_info for one in answers if one.status == FAILURE} == {BAD_REQUEST}
    assert issued(scep) == before + 1


def test_anchor_3_fifty_copies_of_one_message_bring_one_certificate_to_each(scep: World) -> None:
    device = scep.device("copies")
    message = device.message(PKCS_REQ, device.envelope(device.csr(scep.code())))
    before = issued(scep)
    answers = [device.read(body) for body in parallel(device, [message] * 50)]
    made = {device.certificates(one)[0] for one in answers}
    assert len(made) == 1
    assert issued(scep) == before + 1


def test_anchor_4_the_code_decides_the_subject(scep: World) -> None:
    device = scep.device("user-a")
    (certificate,) = device.certificates(device.enroll(scep.code(subject="CN=user a"), subject="CN=administrator"))
    assert certificate.subject.rfc4514_string() == "CN=user a"
    other = scep.device("elsewhere", at="legacy")
    assert other.enroll(scep.code("device")).fail_info == BAD_REQUEST, "a code is good for its own template"


@pytest.mark.parametrize(
    "extension",
    ["basicConstraints=critical,CA:TRUE", "keyUsage=keyCertSign", "nameConstraints=permitted;DNS:example"],
)
def test_anchor_5_power_is_not_copied_from_the_request(scep: World, extension: str) -> None:
    device = scep.device("powerful")
    answer = device.enroll(scep.code(), extensions=extension)
    assert (answer.status, answer.fail_info) == (FAILURE, BAD_REQUEST)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (",".join(f"DNS:h{n}.example" for n in range(2000)), "more than 1024"),
        ("DNS:*.example", "is a wildcard"),
        ("otherName:1.2.3;UTF8:x", "not for this requester"),
    ],
)
def test_anchor_6_names_that_the_template_does_not_give(scep: World, names: str, said: str) -> None:
    answer = scep.device("named").enroll(scep.code(), extensions=f"subjectAltName={names}")
    assert (answer.status, said in answer.fail_text) == (FAILURE, True)


def renewer(scep: World, name: str, at: str = "device") -> Device:
    device = scep.device(name, at=at)
    (old,) = device.certificates(device.enroll(scep.code(at)))
    device.use(old)
    device.transaction = secrets.token_hex(16)
    return device


@pytest.mark.parametrize("state", [CertificateState.REVOKED, CertificateState.HELD])
def test_anchor_7_a_revoked_certificate_renews_nothing(scep: World, state: CertificateState) -> None:
    device = renewer(scep, "revoked")
    set_state(scep, x509.load_pem_x509_certificate((device.folder / "own.crt").read_bytes()), state)
    answer = device.ask(RENEWAL_REQ, device.envelope(device.csr()))
    assert (answer.status, answer.fail_info) == (FAILURE, BAD_REQUEST)
    assert "revoked" in answer.fail_text or "hold" in answer.fail_text


def test_anchor_7_a_foreign_and_a_self_signed_certificate_renew_nothing(scep: World) -> None:
    device = scep.device("foreign")
    assert device.ask(RENEWAL_REQ, device.envelope(device.csr())).status == FAILURE
    other = renewer(scep, "foreign", "legacy")
    other.url = device.url
    assert "template legacy" in other.ask(RENEWAL_REQ, other.envelope(other.csr())).fail_text


def test_anchor_7_somebody_elses_subject_is_not_renewed(scep: World) -> None:
    device = renewer(scep, "modest")
    device.new_key("second")
    answer = device.ask(RENEWAL_REQ, device.envelope(device.csr(key="second", subject="CN=administrator")))
    assert (answer.fail_info, "subject" in answer.fail_text) == (BAD_REQUEST, True)
    named = device.csr(key="second", extensions="subjectAltName=DNS:more.example")
    assert "alternative names" in device.ask(RENEWAL_REQ, device.envelope(named), transaction="more").fail_text


BOMBS = [
    b"",
    b"\x30\x84\xff\xff\xff\xff",
    b"\x30\x80" * 50_000,
    b"\x30" * 100_000,
    b"\x24\x80" * 1000 + b"\x00\x00" * 1000,
    b"\x30\x82\x00\x03\x02\x01\x01",
    b"\x06" + b"\x84\x00\x0f\x42\x40" + b"\x81" * 60_000,
    header(b"\x30", 5) + b"\x02\x03\x00\x00\x01",
    b"\x30\x03\x02\x01\x01 trailing",
    os.urandom(4096),
]


@pytest.mark.parametrize("bomb", range(len(BOMBS)))
def test_anchor_11_bombs_in_the_outer_message(scep: World, bomb: int) -> None:
    device = scep.device("bomber")
    device.post(BOMBS[bomb], status=400)
    assert scep.curl(f"{scep.base}/device?operation=GetCACaps")


@pytest.mark.parametrize("bomb", range(1, len(BOMBS)))
def test_anchor_11_and_13_bombs_where_the_envelope_and_the_request_should_be(scep: World, bomb: int) -> None:
    device = scep.device("bomber")
    answer = device.ask(PKCS_REQ, BOMBS[bomb])
    assert answer.status == FAILURE
    inner = device.ask(PKCS_REQ, device.envelope(BOMBS[bomb]))
    if len(BOMBS[bomb]) > MAXIMUM_OCTETS:  # which everybody sees
        assert "more than" in inner.fail_text
    else:
        assert (inner.fail_info, inner.fail_text) == (BAD_CHECK, UNREADABLE)


def test_anchor_11_oversize_is_refused_before_it_is_read(scep: World) -> None:
    device = scep.device("large")
    device.post(bytes(200_000), status=413)


@pytest.mark.parametrize("nonce", [None, b"", b"short", bytes(15), bytes(17), bytes(5000)])
def test_a_sender_nonce_of_sixteen_octets_is_needed(scep: World, nonce: bytes | None) -> None:
    device = scep.device("nonce")
    answer = device.ask(PKCS_REQ, device.envelope(device.csr(scep.code())), nonce=nonce)
    assert (answer.status, answer.fail_info) == (FAILURE, BAD_REQUEST)
    assert "senderNonce" in answer.fail_text


@pytest.mark.parametrize("transaction", ["x" * 256, "line\nbreak", "\x00"])
def test_transaction_ids_are_bounded(scep: World, transaction: str) -> None:
    device = scep.device("long")
    device.post(device.message(PKCS_REQ, device.envelope(device.csr()), transaction=transaction), status=400)


def test_anchor_13_digests_and_ciphers_that_are_not_switched_on(scep: World) -> None:
    device, code = scep.device("old"), scep.code()
    for digest in ("md5", "sha1"):
        answer = device.ask(PKCS_REQ, device.envelope(device.csr(code)), digest=digest)
        assert (answer.fail_info, "not accepted" in answer.fail_text) == (BAD_ALG, True)
    answer = device.ask(PKCS_REQ, device.envelope(device.csr(code), "-des3"))
    assert (answer.fail_info, "DES3 is not accepted" in answer.fail_text) == (BAD_ALG, True)
    assert device.enroll(code).status == SUCCESS


def test_old_algorithms_where_they_are_switched_on_are_counted(scep: World) -> None:
    from pkiserver.authority.templates.model import LegacyAlgorithm

    before = {one: scep.metrics.legacy_count("legacy", one) for one in LegacyAlgorithm}
    device = scep.device("museum", at="legacy")
    answer = device.ask(PKCS_REQ, device.envelope(device.csr(scep.code("legacy")), "-des3"), digest="md5")
    assert len(device.certificates(answer)) == 1
    assert answer.cipher == "1.2.840.113549.3.7", "triple DES is answered in triple DES"
    assert answer.digest == "sha256", "nothing is signed with MD5"
    after = {one: scep.metrics.legacy_count("legacy", one) for one in LegacyAlgorithm}
    assert {one.value for one in LegacyAlgorithm if after[one] > before[one]} == {"des3", "md5"}


def test_anchor_20_all_guesses_get_one_answer(scep: World) -> None:
    guesses = ("E" + "0" * 26, "E" + "Z" * 26, "E00000-00000-00000-00000-00000-1")
    assert len({scep.device("guesser").enroll(one).fail_text for one in guesses}) == 1
    words = {scep.device("guesser").enroll(one).fail_text for one in ("password", "x", "y" * 200)}
    assert len(words) == 1
    assert "wrong" in words.pop()


class Counting:
    """Counts what is done for one message."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        door, decrypt = EnvelopeOpener.rsa_pkcs1, opening.decrypt

        async def counted_door(opener: EnvelopeOpener, encrypted_key: bytes, key_length: int) -> bytes:
            self.done.append("private key")
            return await door(opener, encrypted_key, key_length)

        def counted_decrypt(*arguments: Any) -> bytes:
            self.done.append("content cipher")
            return decrypt(*arguments)

        monkeypatch.setattr(EnvelopeOpener, "rsa_pkcs1", counted_door)
        monkeypatch.setattr(opening, "decrypt", counted_decrypt)


def broken_envelopes(device: Device) -> dict[str, bytes]:
    """One good envelope around nonsense, and everything that can be wrong with key or padding."""
    good = device.envelope(device.csr("E" + "0" * 26))
    public = device.ca()[0].public_key()
    assert isinstance(public, rsa.RSAPublicKey)

    def with_key(encrypted: bytes) -> bytes:
        info = cms.ContentInfo.load(good).copy()
        recipient = info["content"]["recipient_infos"][0].chosen
        recipient["encrypted_key"] = encrypted
        return bytes(info.dump(force=True))

    def with_content(change: Any) -> bytes:
        info = cms.ContentInfo.load(good).copy()
        sealed = info["content"]["encrypted_content_info"]
        sealed["encrypted_content"] = change(sealed["encrypted_content"].native)
        return bytes(info.dump(force=True))

    return {
        "not a request": device.envelope(b"nonsense"),
        "padding of the key": with_key(os.urandom(255).rjust(256, b"\x00")),
        "key of another length": with_key(public.encrypt(os.urandom(24), padding.PKCS1v15())),
        "another key": with_key(public.encrypt(os.urandom(16), padding.PKCS1v15())),
        "key too short for the modulus": with_key(os.urandom(128)),
        "key too long for the modulus": with_key(os.urandom(300)),
        "padding of the content": with_content(lambda octets: octets[:-1] + bytes((octets[-1] ^ 1,))),
        "content that is no block": with_content(lambda octets: octets[:-3]),
    }


def test_anchor_37_whatever_is_wrong_in_an_envelope_ends_alike_after_the_same_work(
    scep: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = scep.device("bleichenbacher")
    seen = {}
    for what, envelope in broken_envelopes(device).items():
        message = device.message(PKCS_REQ, envelope)
        with monkeypatch.context() as patched:
            counting = Counting(patched)
            body = device.post(message)
        answer = device.read(body)
        seen[what] = (answer.status, answer.fail_info, answer.fail_text, len(body), tuple(counting.done))
    expected = (FAILURE, BAD_CHECK, UNREADABLE, next(iter(seen.values()))[3], ("private key", "content cipher"))
    assert set(seen.values()) == {expected}, seen


def test_anchor_37_signers_and_recipients_are_counted_before_they_are_looked_at(scep: World) -> None:
    device = scep.device("many")
    envelope = device.envelope(device.csr())
    info = cms.ContentInfo.load(device.message(PKCS_REQ, envelope))
    signers = info["content"]["signer_infos"]
    one = signers[0].copy()
    for wanted, said in ((2, b"exactly one signer"), (17, b"too many signers"), (100, b"too many signers")):
        while len(signers) < wanted:
            signers.append(one.copy())
        assert said in device.post(info.dump(force=True), status=400)
    sealed = cms.ContentInfo.load(envelope)
    recipients = sealed["content"]["recipient_infos"]
    while len(recipients) < 33:
        recipients.append(recipients[0].copy())
    assert "too many recipients" in device.ask(PKCS_REQ, sealed.dump(force=True)).fail_text


def test_anchor_37_the_wrong_content_type_is_refused(scep: World) -> None:
    device = scep.device("typed")
    signed = device.message(PKCS_REQ, device.envelope(device.csr()))
    info = cms.ContentInfo.load(signed)
    info["content"]["encap_content_info"]["content_type"] = "1.2.840.113549.1.9.16.1.4"
    device.post(info.dump(force=True), status=400)
    assert device.ask(PKCS_REQ, signed).status == FAILURE, "a SignedData where an envelope belongs"
    device.post(device.envelope(b"x"), status=400)


def test_anchor_38_the_signers_certificate_cannot_be_exchanged(scep: World) -> None:
    device, mallory = scep.device("alice"), scep.device("alice")
    message = cms.ContentInfo.load(device.message(PKCS_REQ, device.envelope(device.csr(scep.code()))))
    theirs = cms.ContentInfo.load(mallory.message(PKCS_REQ, mallory.envelope(mallory.csr())))
    message["content"]["certificates"] = theirs["content"]["certificates"]
    assert device.read(device.post(message.dump(force=True))).fail_info == BAD_CHECK
    message["content"]["certificates"] = []
    assert device.read(device.post(message.dump(force=True))).fail_info == BAD_CHECK
    stolen = mallory.message(PKCS_REQ, mallory.envelope(device.csr(scep.code())))
    answer = mallory.read(mallory.post(stolen))
    assert (answer.fail_info, "key that is to be certified" in answer.fail_text) == (BAD_REQUEST, True)
