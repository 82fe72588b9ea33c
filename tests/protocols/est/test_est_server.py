"""EST over real TLS with clients that are not ours: curl with openssl, and strongSwan's pki."""

from __future__ import annotations

import base64
import email
import email.policy
import subprocess
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key
from OpenSSL import SSL

from pkiserver.authority.requests import ClientCertificateEvidence, CodeEvidence, ProofKind
from pkiserver.authority.templates.model import EstRules
from pkiserver.keys.algorithms import KeyType
from protocols.cms import oids
from protocols.cms.ber import only_child
from protocols.cms.signing import attribute
from protocols.cms.verification import parse_signed, verify
from protocols.est.ports import EstSettings
from tests.protocols.est.requests import KEY, csr, oid, sequence
from tests.protocols.est.support import Site, Workshop, listener_identity, serve

ME = ("-u", "me:secret")


@pytest.mark.parametrize("path", ["cacerts", "device/cacerts", "issuing/cacerts"])
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_openssl_reads_cacerts_over_either_tls_version(site: Site, path: str, version: str) -> None:
    body = site.curl(path, "--tls-max", version, f"--tlsv{version}")
    der = site.openssl("base64", "-d", data=body)
    printed = site.openssl("pkcs7", "-inform", "DER", "-print_certs", data=der)
    assert x509.load_pem_x509_certificate(printed) == site.engine.ca


def test_headers_of_the_answers(site: Site) -> None:
    head = site.curl("cacerts", "-D", "-", "-o", "/dev/null").decode().lower()
    assert "content-type: application/pkcs7-mime\r\n" in head
    assert "content-transfer-encoding: base64" in head
    assert site.curl("cacerts", "-I").startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_simpleenroll_with_a_password_then_reenroll_with_the_certificate(site: Site, version: str) -> None:
    names = ("-addext", "subjectAltName=DNS:a.example,DNS:b.example")
    tls = (f"--tlsv{version}", "--tls-max", version)
    body = site.post("device/simpleenroll", site.request("device", *names), *ME, *tls)
    first = site.certificate(body, "device")
    assert site.openssl("verify", "-CAfile", "ca.crt", "device.crt").strip() == b"device.crt: OK"
    shown = ("--cert", "device.crt", "--key", "device.key")
    second = site.certificate(site.post("device/simplereenroll", site.again("device"), *shown, *tls), "second")
    assert (second.subject, second.serial_number != first.serial_number) == (first.subject, True)
    san = x509.SubjectAlternativeName
    assert second.extensions.get_extension_for_class(san) == first.extensions.get_extension_for_class(san)
    request = site.engine.seen[-1]
    assert request.renewal_of == first.public_bytes(Encoding.DER)
    assert [type(one) for one in request.evidence] == [ClientCertificateEvidence]
    assert b"subject" in site.post("device/simplereenroll", site.request("other"), *shown, status=400)
    other = site.again("device", "-addext", "subjectAltName=DNS:evil.example")
    assert b"alternative names" in site.post("device/simplereenroll", other, *shown, status=400)
    assert b"certificate that is to be renewed" in site.post("device/simplereenroll", other, *ME, status=403)


def test_a_code_is_the_password_whatever_the_name(site: Site) -> None:
    first, second = (code.decode() for code in site.engine.codes)
    for number, credentials in enumerate((f":{first}", f"reference:{second}"), 1):
        body = site.post("device/simpleenroll", site.request(f"d{number}"), "-u", credentials)
        assert site.certificate(body, "c").subject.rfc4514_string() == f"CN=d{number}"
        assert [type(one) for one in site.engine.seen[-1].evidence] == [CodeEvidence]
    site.post("device/simpleenroll", site.request("again"), "-u", f":{first}", status=401)


def test_401_asks_for_credentials_only_where_they_help(site: Site) -> None:
    der = site.request("d")
    head = site.post("device/simpleenroll", der, "-D", "-", status=401).decode()
    assert 'WWW-Authenticate: Basic realm="EST"' in head
    assert "enrolment code" in head
    assert "WWW-Authenticate" in site.post("device/simpleenroll", der, "-D", "-", "-u", "me:wrong", status=401).decode()
    assert "WWW-Authenticate" not in site.post("certified/simpleenroll", der, "-D", "-", status=403).decode()
    # A client that waits to be asked succeeds by itself.
    site.certificate(site.post("device/simpleenroll", der, *ME, "--anyauth"), "d")


def test_pending_answers_202_until_approved(site: Site) -> None:
    der = site.request("d")
    site.engine.pending.add("approved")
    head = site.post("approved/simpleenroll", der, *ME, "-D", "-", status=202).decode()
    assert "Retry-After: 1\r\n" in head
    site.engine.pending.clear()
    site.certificate(site.post("approved/simpleenroll", der, *ME), "d")


def test_strongswan_gets_the_ca_and_enrols_and_renews(site: Site) -> None:
    url = f"https://localhost:{site.port}"

    def pki(*arguments: str) -> bytes:
        done = subprocess.run(["pki", *arguments], capture_output=True, check=False, cwd=site.folder)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    pki("--estca", "--url", url, "--cacert", "ca.crt", "--caout", "fetched.crt", "--outform", "pem", "--force")
    assert site.engine.ca == x509.load_pem_x509_certificate((site.folder / "fetched.crt").read_bytes())
    (site.folder / "r.csr").write_bytes(site.request("swan", "-addext", "subjectAltName=DNS:swan.example"))
    common = ("--in", "r.csr", "--cacert", "ca.crt", "--outform", "pem")
    first = pki("--est", "--url", url, "--userpass", "me:secret", *common)
    (site.folder / "swan.crt").write_bytes(first)
    assert x509.load_pem_x509_certificate(first).subject.rfc4514_string() == "CN=swan"
    labelled = pki("--est", "--url", f"{url}/est/approved", "--userpass", "me:secret", *common)
    assert site.engine.seen[-1].template == "approved"
    assert b"BEGIN CERTIFICATE" in labelled
    renewed = pki("--est", "--url", url, "--cert", "swan.crt", "--key", "swan.key", *common)
    assert site.engine.seen[-1].renewal_of is not None
    assert x509.load_pem_x509_certificate(renewed).subject.rfc4514_string() == "CN=swan"


@pytest.mark.parametrize("waits", ["device", "approved"])
def test_strongswan_asks_again_without_its_label_until_an_officer_agrees(site: Site, waits: str) -> None:
    """Version 5.9.8 leaves the label out when it asks again: it waits for the default template alone."""
    site.engine.pending.add(waits)
    (site.folder / "r.csr").write_bytes(site.request("swan"))
    asks = ["pki", "--est", "--url", f"https://localhost:{site.port}/est/{waits}", "--userpass", "me:secret"]
    more = ["--in", "r.csr", "--cacert", "ca.crt", "--interval", "1", "--outform", "pem"]
    with subprocess.Popen([*asks, *more], stdout=subprocess.PIPE, cwd=site.folder) as client:
        while len(site.engine.seen) < 2 and client.poll() is None:
            time.sleep(0.05)
        site.engine.pending.clear()
        told, _ = client.communicate(timeout=60)
    assert b"BEGIN CERTIFICATE" in told
    first, *others = [one.template for one in site.engine.seen]
    assert (first, set(others)) == (waits, {"device"})


def test_csrattrs_needs_no_client(site: Site) -> None:
    der = base64.b64decode(site.curl("device/csrattrs"))
    assert b"prime256v1" in site.openssl("asn1parse", "-inform", "DER", data=der)
    assert b"challengePassword" in site.openssl(
        "asn1parse", "-inform", "DER", data=base64.b64decode(site.curl("linked/csrattrs"))
    )


def test_a_label_can_have_its_own_base64_form(site: Site) -> None:
    assert site.curl("no-keygen/cacerts").strip().count(b"\n") == 0
    assert site.curl("device/cacerts").strip().count(b"\n") > 1
    assert site.curl("device/cacerts", "-H", "User-Agent:").strip().count(b"\n") == 0


def parts(body: bytes, head: str) -> list[tuple[str, bytes]]:
    kind = next(line for line in head.splitlines() if line.lower().startswith("content-type:"))
    message: Any = email.message_from_bytes(f"{kind}\r\n\r\n".encode() + body, policy=email.policy.HTTP)
    return [(part["content-type"], part.get_content()) for part in message.iter_parts()]


def serverkeygen(site: Site, der: bytes, *arguments: str) -> list[tuple[str, bytes]]:
    body = site.post("device/serverkeygen", der, *ME, "-D", "head", *arguments)
    return parts(body, (site.folder / "head").read_text())


def test_serverkeygen_gives_key_and_certificate(site: Site) -> None:
    (key_type, key), (_, certs) = serverkeygen(site, csr(name="born-here"))
    assert key_type == "application/pkcs8"
    certificate = site.certificate(base64.b64encode(certs), "born")
    private = load_der_private_key(key, None)
    assert private.public_key() == certificate.public_key() != KEY.public_key()
    assert certificate.subject.rfc4514_string() == "CN=born-here"
    assert site.engine.seen[-1].proof.kind is ProofKind.GENERATED_HERE
    site.post("no-keygen/serverkeygen", csr(), *ME, status=501)
    head, _, body = site.post("serverkeygen", csr(name="born-here"), *ME, "-D", "-").partition(b"\r\n\r\n")
    boundary = head.partition(b"boundary=")[2].partition(b"\r\n")[0]  # as clients without a MIME library read it
    assert len(body.split(b"--" + boundary)) == 4


def capabilities(*listed: str) -> bytes:
    return attribute(oids.SMIME_CAPABILITIES, sequence(*(sequence(oid(one)) for one in listed)))


def unpack(site: Site, package: bytes) -> bytes:
    """The PKCS#8 key in what came out of an envelope: SignedData around one AsymmetricKeyPackage."""
    wrapped = sequence(oid(oids.SIGNED_DATA), b"\xa0" + _length(package) + package)
    signed = parse_signed(wrapped)
    assert signed.content_type == oids.KEY_PACKAGE
    verify(signed, signed.only_signer(), site.engine.key.public_key())
    return only_child(signed.content or b"").content


def _length(content: bytes) -> bytes:
    return b"\x82" + len(content).to_bytes(2, "big")


def test_serverkeygen_under_a_shared_key(site: Site) -> None:
    named = attribute(oids.DECRYPT_KEY_ID, b"\x04\x05kek-1")
    (key_type, sealed), (_, certs) = serverkeygen(site, csr(named, capabilities(oids.AES128_WRAP, oids.AES128_CBC)))
    assert "server-generated-key" in key_type
    opened = site.openssl(
        *("cms", "-decrypt", "-inform", "DER", "-binary"),
        *("-secretkey", bytes(range(16)).hex(), "-secretkeyid", b"kek-1".hex()),
        data=sealed,
    )
    key = load_der_private_key(unpack(site, opened), None)
    assert key.public_key() == site.certificate(base64.b64encode(certs), "k").public_key()
    unknown = attribute(oids.DECRYPT_KEY_ID, b"\x04\x05kek-9")
    site.post("device/serverkeygen", csr(unknown, capabilities(oids.AES128_WRAP)), *ME, status=403)
    site.post("device/serverkeygen", csr(named), *ME, status=400)
    site.post("device/serverkeygen", csr(named, capabilities("1.2.840.113549.3.7")), *ME, status=400)


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_serverkeygen_to_the_key_of_the_tls_certificate(site: Site, kind: str) -> None:
    if kind == "rsa":
        site.openssl("genrsa", "-out", "d.key", "2048")
        request = site.again("d")
    else:
        request = site.request("d")
    certificate = site.certificate(site.post("device/simpleenroll", request, *ME), "d")
    ski = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    named = attribute(oids.ASYMM_DECRYPT_KEY_ID, b"\x04\x14" + ski)
    shown = ("--cert", "d.crt", "--key", "d.key")
    der = csr(named, capabilities(oids.AES256_CBC, oids.AES256_WRAP, oids.RSA_ENCRYPTION), name="d")
    (_, sealed), (_, certs) = serverkeygen(site, der, *shown)
    where = ("-recip", "d.crt", "-inkey", "d.key")
    opened = site.openssl("cms", "-decrypt", "-inform", "DER", "-binary", *where, data=sealed)
    key = load_der_private_key(unpack(site, opened), None)
    assert key.public_key() == site.certificate(base64.b64encode(certs), "k").public_key()
    site.post("device/serverkeygen", der, *ME, status=403)


def linked_post(site: Site, version: int, path: str, challenge: str) -> bytes:
    """Enrol over one connection, whose channel binding goes into the CSR; ``challenge``: right, wrong, empty, none."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    import socket

    with socket.create_connection(("127.0.0.1", site.port), 10) as raw:
        raw.settimeout(None)
        connection = SSL.Connection(context, raw)
        connection.set_connect_state()
        connection.do_handshake()
        binding = connection.get_finished()
        if version == SSL.TLS1_3_VERSION:
            binding = connection.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
        attributes = []
        if challenge != "none":
            said = {"right": binding, "wrong": bytes(len(binding)), "empty": b""}[challenge]
            text = base64.b64encode(said)
            attributes = [attribute("1.2.840.113549.1.9.7", b"\x13" + bytes([len(text)]) + text)]
        body = base64.b64encode(csr(*attributes))
        head = f"POST /.well-known/est/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        head += f"Authorization: Basic {base64.b64encode(b'me:secret').decode()}\r\n"
        head += f"Content-Type: application/pkcs10\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        received = b""
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except SSL.Error:
            pass
        return received


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["tls12-unique", "tls13-exporter"])
def test_anchor_8_proof_of_possession_is_linked_to_this_connection(site: Site, version: int) -> None:
    assert linked_post(site, version, "linked/simpleenroll", "right").startswith(b"HTTP/1.1 200")
    assert site.engine.seen[-1].proof.kind is ProofKind.TLS_LINKED
    assert linked_post(site, version, "linked/simpleenroll", "wrong").startswith(b"HTTP/1.1 400")
    for nothing in ("none", "empty"):
        missing = linked_post(site, version, "linked/simpleenroll", nothing)
        assert missing.startswith(b"HTTP/1.1 400")
        assert b"required" in missing
    # Where the template does not ask for it, what is there is verified all the same.
    assert linked_post(site, version, "device/simpleenroll", "right").startswith(b"HTTP/1.1 200")
    assert linked_post(site, version, "device/simpleenroll", "wrong").startswith(b"HTTP/1.1 400")
    for nothing in ("none", "empty"):
        assert linked_post(site, version, "device/simpleenroll", nothing).startswith(b"HTTP/1.1 200")
        assert site.engine.seen[-1].proof.kind is ProofKind.CSR_SIGNATURE


def test_no_header_is_believed_about_the_client(site: Site) -> None:
    forged = ("-H", "X-SSL-Client-Cert: MIIB", "-H", "X-Forwarded-For: 10.0.0.1", "-H", "SSL_CLIENT_VERIFY: SUCCESS")
    site.post("device/simplereenroll", site.request("d"), *forged, status=403)
    site.post("device/simpleenroll", site.again("d"), *forged, status=401)
    assert {one.source for one in site.engine.seen} == {"127.0.0.1"}


GOOD = csr()
BAD_SIGNATURE = GOOD[:-1] + bytes([GOOD[-1] ^ 1])


@pytest.mark.parametrize(
    ("path", "arguments", "status"),
    [
        ("fullcmc", ["-d", "x"], 501),
        ("device/fullcmc", ["-d", "x"], 501),
        ("nothing", [], 404),
        ("unknown-label/cacerts", [], 404),
        ("unknown-label/simpleenroll", ["-d", "x", "-H", "Content-Type: application/pkcs10"], 404),
        ("cacerts", ["-d", "x"], 405),
        ("simpleenroll", [], 405),
        ("device/serverkeygen", [], 405),
        ("simpleenroll", ["-X", "PUT", "-d", "x"], 405),
        ("simpleenroll", ["-d", "x"], 415),
        ("simpleenroll", ["-d", "x", "-H", "Content-Type: application/json"], 415),
        ("simpleenroll", ["-d", "x", "-H", "Content-Type:"], 415),
        ("simpleenroll", ["-d", "", "-H", "Content-Type: application/pkcs10"], 400),
        ("simpleenroll", ["-d", "****", "-H", "Content-Type: application/pkcs10"], 400),
        ("simpleenroll", ["-d", "AAAA", "-H", "Content-Type: application/pkcs10"], 400),
        ("simpleenroll", ["-d", "MIIB", "-H", "Content-Type: application/pkcs10; charset=x"], 400),
    ],
)
def test_what_http_has_wrong_gets_its_own_status(site: Site, path: str, arguments: list[str], status: int) -> None:
    body = site.curl(path, *ME, *arguments, status=status)
    assert b"Traceback" not in body


def test_what_a_path_is_not_is_told(site: Site) -> None:
    for operation in ("cacerts", "crls"):
        said = site.curl(f"nowhere/{operation}", status=404)
        assert b"no template for EST and no authority named 'nowhere'" in said
    assert b"Allow: GET, HEAD\r\n" in site.curl("cacerts", "-X", "POST", "-D", "-", status=405)
    assert b"Allow: POST\r\n" in site.curl("simpleenroll", "-D", "-", status=405)


@pytest.mark.parametrize(
    "der",
    [
        b"\x30\x80" * 20_000,
        GOOD[:-40],
        GOOD + b"\x00",
        BAD_SIGNATURE,
        csr(sans=tuple(f"n{i}.example" for i in range(3000))),
        csr(attribute("1.2.840.113549.1.9.14", sequence(sequence(oid("2.5.29.17"), b"\x04\x02\x30\x80")))),
    ],
    ids=["nested", "truncated", "trailing", "bad signature", "3000 names", "names not DER"],
)
@pytest.mark.parametrize("operation", ["simpleenroll", "serverkeygen"])
def test_bad_requests_are_400_and_the_server_goes_on(site: Site, der: bytes, operation: str) -> None:
    lenient = operation == "serverkeygen" and der is BAD_SIGNATURE
    body = site.post(f"device/{operation}", der, *ME, status=200 if lenient else 400)
    assert b"Traceback" not in body
    site.curl("cacerts")


def test_oversize_is_refused_before_it_is_read(site: Site) -> None:
    (site.folder / "big").write_bytes(b"A" * 2_000_000)
    site.curl("simpleenroll", "-H", "Content-Type: application/pkcs10", "--data-binary", "@big", status=413)
    site.curl("cacerts")


def test_without_a_default_the_only_template_serves(tmp_path: Path, on_reactor: Any) -> None:
    engine = Workshop()
    identity, ca = listener_identity()
    (tmp_path / "ca.crt").write_bytes(ca)
    with serve(engine, EstSettings(), identity, on_reactor) as port:
        site = Site(engine, port, tmp_path)
        site.curl("cacerts")  # all templates share one issuer
        assert b"no default template" in site.curl("csrattrs", status=404)
        site.curl("linked/csrattrs")
        engine.all["other"] = attrs.evolve(engine.all["linked"], name="other", issuer="elsewhere")
        assert b"no default template" in site.curl("cacerts", status=404)
        engine.all = {"linked": engine.all["linked"]}
        site.curl("cacerts")
        site.curl("csrattrs")


def test_too_many_keys_at_once_are_told_to_come_back(tmp_path: Path, on_reactor: Any) -> None:
    engine = Workshop()
    slow = KeyType.parse("rsa-4096")
    rules = EstRules(server_keygen=True, server_keygen_key=slow)
    engine.all["device"] = attrs.evolve(engine.all["device"], keys=(slow,), est=rules)
    identity, ca = listener_identity()
    (tmp_path / "ca.crt").write_bytes(ca)
    (tmp_path / "body.b64").write_bytes(base64.encodebytes(csr()))
    settings = EstSettings(keygen_parallel=1, keygen_waiting=1)
    with serve(engine, settings, identity, on_reactor) as port:
        site = Site(engine, port, tmp_path)
        command = ["curl", "-sS", "--cacert", "ca.crt", "-o", "/dev/null", "-w", "%{http_code}", *ME]
        command += ["-H", "Content-Type: application/pkcs10", "--data-binary", "@body.b64"]
        command += [f"{site.base}/device/serverkeygen"]
        running = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE) for _ in range(8)]
        site.curl("device/cacerts")
        codes = [one.communicate()[0].decode() for one in running]
    assert set(codes) == {"200", "503"}
    assert codes.count("200") >= 2
