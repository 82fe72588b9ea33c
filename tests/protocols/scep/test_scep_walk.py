"""SCEP over the real engine: SoftHSM, SQLite, the gate; openssl on the other side."""

from __future__ import annotations

import secrets
import time
from concurrent.futures import ThreadPoolExecutor

import argon2
import pytest
from asn1crypto import cms, core
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from sqlalchemy import update
from twisted.internet.defer import Deferred

from pkiserver.foundation.errors import Unavailable
from pkiserver.keys.algorithms import SignatureScheme
from pkiserver.keys.signers import CertificateSigner
from pkiserver.store.registration.requests import PendingRequest
from pkiserver.store.schema.registration import enrollment_request
from tests.protocols.scep.device import (
    BAD_CERT_ID,
    BAD_REQUEST,
    CERT_POLL,
    FAILURE,
    GET_CERT,
    GET_CRL,
    PENDING,
    PKCS_REQ,
    SUCCESS,
)
from tests.protocols.scep.support import APPROVED, STATIC, World, enrolled, record, template

AES = {"-aes128": "2.16.840.1.101.3.4.1.2", "-aes256": "2.16.840.1.101.3.4.1.42"}


def identifier(certificate: x509.Certificate) -> bytes:
    """IssuerAndSerialNumber."""
    issuer = cms.Name.load(certificate.issuer.public_bytes())
    return bytes(cms.IssuerAndSerialNumber({"issuer": issuer, "serial_number": certificate.serial_number}).dump())


def test_a_code_brings_a_certificate_with_nonces_and_transaction_id(scep: World) -> None:
    device = scep.device("walker")
    envelope, nonce = device.envelope(device.csr(scep.code())), secrets.token_bytes(16)
    answer = device.ask(PKCS_REQ, envelope, nonce=nonce)
    (certificate,) = device.certificates(answer)
    assert certificate.subject.rfc4514_string() == "CN=walker"
    own = x509.load_pem_x509_certificate((device.folder / "self.crt").read_bytes())
    assert certificate.public_key() == own.public_key()
    assert (answer.transaction_id, answer.recipient_nonce) == (device.transaction, nonce)
    assert len(answer.sender_nonce) == 16
    assert answer.sender_nonce != nonce
    (device.folder / "made.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    assert b"OK" in device.openssl("verify", "-CAfile", "ca.pem", "made.pem")


@pytest.mark.parametrize("cipher", AES)
@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
def test_answers_use_the_algorithms_of_the_request(scep: World, cipher: str, digest: str) -> None:
    device = scep.device("algorithms")
    answer = device.ask(PKCS_REQ, device.envelope(device.csr(scep.code()), cipher), digest=digest)
    assert len(device.certificates(answer)) == 1
    assert (answer.cipher, answer.digest) == (AES[cipher], digest)


@pytest.mark.parametrize(
    "path",
    [
        "/scep/device/",
        "/scep/device/pkiclient.exe",
        "/scep/device/cgi-bin/pkiclient.exe",
        "/scep/issuing/device",
        "/scep/issuing/device/",
        "/scep/issuing/device/pkiclient.exe",
        "/scep//device",
        "/scep/",
        "/cgi-bin/pkiclient.exe",
        "/certsrv/mscep/mscep.dll",
        "/certsrv/mscep/mscep.dll/pkiclient.exe",
    ],
)
def test_paths_with_and_without_a_tail(scep: World, path: str) -> None:
    url = scep.base.removesuffix("/scep") + path
    assert b"SCEPStandard" in scep.curl(f"{url}?operation=GetCACaps")


@pytest.mark.parametrize("path", ["/nothing", "/root/device", "/issuing", "/issuing/nothing"])
def test_other_paths_are_not_there(scep: World, path: str) -> None:
    scep.curl(f"{scep.base}{path}?operation=GetCACaps", status=404)


def test_get_with_escaped_and_unescaped_base64_and_post_without_operation(scep: World) -> None:
    device = scep.device("getter")
    plus = 0
    while plus < 2:  # messages whose base64 has a plus sign in it, which a form decoder would make a blank of
        device.transaction = secrets.token_hex(16)
        message = device.message(PKCS_REQ, device.envelope(device.csr(scep.code())))
        assert device.read(device.get(message, escape=bool(plus))).status == SUCCESS
        plus += 1
    file = device.folder / "again"
    file.write_bytes(message)
    body = scep.curl(device.url, "-H", "Content-Type: application/octet-stream", "--data-binary", f"@{file}")
    assert device.read(body).status == SUCCESS


def test_get_ca_cert_in_every_order(scep: World) -> None:
    device = scep.device("reader")
    names = [one.subject.rfc4514_string() for one in device.ca()]
    assert names[0].startswith("CN=SCEP RA issuing")
    assert names[1:] == ["CN=SCEP issuing,O=Example,C=CH", "CN=SCEP root,O=Example,C=CH"]
    head = scep.curl(f"{device.url}?operation=GetCACert&message=Example%20CA%21", "-D", "-", "-o", "/dev/null").decode()
    assert "application/x-x509-ca-ra-cert" in head
    quiet = scep.device("reader", at="quiet")
    assert [one.subject.rfc4514_string() for one in quiet.ca()] == names[::-1]
    short = scep.device("reader", at="short")
    assert [one.subject.rfc4514_string() for one in short.ca()] == names[:-1]
    head = scep.curl(f"{scep.base}/single?operation=GetCACert", "-D", "-", "-o", "/dev/null").decode()
    assert "Content-Type: application/x-x509-ca-cert\r\n" in head
    assert scep.device("reader", at="single").ca() == device.ca()[:1]


def test_capabilities_are_what_is_switched_on(scep: World) -> None:
    usual = {"AES", "POSTPKIOperation", "SCEPStandard", "SHA-256", "SHA-512", "Renewal"}
    assert set(scep.curl(f"{scep.base}/device?operation=GetCACaps").decode().split()) == usual
    assert set(scep.curl(f"{scep.base}/legacy?operation=getcacaps").decode().split()) == usual | {"DES3", "SHA-1"}
    assert set(scep.curl(f"{scep.base}/once?operation=GetCACaps").decode().split()) == usual - {"Renewal"}


def test_a_request_waits_for_approval_and_is_polled(scep: World) -> None:
    device = scep.device("waiting", at="approved")
    first = device.message(PKCS_REQ, device.envelope(device.csr()))
    assert device.read(device.post(first)).status == PENDING
    polled = device.ask(CERT_POLL, device.envelope(b"\x30\x00"))
    assert (polled.status, polled.envelope, polled.fail_info) == (PENDING, None, None)
    (request,) = waiting(scep)
    assert request.csr is None, "a request that is kept has no challengePassword in it"
    scep.one(scep.engine.approvals.decide(request.id, approved=True, by="officer"))
    answers = [device.ask(CERT_POLL, device.envelope(b"\x30\x00")) for _ in range(2)]
    answers.append(device.read(device.post(first)))
    made = [device.certificates(one)[0] for one in answers]
    assert len(set(made)) == 1, "polled once, polled again, and sent again"
    assert len({one.sender_nonce for one in answers}) == 3
    other = scep.device("other", at="approved")
    assert other.ask(CERT_POLL, other.envelope(b"\x30\x00"), transaction=device.transaction).fail_info == BAD_CERT_ID


def test_a_code_with_approval_is_spent_when_the_certificate_is_fetched(scep: World) -> None:
    device = scep.device("coded", at="code-approved")
    code = scep.code("code-approved", "CN=promised")
    assert device.enroll(code).status == PENDING
    (request,) = [one for one in scep.one(scep.engine.approvals.list_page()) if one.template == "code-approved"]
    scep.one(scep.engine.approvals.decide(request.id, approved=True, by="officer"))
    (certificate,) = device.certificates(device.ask(CERT_POLL, device.envelope(b"\x30\x00")))
    assert certificate.subject.rfc4514_string() == "CN=promised"
    again = scep.device("coded", at="code-approved")
    assert again.enroll(code).fail_info == BAD_REQUEST


def test_a_poll_brings_the_certificate_that_could_not_be_signed_at_the_poll_before(
    scep: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = scep.device("unlucky", at="approved")
    assert device.enroll().status == PENDING
    (request,) = waiting(scep)
    scep.one(scep.engine.approvals.decide(request.id, approved=True, by="officer"))
    poll = device.message(CERT_POLL, device.envelope(b"\x30\x00"))

    async def away(*_arguments: object) -> bytes:
        raise Unavailable("the token is away")

    with monkeypatch.context() as patched:
        patched.setattr(CertificateSigner, "sign", away)
        device.post(poll, status=503)
    (made,) = device.certificates(device.read(device.post(poll)))
    assert made.subject.rfc4514_string() == "CN=unlucky"


def test_who_comes_while_a_slow_key_signs_is_told_to_ask_again(scep: World, monkeypatch: pytest.MonkeyPatch) -> None:
    device, gate = scep.device("slow"), Deferred[None]()
    message = device.message(PKCS_REQ, device.envelope(device.csr(scep.code())))
    sign = CertificateSigner.sign

    async def late(signer: CertificateSigner, tbs: bytes, scheme: SignatureScheme) -> bytes:
        await gate
        return await sign(signer, tbs, scheme)

    async def go_on() -> None:
        gate.callback(None)

    monkeypatch.setattr(CertificateSigner, "sign", late)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(device.post, message)
        while scep.one(scep.port.transactions.newest("device", device.transaction)).transaction is None:
            time.sleep(0.05)
        answers = [device.read(device.post(message)), device.ask(CERT_POLL, device.envelope(b"\x30\x00"))]
        assert [one.status for one in answers] == [PENDING, PENDING]
        scep.run(go_on)
        made = device.certificates(device.read(first.result()))
    assert device.certificates(device.ask(CERT_POLL, device.envelope(b"\x30\x00"))) == made
    assert device.certificates(device.read(device.post(message))) == made


def test_a_poll_puts_a_request_anew_whose_template_was_changed(scep: World) -> None:
    name, text = template("moving", APPROVED)
    scep.put(name, text)
    device = scep.device("moved", at="moving")
    first = device.message(PKCS_REQ, device.envelope(device.csr()))
    assert device.read(device.post(first)).status == PENDING
    (request,) = [one for one in scep.one(scep.engine.approvals.list_page()) if one.template == "moving"]
    scep.one(scep.engine.approvals.decide(request.id, approved=True, by="officer"))
    scep.put(name, text.replace('duration = "90d"', 'duration = "9d"'), revision=1)
    assert device.ask(CERT_POLL, device.envelope(b"\x30\x00")).status == PENDING, "officers agreed to something else"
    scep.one(scep.engine.approvals.decide(request.id, approved=True, by="officer"))
    (made,) = device.certificates(device.ask(CERT_POLL, device.envelope(b"\x30\x00")))
    assert (made.not_valid_after_utc - made.not_valid_before_utc).days < 10
    assert device.certificates(device.read(device.post(first))) == [made]


def test_a_device_that_shows_nothing_waits_while_there_is_room(scep: World) -> None:
    """The tests' address is exempt, so that it is bounded with all others only."""
    scep.put(*template("crowded", f"{APPROVED}waiting = 2\nwaiting_each = 1\n"))
    other, first, second = (scep.device(name, at="crowded") for name in ("other", "first", "second"))
    assert [other.enroll().status, first.enroll().status] == [PENDING, PENDING]
    message = second.message(PKCS_REQ, second.envelope(second.csr()))
    assert b"too many requests of this kind wait for approval" in second.post(message, status=503)
    assert first.ask(CERT_POLL, first.envelope(b"\x30\x00")).status == PENDING
    numbers = [one.id for one in scep.one(scep.engine.approvals.list_page()) if one.template == "crowded"]
    scep.one(scep.engine.approvals.decide(numbers[0], approved=True, by="officer"))
    assert second.read(second.post(message)).status == PENDING
    for number in (numbers[1], max(numbers) + 1):
        scep.one(scep.engine.approvals.decide(number, approved=False, by="officer"))


def test_a_denied_request_says_why_and_an_unknown_one_is_refused(scep: World) -> None:
    device = scep.device("denied", at="approved")
    assert device.enroll().status == PENDING
    (request,) = waiting(scep)
    scep.one(scep.engine.approvals.decide(request.id, approved=False, by="officer", reason="not this one"))
    answer = device.ask(CERT_POLL, device.envelope(b"\x30\x00"))
    assert (answer.status, answer.fail_info) == (FAILURE, BAD_REQUEST)
    assert "not this one" in answer.fail_text
    assert device.ask(CERT_POLL, device.envelope(b"\x30\x00"), transaction="unheard-of").fail_info == BAD_CERT_ID


def test_what_nobody_decided_in_time_is_over_and_its_transaction_id_free(scep: World) -> None:
    device = scep.device("patient", at="approved")
    poll = device.envelope(b"\x30\x00")
    assert device.enroll().status == PENDING
    (request,) = waiting(scep)
    table = enrollment_request
    change = update(table).where(table.c.id == request.id).values(expires=request.created.timestamp() * 1e6)
    scep.one(scep.engine.database.write(lambda c: c.execute(change).rowcount))
    answer = device.ask(CERT_POLL, poll)
    assert (answer.status, answer.fail_info) == (FAILURE, BAD_CERT_ID), "a poll puts nothing before officers anew"
    assert "is over" in answer.fail_text
    assert [one.id for one in waiting(scep)] == [request.id]
    replaced = scep.device("patient", at="approved")
    replaced.transaction = device.transaction
    assert replaced.enroll().status == PENDING, "the same device with another key, whose IDs are its serial number"
    assert "another key" in device.enroll().fail_text
    (request,) = waiting(scep)
    scep.one(scep.engine.approvals.decide(request.id, approved=True, by="officer"))
    assert len(replaced.certificates(replaced.ask(CERT_POLL, poll))) == 1


def waiting(scep: World) -> list[PendingRequest]:
    """What officers have before them for a template."""
    return [one for one in scep.one(scep.engine.approvals.list_page()) if one.template == "approved"]


def test_get_cert_gives_a_client_its_own_certificate(scep: World) -> None:
    device, certificate = enrolled(scep, "owner")
    asked = device.envelope(identifier(certificate))
    assert device.certificates(device.ask(GET_CERT, asked)) == [certificate]
    stranger, other = enrolled(scep, "stranger")
    stranger.use(other)
    assert stranger.ask(GET_CERT, stranger.envelope(identifier(certificate))).fail_info == BAD_CERT_ID
    unknown = cms.IssuerAndSerialNumber.load(identifier(certificate))
    unknown["serial_number"] = 4711
    assert device.ask(GET_CERT, device.envelope(unknown.dump())).fail_info == BAD_CERT_ID


def test_get_crl_gives_the_newest_list(scep: World) -> None:
    device, certificate = enrolled(scep, "asker")
    scep.one(scep.engine.status.schedule.run_due())
    answer = device.ask(GET_CRL, device.envelope(identifier(certificate)))
    assert answer.status == SUCCESS
    (device.folder / "list.p7").write_bytes(device.opened(answer))
    shown = device.openssl("pkcs7", "-inform", "DER", "-in", "list.p7", "-print_certs", "-noout")
    assert b"subject=" not in shown, "the list alone, no certificate"
    inner = cms.ContentInfo.load((device.folder / "list.p7").read_bytes())["content"]
    (found,) = inner["crls"]
    assert found.chosen["tbs_cert_list"]["issuer"].native["common_name"] == "SCEP issuing"


def test_a_key_that_cannot_encrypt_gets_its_answer_under_the_challenge(scep: World) -> None:
    for kind in ("ec", "ed25519"):
        device, code = scep.device(f"tiny-{kind}", kind, at="any-key"), scep.code("any-key")
        digest = "sha512" if kind == "ed25519" else "sha256"
        answer = device.ask(PKCS_REQ, device.envelope(device.csr(code)), digest=digest)
        (certificate,) = device.certificates(answer, "-pwri_password", code)
        assert certificate.subject.rfc4514_string() == f"CN=tiny-{kind}"
    code = scep.code()
    refused = scep.device("tiny-refused", "ec")
    answer = refused.enroll(code)
    assert (answer.status, answer.fail_info) == (FAILURE, BAD_REQUEST)
    assert "not RSA" in answer.fail_text
    assert scep.device("after").enroll(code).status == SUCCESS, "the refusal spent nothing"


def test_ber_with_indefinite_lengths_as_java_sends_it(scep: World) -> None:
    device = scep.device("java")
    envelope = device.envelope(device.csr(scep.code()), "-aes128", "-stream")
    assert b"\x30\x80" in envelope[:4]
    message = device.message(PKCS_REQ, envelope)
    answer = device.read(device.post(indefinite(message)))
    assert len(device.certificates(answer)) == 1


def indefinite(der: bytes) -> bytes:
    """The same in BER: every constructed element of indefinite length, octet strings in segments."""
    tag, start = der[0], 2 + (der[1] & 0x7F if der[1] > 0x80 else 0)
    if der[1] == 0x80:
        return der
    content = der[start:]
    if not tag & 0x20:
        if tag == 0x04 and len(content) > 100:
            parts = [content[at : at + 100] for at in range(0, len(content), 100)]
            return b"\x24\x80" + b"".join(core.OctetString(one).dump() for one in parts) + b"\x00\x00"
        return der
    inner, position = b"", 0
    while position < len(content):
        size = length_of(content[position:])
        inner += indefinite(content[position : position + size])
        position += size
    return bytes((tag, 0x80)) + inner + b"\x00\x00"


def length_of(data: bytes) -> int:
    if data[1] < 0x80:
        return 2 + data[1]
    octets = data[1] & 0x7F
    if not octets:  # the stream from openssl is indefinite already
        position = 2
        while data[position : position + 2] != b"\x00\x00":
            position += length_of(data[position:])
        return position + 2
    return 2 + octets + int.from_bytes(data[2 : 2 + octets], "big")


def test_a_static_challenge_counts_where_the_template_has_one(scep: World) -> None:
    hashed = scep.one(scep.engine.gate.identifier.hasher.hash(_secret("open sesame")))
    scep.put(*template("static", STATIC, scep=f'static_challenge = "{hashed}"'))
    device = scep.device("known", at="static")
    assert len(device.certificates(device.enroll("open sesame"))) == 1
    other = scep.device("guesser", at="static")
    assert "challenge password is wrong" in other.enroll("open seashell").fail_text
    assert "wrong" in scep.device("nowhere").enroll("open sesame").fail_text, "not where the template has none"


def test_anchor_20_a_guess_costs_the_same_whether_or_not_there_is_a_challenge(
    scep: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = scep.one(scep.engine.gate.identifier.hasher.hash(_secret("open sesame")))
    scep.put(*template("guarded", STATIC, scep=f'static_challenge = "{hashed}"'))
    scep.put(*template("empty", STATIC))
    done: list[str] = []
    verify = argon2.PasswordHasher.verify

    def counted(hasher: argon2.PasswordHasher, stored: str, password: bytes) -> bool:
        done.append("argon2id")
        return bool(verify(hasher, stored, password))

    monkeypatch.setattr(argon2.PasswordHasher, "verify", counted)
    for at in ("guarded", "empty", "device"):
        assert "wrong" in scep.device("guesser", at=at).enroll("open seashell").fail_text
        assert done == ["argon2id"], at
        done.clear()


def _secret(text: str) -> object:
    from pkiserver.foundation.secret import Secret

    return Secret(text)


def test_a_seat_holds_for_what_comes_by_scep(scep: World) -> None:
    _, certificate = enrolled(scep, "sitter", at="seated")
    [seat] = scep.one(scep.engine.seats.search(template="seated"))
    [kept] = scep.one(scep.engine.seats.detail(seat.id)).certificates
    assert (seat.identity, kept.certificate_id) == ("CN=sitter", record(scep, certificate).id)
    other = scep.device("sitter", at="seated")
    refused = other.enroll(scep.code("seated"))
    assert (refused.status, refused.fail_info) == (FAILURE, BAD_REQUEST)
    assert "template allows 1" in refused.fail_text
