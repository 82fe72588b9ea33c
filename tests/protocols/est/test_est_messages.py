"""EST's wire forms by table and by property; OpenSSL reads what is produced."""

from __future__ import annotations

import base64
import contextlib
import email
import email.policy
import re
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from pkiserver.authority.csr import parse_request
from pkiserver.authority.templates.model import Template
from pkiserver.foundation.errors import Defect, Refusal, Rejected, Unavailable
from pkiserver.foundation.tomlfile import load
from pkiserver.keys.algorithms import KeyType
from protocols.cms import oids
from protocols.cms.ber import children, only_child
from protocols.cms.signing import attribute
from protocols.est import keygen, messages
from protocols.est.csrattrs import encode_csr_attributes
from protocols.est.errors import STATUS, WrongMediaType, response_of
from protocols.est.linking import verify_link
from protocols.est.messages import Base64Form, Operation, Target
from protocols.est.ports import EstSettings
from protocols.est.renewal import renewal_wishes
from tests.protocols.est.requests import KEY, csr, oid, sequence

DAMAGED = csr(sans=("a.example",))


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("cacerts", Target(Operation.CACERTS, None)),
        ("simpleenroll", Target(Operation.SIMPLEENROLL, None)),
        ("tls-server/simplereenroll", Target(Operation.SIMPLEREENROLL, "tls-server")),
        ("a.b_c-1/csrattrs", Target(Operation.CSRATTRS, "a.b_c-1")),
        ("", None),
        ("/cacerts", None),
        ("cacerts/", None),
        ("x/y/cacerts", None),
        ("../cacerts", None),
        ("%2e/cacerts", None),
        ("a b/cacerts", None),
        ("CACERTS", None),
        ("x/", None),
        ("x/pal", None),
        (f"{'a' * 64}/cacerts", None),
    ],
)
def test_a_path_names_an_operation_and_perhaps_a_label(tail: str, expected: Target | None) -> None:
    assert messages.parse_target(tail) == expected


@given(st.binary(min_size=1, max_size=2000), st.sampled_from(["\n", "\r\n", "", " ", "\t\n"]), st.integers(1, 80))
def test_base64_is_read_however_it_is_broken(data: bytes, ending: str, width: int) -> None:
    text = base64.b64encode(data).decode()
    broken = ending.join(text[i : i + width] for i in range(0, len(text), width)) + ending
    assert messages.decode_base64(broken.encode()) == data


@given(st.binary(min_size=1, max_size=3000))
def test_both_forms_are_read_by_their_clients(data: bytes) -> None:
    wrapped = messages.encode_base64(data, Base64Form.WRAPPED)
    single = messages.encode_base64(data, Base64Form.SINGLE_LINE)
    assert max(len(line) for line in wrapped.splitlines()) <= 64
    assert single.count(b"\n") == 1
    assert single.endswith(b"\n")
    assert messages.decode_base64(wrapped) == messages.decode_base64(single) == data
    assert base64.b64decode(single.strip(), validate=True) == data


def test_openssl_reads_the_wrapped_form_and_dash_a_the_other() -> None:
    data = bytes(range(256)) * 9
    for form, options in ((Base64Form.WRAPPED, []), (Base64Form.SINGLE_LINE, ["-A"])):
        done = subprocess.run(
            ["openssl", "base64", "-d", *options],
            input=messages.encode_base64(data, form),
            capture_output=True,
            check=True,
        )
        assert done.stdout == data


@pytest.mark.parametrize(
    ("agent", "form"),
    [
        (None, Base64Form.SINGLE_LINE),
        ("", Base64Form.SINGLE_LINE),
        ("Cisco EST client 1.0", Base64Form.WRAPPED),
        ("curl/7.88.1", Base64Form.WRAPPED),
    ],
)
def test_the_form_follows_the_user_agent(agent: str | None, form: Base64Form) -> None:
    assert Base64Form.AUTO.resolve(agent) is form
    assert Base64Form.SINGLE_LINE.resolve(agent) is Base64Form.SINGLE_LINE


@pytest.mark.parametrize(
    "body", [b"", b" \r\n", b"\x30\x82\x01\x00", b"AAA", b"A===", b"AA*A", b"=AAA", b"A-_A", "ä".encode()]
)
def test_bodies_that_are_not_base64(body: bytes) -> None:
    with pytest.raises(Rejected) as refused:
        messages.decode_base64(body)
    assert refused.value.has(Refusal.MALFORMED)


def test_pem_armour_is_taken_off() -> None:
    der = csr()
    pem = x509.load_der_x509_csr(der).public_bytes(serialization.Encoding.PEM)
    assert messages.decode_base64(pem) == der


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Basic " + base64.b64encode(b"me:pw:with:colons").decode(), ("me", b"pw:with:colons")),
        ("basic " + base64.b64encode(b":CODE-1").decode(), ("", b"CODE-1")),
        ("Basic " + base64.b64encode("jürgen:ö".encode()).decode(), ("jürgen", "ö".encode())),
        ("Bearer abc", None),
        ("Digest username=x", None),
    ],
)
def test_basic_credentials(value: str, expected: tuple[str, bytes] | None) -> None:
    found = messages.parse_basic((value,))
    assert (None if found is None else (found.name, found.password.reveal())) == expected
    assert messages.parse_basic(()) is None


@pytest.mark.parametrize(
    "values",
    [
        ("Basic ***",),
        ("Basic",),
        ("Basic " + base64.b64encode(b"nocolon").decode(),),
        ("Basic " + base64.b64encode(b"\xff:x").decode(),),
        ("Basic " + base64.b64encode(b"a\0:x").decode(),),
        ("Basic " + "QUFB" * 1000,),
        ("Basic QTpC", "Basic QTpC"),
    ],
)
def test_credentials_that_cannot_be_read(values: tuple[str, ...]) -> None:
    with pytest.raises(Rejected):
        messages.parse_basic(values)


def test_credentials_that_are_too_long_are_told_as_such() -> None:
    with pytest.raises(Rejected, match="too long"):
        messages.parse_basic(("Basic " + base64.b64encode(b"me:" + b"x" * 2000).decode(),))


def test_the_outline_of_a_request() -> None:
    der = csr(
        attribute(messages.CHALLENGE_PASSWORD, b"\x13\x04QUJD"),
        attribute(oids.ASYMM_DECRYPT_KEY_ID, b"\x04\x02id"),
        attribute(oids.SMIME_CAPABILITIES, sequence(sequence(oid(oids.AES256_CBC)), sequence(oid(oids.AES128_WRAP)))),
    )
    found = messages.outline(der)
    assert found.challenge_password == b"QUJD"
    assert found.asymmetric_decrypt_key_id == b"id"
    assert found.decrypt_key_id is None
    assert found.capabilities == (oids.AES256_CBC, oids.AES128_WRAP)
    assert not found.changes_subject
    assert messages.outline(csr(attribute(messages.CHANGE_SUBJECT_NAME, b"\x30\x00"))).changes_subject


@pytest.mark.parametrize(
    "attributes",
    [
        [attribute(messages.CHALLENGE_PASSWORD, b"\x13\x01a", b"\x13\x01b")],
        [attribute(messages.CHALLENGE_PASSWORD, b"\x13\x01a"), attribute(messages.CHALLENGE_PASSWORD, b"\x13\x01b")],
        [attribute(messages.CHALLENGE_PASSWORD, b"\x04\x01a")],
        [attribute(messages.CHALLENGE_PASSWORD)],
        [attribute(oids.DECRYPT_KEY_ID, b"\x13\x01a")],
        [attribute(oids.SMIME_CAPABILITIES, b"\x30\x02\x30\x00")],
        [b"\x05\x00"],
    ],
)
def test_attributes_that_cannot_be_read(attributes: list[bytes]) -> None:
    with pytest.raises(Rejected):
        messages.outline(csr(*attributes))


@given(st.binary(max_size=300))
def test_any_octets_end_in_an_outline_or_a_refusal(data: bytes) -> None:
    with contextlib.suppress(Rejected):
        messages.outline(data)


@given(st.data())
def test_a_damaged_request_ends_in_an_outline_or_a_refusal(data: st.DataObject) -> None:
    der = bytearray(DAMAGED)
    for _ in range(3):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Rejected):
        messages.outline(bytes(der))


@pytest.mark.parametrize("required", [False, True])
def test_only_the_binding_of_this_connection_links(required: bool) -> None:
    binding = bytes(range(32))
    text = base64.b64encode(binding)
    assert verify_link(text, binding, required=required)
    assert verify_link(text[:20] + b"\n" + text[20:], binding, required=required)
    for challenge, against in (
        (text, bytes(32)),
        (b"code", binding),
        (text, None),
        (b"AA", b""),
        (text * 9, binding),
    ):
        with pytest.raises(Rejected) as refused:
            verify_link(challenge, against, required=required)
        assert refused.value.has(Refusal.BAD_PROOF)
    for nothing in (None, b"", b" \r\n"):
        if required:
            with pytest.raises(Rejected, match="required"):
                verify_link(nothing, binding, required=True)
        else:
            assert not verify_link(nothing, binding, required=False)


def test_every_refusal_has_a_status_and_all_reasons_are_shown() -> None:
    assert set(STATUS) == set(Refusal)
    both = Rejected(
        [*Rejected.because(Refusal.BAD_KEY, "one").reasons, *Rejected.because(Refusal.BAD_NAME, "two").reasons]
    )
    answer = response_of(both, realm="x")
    assert (answer.status, answer.body) == (400, b"one\ntwo\n")
    unknown = Rejected.because(Refusal.NOT_AUTHENTICATED, "who?")
    asking = response_of(unknown, realm="x")
    assert (asking.status, dict(asking.headers)["WWW-Authenticate"]) == (401, 'Basic realm="x", charset="UTF-8"')
    assert response_of(unknown, realm=None).status == 403
    assert response_of(WrongMediaType("no"), realm=None).status == 415


def test_renewal_keeps_subject_and_names() -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])
    import datetime as dt

    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    san = x509.SubjectAlternativeName([x509.DNSName("a.example"), x509.DNSName("b.example")])
    builder = x509.CertificateBuilder(name, name, KEY.public_key(), 5, start, start.replace(year=2030))
    current = builder.add_extension(san, critical=False).sign(KEY, hashes.SHA256())
    for names in (("a.example", "b.example"), ("b.example", "a.example"), ("A.example", "b.EXAMPLE"), ()):
        wishes = parse_request(csr(sans=names)).wishes
        assert renewal_wishes(wishes, current, changes_subject=False).sans == tuple(san)
    for der, code in (
        (csr(name="other"), Refusal.BAD_SUBJECT),
        (csr(sans=("a.example",)), Refusal.BAD_NAME),
        (csr(sans=("a.example", "b.example", "c.example")), Refusal.BAD_NAME),
    ):
        with pytest.raises(Rejected) as refused:
            renewal_wishes(parse_request(der).wishes, current, changes_subject=False)
        assert refused.value.has(code)
    with pytest.raises(Rejected):
        renewal_wishes(parse_request(csr()).wishes, current, changes_subject=True)


LINKED = """
[est]
proof_linking = "required"
csr_attributes = ["1.3.6.1.1.1.1.22"]
"""
TEMPLATE = """
name = "device"
issuer = "issuing"
keys = ["ec-p384", "rsa-2048"]
protocols = ["est"]
[validity]
duration = "90d"
[[subject.parts]]
attribute = "common_name"
from = "request"
required = true
[[subject.parts]]
attribute = "organization"
from = "fixed"
value = "Example"
[[sans.parts]]
kind = "dns"
from = "request"
min = 1
"""


def asn1parse(der: bytes) -> str:
    done = subprocess.run(["openssl", "asn1parse", "-inform", "DER"], input=der, capture_output=True, check=True)
    return done.stdout.decode()


def test_csr_attributes_say_what_the_template_wants() -> None:
    der = encode_csr_attributes(load(Template, TEMPLATE, "t"))
    printed = asn1parse(der)
    for wanted in ("id-ecPublicKey", "secp384r1", "ecdsa-with-SHA384", "commonName", "1.2.840.113549.1.9.16.2.61"):
        assert wanted in printed
    assert "challengePassword" not in printed
    assert "organizationName" not in printed
    linked = encode_csr_attributes(load(Template, TEMPLATE + LINKED, "t"))
    printed = asn1parse(linked)
    assert "challengePassword" in printed
    assert "1.3.6.1.1.1.1.22" in printed
    assert "1.2.840.113549.1.9.16.2.61" not in printed


def test_the_request_template_is_as_rfc_9908_writes_it() -> None:
    """The example of section 3.4, as far as a template of ours asks for it: a common name, a key, a subjectAltName."""
    text = TEMPLATE.replace('"ec-p384", "rsa-2048"', '"ec-p256"')
    lines = asn1parse(encode_csr_attributes(load(Template, text, "t"))).splitlines()
    start = next(number for number, line in enumerate(lines) if line.endswith(":1.2.840.113549.1.9.16.2.61"))
    found = [re.sub(r".*?d=(\d+) .*?(prim|cons): *", lambda seen: f"{seen[1]} ", line) for line in lines[start:]]
    assert [" ".join(line.split()) for line in found] == [
        "2 OBJECT :1.2.840.113549.1.9.16.2.61",
        "2 SET",
        "3 SEQUENCE",
        "4 INTEGER :00",
        "4 SEQUENCE", "5 SET", "6 SEQUENCE", "7 OBJECT :commonName",
        "4 cont [ 0 ]", "5 SEQUENCE", "6 OBJECT :id-ecPublicKey", "6 OBJECT :prime256v1",
        "4 cont [ 1 ]", "5 SEQUENCE", "6 OBJECT :1.2.840.113549.1.9.16.2.62",
        "6 SET", "7 SEQUENCE", "8 SEQUENCE", "9 OBJECT :X509v3 Subject Alternative Name",
    ]  # fmt: skip


def test_csr_attributes_match_the_vector_of_rfc_7030_where_they_say_the_same() -> None:
    """RFC 9908 section 5.5: challengePassword, ecPublicKey with secp384r1, serialNumber, ecdsaWithSHA384."""
    text = """
name = "t"
issuer = "i"
keys = ["ec-p384"]
[validity]
duration = "1d"
[[subject.parts]]
attribute = "serial_number"
from = "request"
required = true
[est]
proof_linking = "required"
"""
    vector = base64.b64decode("MC4GCSqGSIb3DQEJBzASBgcqhkjOPQIBMQcGBSuBBAAiBgNVBAUGCCqGSM49BAMD")
    ours = encode_csr_attributes(load(Template, text, "t"))
    assert {item.whole for item in children(only_child(ours).content)} == {
        item.whole for item in children(only_child(vector).content)
    }


@pytest.mark.parametrize("kind", ["rsa-2048", "ec-p256", "ec-p384", "ec-p521", "ed25519", "ed448", "ml-dsa-44"])
def test_a_generated_key_gets_a_request_of_its_own(kind: str) -> None:
    outline = messages.outline(csr(attribute(messages.CHALLENGE_PASSWORD, b"\x13\x01x"), sans=("a.example",)))
    key = keygen.generate(KeyType.parse(kind))
    parsed = parse_request(keygen.request_for(key, outline))
    assert parsed.public_key == key.public_key()
    assert parsed.challenge_password is None
    assert parsed.wishes.sans == (x509.DNSName("a.example"),)
    assert str(KeyType.of(key.public_key())) == kind


def test_key_and_certificate_are_mime_parts() -> None:
    body = messages.key_and_certificate(messages.PKCS8_TYPE, b"k" * 500, b"c" * 500, "est-0")
    text = b'Content-Type: multipart/mixed; boundary="est-0"\r\n\r\n' + body
    parts = list(email.message_from_bytes(text, policy=email.policy.HTTP).iter_parts())
    assert [part.get_content_type() for part in parts] == ["application/pkcs8", "application/pkcs7-mime"]
    assert [part.get_content() for part in parts] == [b"k" * 500, b"c" * 500]


KINDS = {
    "rsa-3072": ("rsaEncryption", "sha256WithRSAEncryption"),
    "ed25519": ("ED25519", "ED25519"),
    "ml-dsa-65": ("2.16.840.1.101.3.4.3.18", "2.16.840.1.101.3.4.3.18"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_csr_attributes_for_every_kind_of_key(kind: str) -> None:
    der = encode_csr_attributes(load(Template, TEMPLATE.replace('"ec-p384", "rsa-2048"', f'"{kind}"'), "t"))
    printed = asn1parse(der)
    assert all(name in printed for name in KINDS[kind])
    if kind == "rsa-3072":
        assert ":0C00" in printed, "the modulus length, 3072"


def test_what_is_ours_is_said_as_ours() -> None:
    away = response_of(Unavailable("the token is away", retry_after=7), realm="x")
    assert (away.status, dict(away.headers)["Retry-After"]) == (503, "7")
    assert b"token" not in away.body
    broken = response_of(Defect("a stack trace that nobody shall see"), realm="x")
    assert (broken.status, broken.body) == (500, b"internal error\n")


@pytest.mark.parametrize("realm", ['a"b', "a\\b", "ü", "a\r\nb"])
def test_a_realm_that_would_break_the_header_is_refused(realm: str) -> None:
    with pytest.raises(ValueError, match="realm"):
        EstSettings(realm=realm)
