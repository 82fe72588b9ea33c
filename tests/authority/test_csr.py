"""Reading PKCS#10: what openssl and cryptography write, and what an attacker writes."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
from asn1crypto import core, csr
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.x509.oid import AttributeOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.authority.csr import decode_text, encode_text, parse_request, request_info, subject_text
from pkiserver.authority.extensions import extension
from pkiserver.authority.oldstrings import load_certificate
from pkiserver.authority.requests import spki_der
from pkiserver.foundation import der
from pkiserver.foundation.errors import Refusal, Rejected

KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
NAME = x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "CH"), x509.NameAttribute(NameOID.COMMON_NAME, "device 7")])


def _request(key: ec.EllipticCurvePrivateKey = KEY, *names: x509.GeneralName, password: bytes = b"") -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(NAME)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    if password:
        builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, password)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def test_wishes_are_read_and_nothing_is_believed() -> None:
    names = (x509.DNSName("a.example"), x509.DNSName("b.example"))
    parsed = parse_request(_request(KEY, *names, password=b"one-time"))
    assert parsed.wishes.subject == NAME
    assert parsed.wishes.sans == names
    assert [(one.oid, one.critical) for one in parsed.wishes.extensions] == [("2.5.29.17", False), ("2.5.29.19", True)]
    assert parsed.wishes.extensions[1].value == bytes.fromhex("30030101ff")
    assert parsed.challenge_password is not None
    assert parsed.challenge_password.reveal() == b"one-time"
    assert "one-time" not in repr(parsed)
    assert parsed.proof.verified
    assert parsed.spki == spki_der(KEY.public_key())


@pytest.mark.parametrize("algorithm", ["rsa:2048", "ec:P-256", "ed25519", "ed448"])
def test_requests_written_by_openssl(tmp_path: Path, algorithm: str) -> None:
    kind, _, parameter = algorithm.partition(":")
    options = {
        "rsa": ["-pkeyopt", f"rsa_keygen_bits:{parameter}"],
        "ec": ["-pkeyopt", f"ec_paramgen_curve:{parameter}"],
    }
    command = ["openssl", "req", "-new", "-nodes", "-newkey", kind.upper() if kind == "ec" else kind]
    command += options.get(kind, [])
    command += ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "csr"), "-subj", "/CN=by openssl"]
    command += ["-addext", "subjectAltName=DNS:o.example"]
    subprocess.run(command, check=True, capture_output=True)
    parsed = parse_request(decode_text((tmp_path / "csr").read_bytes()))
    assert parsed.wishes.sans == (x509.DNSName("o.example"),)
    assert parsed.wishes.subject is not None
    assert parsed.wishes.subject.rfc4514_string() == "CN=by openssl"


def test_post_quantum_and_plain_keys_prove_possession() -> None:
    for key in (mldsa.MLDSA65PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()):
        request = x509.CertificateSigningRequestBuilder().subject_name(NAME).sign(key, None)
        assert parse_request(request.public_bytes(serialization.Encoding.DER)).proof.verified


def test_an_empty_subject_is_no_wish() -> None:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(KEY, hashes.SHA256())
    assert parse_request(request.public_bytes(serialization.Encoding.DER)).wishes.subject is None


def _swapped(data: bytes, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    """The request with its two attributes the other way round, signed so, as strongSwan may write it."""
    request = csr.CertificationRequest.load(data)
    info = request["certification_request_info"]
    first, second = (one.dump() for one in info["attributes"])
    text = info.dump()
    text = text.replace(first + second, second + first)
    assert text != info.dump()
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(text, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(text, ec.ECDSA(hashes.SHA256()))
    else:
        signature = key.sign(text)
    return der.sequence(text, request["signature_algorithm"].dump(), der.bit_string(signature))


@pytest.mark.parametrize("kind", ["rsa", "ec", "ed25519"])
def test_attributes_in_whatever_order(kind: str) -> None:
    key = {"rsa": RSA_KEY, "ec": KEY, "ed25519": ed25519.Ed25519PrivateKey.generate()}[kind]
    builder = x509.CertificateSigningRequestBuilder().subject_name(NAME)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("a.example")]), critical=False)
    builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"one-time")
    request = builder.sign(key, None if kind == "ed25519" else hashes.SHA256())
    data = _swapped(request.public_bytes(serialization.Encoding.DER), key)
    with pytest.raises(ValueError, match="InvalidSetOrdering"):
        x509.load_der_x509_csr(data)
    parsed = parse_request(data)
    assert parsed.wishes.sans == (x509.DNSName("a.example"),)
    assert parsed.challenge_password is not None
    assert (parsed.challenge_password.reveal(), parsed.der) == (b"one-time", data)
    assert decode_text(encode_text(data).encode()) == data
    for at in (data.index(b"a.example"), len(data) - 1):
        with pytest.raises(Rejected) as refused:
            parse_request(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])
        assert refused.value.has(Refusal.BAD_PROOF)


@pytest.mark.parametrize(("algorithm", "digest"), [("rsa:2048", "sha1"), ("rsa:2048", "md5"), ("ec:P-256", "sha1")])
def test_a_signature_over_an_old_digest_counts_where_it_is_asked_for(
    tmp_path: Path, algorithm: str, digest: str
) -> None:
    kind, _, parameter = algorithm.partition(":")
    key = {"rsa": f"rsa_keygen_bits:{parameter}", "ec": f"ec_paramgen_curve:{parameter}"}[kind]
    command = f"openssl req -new -nodes -newkey {kind} -pkeyopt {key} -keyout k -subj /CN=old -{digest} -outform DER"
    data = subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True).stdout
    assert parse_request(data, old_digests=True).old_digest == digest
    with pytest.raises(Rejected, match=f"signed over {digest.upper()} is not accepted"):
        parse_request(data)
    with pytest.raises(Rejected) as refused:
        parse_request(data[:-1] + bytes((data[-1] ^ 1,)), old_digests=True)
    assert refused.value.has(Refusal.BAD_PROOF)


_CHALLENGE = "1.2.840.113549.1.9.7"


def _with_attributes(*attributes: tuple[str, *tuple[bytes, ...]]) -> bytes:
    """A request with these attributes, each an OID and DER values, in this order."""
    info = csr.CertificationRequest.load(_request())["certification_request_info"]
    encoded = (der.sequence(der.object_identifier(oid), der.tlv(der.SET, *values)) for oid, *values in attributes)
    parts = (info[name].dump() for name in ("version", "subject", "subject_pk_info"))
    signed = der.sequence(*parts, der.tlv(der.context(0), *encoded))
    signature = der.bit_string(KEY.sign(signed, ec.ECDSA(hashes.SHA256())))
    return der.sequence(signed, der.sequence(der.object_identifier("1.2.840.10045.4.3.2")), signature)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (core.PrintableString, "one-time"),
        (core.UTF8String, "Zürich"),
        (core.BMPString, "Zürich"),
        (core.UniversalString, "Zürich"),
        (core.IA5String, "one@time"),
    ],
)
def test_a_challenge_in_every_kind_of_string(kind: type[core.AbstractString], text: str) -> None:
    parsed = parse_request(_with_attributes((_CHALLENGE, kind(text).dump())))
    assert parsed.challenge_password is not None
    assert parsed.challenge_password.reveal() == text.encode()


def test_attributes_that_nobody_reads_may_have_any_number_of_values() -> None:
    """As enrolmentNameValuePair has them (RFC 2986 section 4.1)."""
    password = core.PrintableString("one-time").dump()
    names = (core.UTF8String("CertificateTemplate").dump(), core.UTF8String("rmd").dump())
    strange = ("1.3.6.1.4.1.311.13.2.1", *sorted(names)), ("1.3.6.1.4.1.99999.1",)
    parsed = parse_request(_with_attributes((_CHALLENGE, password), *strange))
    assert parsed.challenge_password is not None
    assert parsed.challenge_password.reveal() == b"one-time"


def test_a_second_challenge_is_refused_wherever_it_stands() -> None:
    """One of them would count by the accident of its place in a SET that has no order (RFC 2985 section 5.4.1)."""
    one, other = core.PrintableString("one-time").dump(), core.PrintableString("another").dump()
    for attributes in [((_CHALLENGE, one), (_CHALLENGE, other)), ((_CHALLENGE, one, other),), ((_CHALLENGE,),)]:
        for request in {_with_attributes(*attributes), _with_attributes(*attributes[::-1])}:
            with pytest.raises(Rejected) as refused:
                parse_request(request)
            assert refused.value.has(Refusal.MALFORMED)


def test_text_forms() -> None:
    der = _request()
    text = base64.b64encode(der)
    pem = b"-----BEGIN NEW CERTIFICATE REQUEST-----\r\n" + text + b"\r\n-----END NEW CERTIFICATE REQUEST-----\r\n"
    folded = b"\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    for form in (der, text, folded, pem):
        assert decode_text(form) == der
    for bad in (b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", b"no base64!"):
        with pytest.raises(Rejected):
            parse_request(decode_text(bad))


def test_a_signature_by_another_key_is_refused() -> None:
    good, other = _request(), _request(ec.generate_private_key(ec.SECP256R1()))
    at = other.find(spki_der(x509.load_der_x509_csr(other).public_key()))  # type: ignore[arg-type]
    spki = spki_der(KEY.public_key())
    forged = other[:at] + spki + other[at + len(spki) :]
    with pytest.raises(Rejected) as refused:
        parse_request(forged)
    assert refused.value.has(Refusal.BAD_PROOF)
    assert parse_request(good)


def test_a_signature_with_a_bit_less_is_another_one() -> None:
    data = next(one for one in iter(_request, None) if not one[-1] & 1)
    request = csr.CertificationRequest.load(data)
    unused = data.rindex(b"\0" + request["signature"].native)
    with pytest.raises(Rejected) as refused:
        parse_request(data[:unused] + b"\1" + data[unused + 1 :])
    assert refused.value.has(Refusal.BAD_PROOF)


def test_size_is_looked_at_first() -> None:
    with pytest.raises(Rejected) as refused:
        parse_request(b"\x30" * 70000)
    assert refused.value.has(Refusal.LIMIT)


def test_thousands_of_names() -> None:
    names = [x509.DNSName(f"h{n}.example") for n in range(1500)]
    with pytest.raises(Rejected) as refused:
        parse_request(_request(KEY, *names))
    assert refused.value.has(Refusal.LIMIT)


MANGLED = _request(KEY, x509.DNSName("a.example"), password=b"x")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mangled_requests_are_refused_not_crashed_on(data: st.DataObject) -> None:
    good = MANGLED
    at = data.draw(st.integers(0, len(good) - 1))
    how = data.draw(st.sampled_from(["cut", "flip", "insert"]))
    octet = data.draw(st.integers(0, 255))
    bad = {
        "cut": good[:at],
        "flip": good[:at] + bytes([good[at] ^ (octet or 1)]) + good[at + 1 :],
        "insert": good[:at] + bytes([octet]) + good[at:],
    }[how]
    with pytest.raises(Rejected):
        parse_request(bad)


def test_our_own_request_info_is_what_cryptography_reads() -> None:
    key = rsa.generate_private_key(65537, 2048)
    wanted = [extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)]
    info = request_info(NAME.public_bytes(), spki_der(key.public_key()), wanted)
    signed = x509.CertificateSigningRequestBuilder().subject_name(NAME)
    signed = signed.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    assert signed.sign(key, hashes.SHA256()).tbs_certrequest_bytes == info


@pytest.mark.parametrize(
    "pinned", [(), ("-pkeyopt", "rsa_pss_keygen_md:sha256", "-pkeyopt", "rsa_pss_keygen_saltlen:32")]
)
def test_a_key_for_one_scheme_only_is_not_certified_as_one_for_any(tmp_path: Path, pinned: tuple[str, ...]) -> None:
    key = ("openssl", "genpkey", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048", *pinned, "-out", "key")
    subprocess.run(key, cwd=tmp_path, check=True, capture_output=True)
    ask = ("openssl", "req", "-new", "-key", "key", "-subj", "/CN=x", "-outform", "DER", "-out", "csr")
    subprocess.run(ask, cwd=tmp_path, check=True, capture_output=True)
    with pytest.raises(Rejected, match="ask for it with an rsaEncryption key") as caught:
        parse_request((tmp_path / "csr").read_bytes())
    assert [one.code for one in caught.value.reasons] == [Refusal.BAD_ALGORITHM]


def test_an_rsa_encryption_key_may_sign_its_request_by_pss(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(
        RSA_KEY.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    ask = ("openssl", "req", "-new", "-key", "key", "-subj", "/CN=x", "-sigopt", "rsa_padding_mode:pss")
    done = subprocess.run((*ask, "-outform", "DER"), cwd=tmp_path, check=True, capture_output=True)
    assert parse_request(done.stdout).spki == spki_der(RSA_KEY.public_key())


def _teletex(*names: tuple[str, bytes], kind: int = 0x14) -> bytes:
    """A request with these parts of the subject in a string type, signed."""
    pairs = [der.sequence(der.object_identifier(oid), der.tlv(kind, value)) for oid, value in names]
    subject = der.sequence(der.tlv(der.SET, *sorted(pairs)))
    info = request_info(subject, spki_der(KEY.public_key()), ())
    algorithm = der.sequence(der.object_identifier("1.2.840.10045.4.3.2"))
    return der.sequence(info, algorithm, der.bit_string(KEY.sign(info, ec.ECDSA(hashes.SHA256()))))


def test_what_is_no_utf8_in_a_teletex_string_is_read_as_latin1_where_that_is_said() -> None:
    data = _teletex(("2.5.4.3", b"Z\xfcrich"), ("2.5.4.5", "Zürich".encode()), ("1.2.3.4", b"\xb5"))
    subject = parse_request(data, latin1=True).wishes.subject
    assert subject is not None
    assert {one.oid.dotted_string: one.value for one in subject} == {
        "2.5.4.3": "Zürich",
        "2.5.4.5": "Zürich",
        "1.2.3.4": "\xb5",
    }
    assert subject_text(data) == subject.rfc4514_string()
    for name, said in (("2.5.4.3", "common_name"), ("1.2.3.4", r"1\.2\.3\.4")):
        with pytest.raises(Rejected, match=f"the {said} is neither ASCII nor UTF-8") as refused:
            parse_request(_teletex((name, b"\xfc")))
        assert refused.value.has(Refusal.BAD_SUBJECT)


@pytest.mark.parametrize("kind", [der.UTF8_STRING, der.PRINTABLE_STRING, der.IA5_STRING])
def test_so_it_is_whatever_kind_of_string_is_claimed(kind: int) -> None:
    data = _teletex(("2.5.4.3", b"Z\xfcrich"), kind=kind)
    with pytest.raises(Rejected, match="the subject cannot be read: the common_name is neither ASCII nor UTF-8"):
        parse_request(data)
    assert _common_name(parse_request(data, latin1=True).wishes.subject) == "Zürich"


def test_a_printable_string_says_what_it_says_and_its_octets_are_what_is_signed() -> None:
    data = _teletex(("2.5.4.3", b"device_7@example & *"), kind=der.PRINTABLE_STRING)
    assert _common_name(parse_request(data).wishes.subject) == "device_7@example & *"
    with pytest.raises(Rejected, match="not by its own key"):
        parse_request(data.replace(b"device_7", b"device_8"))


def test_what_is_no_string_is_no_subject() -> None:
    for octets in (b"\xd8\xfcr", b"\xd8\x00"):
        with pytest.raises(Rejected):
            parse_request(_teletex(("2.5.4.3", octets), kind=der.BMP_STRING), latin1=True)


def _common_name(subject: x509.Name | None) -> str:
    assert subject is not None
    return str(subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


@given(
    st.lists(st.integers(min_value=0, max_value=6), max_size=4), st.sampled_from([0x02, 0x0C, 0x13, 0x30, 0x31, 0xA0])
)
def test_structures_that_lack_parts_are_no_request_and_no_certificate(shape: list[int], tag: int) -> None:
    data = b""
    for number in shape:
        data = der.tlv(der.SEQUENCE, data, *[der.tlv(tag, b"")] * number)
    with pytest.raises(Rejected):
        parse_request(der.sequence(data))
    with pytest.raises(ValueError, match=r"."):
        load_certificate(der.sequence(data))
