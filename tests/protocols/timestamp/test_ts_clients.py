"""Clients that are not ours: openssl ts, curl, rfc3161ng, pyHanko with pdfsig, osslsigncode, jarsigner."""

from __future__ import annotations

import asyncio
import struct
import zipfile
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pkiserver.timestamping.unit import Authenticode, Chain
from protocols.timestamp.verification import read_token
from tests.protocols.timestamp.world import OTHER_POLICY, POLICY, QUERY, TimestampWorld, tool
from tests.support.instance import PKISERVER

HASHES = ("sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512")


def stamped(world: TimestampWorld, path: str, name: str, *query: str) -> Path:
    """Ask by openssl and curl; the folder with ``data``, ``tsq`` and ``tsr``."""
    folder = world.folder / name
    folder.mkdir()
    (folder / "data").write_bytes(b"what is to be stamped: " + name.encode())
    tool("openssl", "ts", "-query", "-data", "data", *query, "-out", "tsq", cwd=folder)
    curl = ("curl", "-fsS", "-H", f"Content-Type: {QUERY}", "--data-binary", "@tsq", "-o", "tsr")
    tool(*curl, f"{world.url}{path}", cwd=folder)
    return folder


def openssl_verify(world: TimestampWorld, folder: Path, *more: str) -> None:
    for about in (("-data", "data"), ("-queryfile", "tsq")):
        said = tool("openssl", "ts", "-verify", *about, "-in", "tsr", "-CAfile", world.root, *more, cwd=folder)
        assert "Verification: OK" in said


@pytest.mark.parametrize("name", HASHES)
def test_openssl_verifies_every_hash(shared: TimestampWorld, name: str) -> None:
    folder = stamped(shared, "/tsa", f"hash-{name}", f"-{name}", "-cert")
    openssl_verify(shared, folder)


def test_openssl_reads_what_the_token_says(shared: TimestampWorld) -> None:
    folder = stamped(shared, "/tsa/main", "text", "-sha256", "-cert", "-tspolicy", OTHER_POLICY)
    openssl_verify(shared, folder)
    said = tool("openssl", "ts", "-reply", "-in", "tsr", "-text", cwd=folder)
    assert f"Policy OID: {OTHER_POLICY}" in said
    assert "Accuracy: 0x01 seconds, unspecified millis, unspecified micros" in said
    assert "Ordering: no" in said
    assert "TSA: DirName:/CN=Time-stamping unit main" in said
    nonce = tool("openssl", "ts", "-query", "-in", "tsq", "-text", cwd=folder).split("Nonce: ")[1].split()[0]
    assert f"Nonce: {nonce}" in said


def test_without_certificates_the_verifier_needs_its_own(shared: TimestampWorld) -> None:
    folder = stamped(shared, "/tsa", "bare", "-sha256", "-no_nonce")
    assert read_token((folder / "tsr").read_bytes()).message.certificates == ()
    assert "Verification: FAILED" in tool(
        "openssl", "ts", "-verify", "-data", "data", "-in", "tsr", "-CAfile", shared.root, cwd=folder, check=False
    )
    active = shared.directory.get("main")
    assert active is not None
    pem = b"".join(
        x509.load_der_x509_certificate(one).public_bytes(serialization.Encoding.PEM)
        for one in (active.credential.certificate, *active.chain)
    )
    (folder / "chain.pem").write_bytes(pem)
    openssl_verify(shared, folder, "-untrusted", "chain.pem")


def test_openssl_verifies_rsa_units_with_an_old_signing_certificate_attribute_as_well(shared: TimestampWorld) -> None:
    shared.make("rsa", key_type="rsa-2048", ess_cert_id_v1=True, scheme="rsa-sha384", qualified=True)
    folder = stamped(shared, "/tsa/rsa", "rsa", "-sha512", "-cert")
    openssl_verify(shared, folder)
    said = tool("openssl", "ts", "-reply", "-in", "tsr", "-text", cwd=folder)
    assert "qcStatements" in said


def test_other_data_does_not_verify(shared: TimestampWorld) -> None:
    folder = stamped(shared, "/tsa", "forged", "-sha256", "-cert")
    (folder / "data").write_bytes(b"something else")
    said = tool(
        "openssl", "ts", "-verify", "-data", "data", "-in", "tsr", "-CAfile", shared.root, cwd=folder, check=False
    )
    assert "message imprint mismatch" in said


def test_rfc3161ng_asks_and_checks(shared: TimestampWorld) -> None:
    import rfc3161ng

    # It takes the first certificate for the signer's, so that it wants no others, or is told which one it is.
    shared.make("alone", key_type="rsa-2048", certificates=Chain.UNIT)
    active = shared.directory.get("alone")
    assert active is not None
    for include in (True, False):
        certificate = b"" if include else active.profile.certificate.public_bytes(serialization.Encoding.DER)
        stamper = rfc3161ng.RemoteTimestamper(
            f"{shared.url}/tsa/alone", certificate=certificate, hashname="sha256", include_tsa_certificate=include
        )
        token = stamper(data=b"the data", nonce=77)
        assert stamper.check(token, data=b"the data", nonce=77)
        told = rfc3161ng.get_timestamp(token, naive=False)
        assert abs(told - shared.clock.now()) < timedelta(seconds=1)


def signer(name: str, usage: x509.ObjectIdentifier) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    """A self-signed signer of files."""
    key = rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usages = x509.KeyUsage(
        digital_signature=True,
        content_commitment=True,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(usages, critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, built


def write_signer(folder: Path, name: str, usage: x509.ObjectIdentifier) -> None:
    """``key.pem``, ``cert.pem`` and ``signer.p12`` (password ``changeit``)."""
    key, certificate = signer(name, usage)
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain))
    (folder / "cert.pem").write_bytes(certificate.public_bytes(encoding))
    locked = serialization.BestAvailableEncryption(b"changeit")
    packed = serialization.pkcs12.serialize_key_and_certificates(b"signer", key, certificate, None, locked)
    (folder / "signer.p12").write_bytes(packed)


def a_pdf() -> bytes:
    """A PDF of one empty page, by hand."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] >>",
    ]
    out = b"%PDF-1.7\n"
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"xref\n0 4\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % one for one in offsets)
    return out + table + b"trailer\n<< /Size 4 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(out)


@attrs.frozen
class Stamper:
    """pyHanko's time-stamper, asking us."""

    world: TimestampWorld
    path: str

    def make(self) -> Any:
        from pyhanko.sign.timestamps import HTTPTimeStamper

        return HTTPTimeStamper(f"{self.world.url}{self.path}")


def pyhanko_validation(world: TimestampWorld) -> Any:
    from pyhanko.keys import load_cert_from_pemder
    from pyhanko_certvalidator import ValidationContext

    return ValidationContext(trust_roots=[load_cert_from_pemder(world.root)], allow_fetching=False)


@pytest.mark.parametrize("kind", ["ec-p256", "rsa-2048"])
def test_pyhanko_stamps_a_pdf_and_pdfsig_reads_it(shared: TimestampWorld, kind: str) -> None:
    from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
    from pyhanko.pdf_utils.reader import PdfFileReader
    from pyhanko.sign import PdfTimeStamper
    from pyhanko.sign.validation import validate_pdf_timestamp

    name = f"pdf-{kind}"
    shared.make(name, key_type=kind)
    folder = shared.folder / name
    folder.mkdir()
    stamper = PdfTimeStamper(Stamper(shared, f"/tsa/{name}").make())
    writer = IncrementalPdfFileWriter(BytesIO(a_pdf()))
    with (folder / "stamped.pdf").open("w+b") as out:
        stamper.timestamp_pdf(writer, "sha256", output=out)
    with (folder / "stamped.pdf").open("rb") as source:
        embedded = PdfFileReader(source).embedded_timestamp_signatures[0]
        status = validate_pdf_timestamp(embedded, pyhanko_validation(shared))
        assert status.intact, status.pretty_print_details()
        assert status.valid
        assert status.trusted, status.pretty_print_details()
        assert abs(status.timestamp - shared.clock.now()) < timedelta(seconds=1)
    said = tool("pdfsig", "-nocert", "stamped.pdf", cwd=folder, check=False)
    assert f"Signer Certificate Common Name: Time-stamping unit {name}" in said
    assert "Total document signed" in said


def test_pyhanko_signs_a_pdf_with_our_stamp_and_pdfsig_validates_it(shared: TimestampWorld) -> None:
    from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
    from pyhanko.pdf_utils.reader import PdfFileReader
    from pyhanko.sign import PdfSignatureMetadata, signers
    from pyhanko.sign.validation import validate_pdf_signature

    folder = shared.folder / "pdf-signed"
    folder.mkdir()
    write_signer(folder, "Author", ExtendedKeyUsageOID.EMAIL_PROTECTION)
    author = signers.SimpleSigner.load(str(folder / "key.pem"), str(folder / "cert.pem"))
    metadata = PdfSignatureMetadata(field_name="Author", md_algorithm="sha256")
    with (folder / "signed.pdf").open("w+b") as out:
        writer = IncrementalPdfFileWriter(BytesIO(a_pdf()))
        signers.sign_pdf(writer, metadata, signer=author, timestamper=Stamper(shared, "/tsa").make(), output=out)
    with (folder / "signed.pdf").open("rb") as source:
        embedded = PdfFileReader(source).embedded_signatures[0]
        status = validate_pdf_signature(embedded, ts_validation_context=pyhanko_validation(shared))
    assert status.timestamp_validity is not None
    assert status.timestamp_validity.valid
    assert status.timestamp_validity.trusted
    said = tool("pdfsig", "-nocert", "signed.pdf", cwd=folder, check=False)
    assert "Signature Validation: Signature is Valid." in said


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [("rsa-2048", "rsa-pss-sha256"), ("ed25519", ""), ("ed448", ""), ("ml-dsa-65", ""), ("ec-p384", "ecdsa-sha384")],
)
def test_pyhanko_or_cryptography_verify_what_openssl_3_does_not_know(
    shared: TimestampWorld, kind: str, scheme: str
) -> None:
    from asn1crypto import cms
    from pyhanko.sign.general import NonexistentAttributeError
    from pyhanko.sign.validation.generic_cms import async_validate_cms_signature

    name = f"u-{kind}"
    shared.make(name, key_type=kind, scheme=scheme, key_store="software", algorithm_protection=True)
    folder = stamped(shared, f"/tsa/{name}", name, "-sha256", "-cert")
    token = read_token((folder / "tsr").read_bytes())
    said = tool(
        *(str(PKISERVER), "timestamp", "verify", "tsr", "--data", "data", "--ca", shared.root),
        cwd=folder,
    )
    assert "verified" in said
    assert token.signer.digest
    if kind.startswith("ml-dsa"):
        return  # pyHanko's support rests on a cryptography that names it otherwise; ours was checked just now
    from cryptography.hazmat import asn1

    from protocols.timestamp.verification import _Granted

    encoded = asn1.encode_der(asn1.decode_der(_Granted, (folder / "tsr").read_bytes()).token)
    signed = cms.ContentInfo.load(encoded)["content"]
    try:
        status = asyncio.run(async_validate_cms_signature(signed, validation_context=pyhanko_validation(shared)))
    except NonexistentAttributeError as error:  # pragma: no cover - a missing attribute would be our fault
        raise AssertionError(error) from error
    assert status.intact
    assert status.valid


def an_executable(target: Path) -> None:
    """The smallest PE file that osslsigncode takes."""
    dos = b"MZ" + bytes(58) + struct.pack("<I", 64)
    coff = struct.pack("<HHIIIHH", 0x8664, 1, 0, 0, 0, 240, 0x22)
    optional = struct.pack("<HBBIIIII", 0x20B, 0, 0, 512, 0, 0, 0x1000, 0x1000)
    optional += struct.pack("<QIIHHHHHHIIIIHH", 0x140000000, 0x1000, 512, 6, 0, 0, 0, 6, 0, 0, 0x2000, 512, 0, 3, 0)
    optional += struct.pack("<QQQQII", 1 << 20, 4096, 1 << 20, 4096, 0, 16) + bytes(128)
    section = b".text\0\0\0" + struct.pack("<IIIIIIHHI", 16, 0x1000, 512, 512, 0, 0, 0, 0, 0x60000020)
    head = dos + b"PE\0\0" + coff + optional + section
    target.write_bytes(head.ljust(512, b"\0") + b"\xc3".ljust(512, b"\0"))


async def current_lists(world: TimestampWorld) -> list[x509.CertificateRevocationList]:
    """What both authorities have revoked: nothing, but osslsigncode wants to know."""
    await world.at.status.schedule.run_due()
    authorities = world.at.world.road.authorities
    return [await world.at.crl(authorities.get(name)) for name in ("root", "issuing")]


def test_osslsigncode_stamps_an_executable_both_ways(shared: TimestampWorld) -> None:
    shared.make("code", key_type="rsa-2048", authenticode=Authenticode(enabled=True))
    folder = shared.folder / "exe"
    folder.mkdir()
    write_signer(folder, "Code", ExtendedKeyUsageOID.CODE_SIGNING)
    an_executable(folder / "in.exe")
    lists = shared.run(lambda: current_lists(shared))
    (folder / "crls.pem").write_bytes(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in lists))
    sign = ("osslsigncode", "sign", "-certs", "cert.pem", "-key", "key.pem", "-h", "sha256", "-in", "in.exe")
    check = ("osslsigncode", "verify", "-CAfile", "cert.pem", "-TSA-CAfile", shared.root, "-TSA-CRLfile", "crls.pem")
    for option, url, out in (
        ("-ts", f"{shared.url}/tsa/code", "rfc3161.exe"),
        ("-t", f"{shared.url}/tsa/code/authenticode", "old.exe"),
    ):
        tool(*sign, option, url, "-out", out, cwd=folder)
        said = tool(*check, "-in", out, cwd=folder, check=False)
        assert "Timestamp Server Signature verification: ok" in said, said
        assert "Signature verification: ok" in said


def test_jarsigner_stamps_a_jar(shared: TimestampWorld) -> None:
    folder = shared.folder / "jar"
    folder.mkdir()
    write_signer(folder, "Jar", ExtendedKeyUsageOID.CODE_SIGNING)
    with zipfile.ZipFile(folder / "a.jar", "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\r\n\r\n")
        jar.writestr("hello.txt", "hello")
    keystore = ("-keystore", "signer.p12", "-storetype", "PKCS12", "-storepass", "changeit")
    tool("jarsigner", *keystore, "-tsa", f"{shared.url}/tsa", "-tsapolicyid", POLICY, "a.jar", "signer", cwd=folder)
    tool(*("keytool", "-importcert", "-noprompt", "-alias", "root", "-file", shared.root, *keystore), cwd=folder)
    said = tool("jarsigner", "-verify", "-verbose", "-certs", *keystore, "a.jar", cwd=folder)
    assert "jar verified" in said
    assert "Timestamped by" in said
    assert "Time-stamping unit main" in said
    assert "timestamp is invalid" not in said.lower()
