"""Requests that ask for what is not theirs: refused with all reasons, or ignored where the template says so."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.authority.csr import parse_request
from pkiserver.authority.requests import RequestedExtension, Wishes
from pkiserver.authority.templates import encoding
from pkiserver.authority.templates.library import ready_template
from pkiserver.foundation import der
from pkiserver.foundation.errors import Refusal, Rejected
from tests.support.work import counted_work

from .helpers import (
    CN_REQUEST,
    DNS_REQUEST,
    build,
    cn,
    issuer,
    key,
    name,
    raw_name,
    refusals,
    request,
    signed,
    template,
)

CLIENT = '[key_usage]\nusages = ["digital_signature"]\n[extended_key_usage]\nusages = ["client_auth"]\n'
STRICT = CN_REQUEST + CLIENT + '[request_extensions]\nothers = "refuse"\n'
DEFAULT = CN_REQUEST + CLIENT
IGNORE = CN_REQUEST + CLIENT + '[request_extensions]\nothers = "ignore"\n'

POWERS = {
    "a CA": RequestedExtension("2.5.29.19", True, b"\x30\x03\x01\x01\xff"),
    "a CA with a path length": RequestedExtension("2.5.29.19", True, b"\x30\x06\x01\x01\xff\x02\x01\x05"),
    "broken basic constraints": RequestedExtension("2.5.29.19", True, b"\x30\x80"),
    "keyCertSign": RequestedExtension("2.5.29.15", True, b"\x03\x02\x02\x04"),
    "cRLSign": RequestedExtension("2.5.29.15", True, b"\x03\x02\x01\x02"),
    "broken key usage": RequestedExtension("2.5.29.15", True, b"\x03\x09\x01"),
    "code signing": RequestedExtension("2.5.29.37", False, der.sequence(der.object_identifier("1.3.6.1.5.5.7.3.3"))),
    "any purpose": RequestedExtension("2.5.29.37", False, der.sequence(der.object_identifier("2.5.29.37.0"))),
    "OCSP signing": RequestedExtension("2.5.29.37", False, der.sequence(der.object_identifier("1.3.6.1.5.5.7.3.9"))),
    "name constraints": RequestedExtension("2.5.29.30", True, b"\x30\x00"),
    "no status check": RequestedExtension("1.3.6.1.5.5.7.48.1.5", False, b"\x05\x00"),
    "another's SID": RequestedExtension("1.3.6.1.4.1.311.25.2", False, encoding.sid("S-1-5-21-1-2-3-500")),
    "being qualified": RequestedExtension("1.3.6.1.5.5.7.1.3", False, b"\x30\x00"),
    "being a precertificate": RequestedExtension("1.3.6.1.4.1.11129.2.4.3", True, b"\x05\x00"),
}
ISSUERS_OWN = {
    "AKI": RequestedExtension("2.5.29.35", False, b"\x30\x04\x80\x02ab"),
    "SKI": RequestedExtension("2.5.29.14", False, b"\x04\x02ab"),
    "CDP": RequestedExtension("2.5.29.31", False, b"\x30\x00"),
    "AIA": RequestedExtension("1.3.6.1.5.5.7.1.1", False, b"\x30\x00"),
    "CRL number": RequestedExtension("2.5.29.20", False, b"\x02\x01\x01"),
    "freshest CRL": RequestedExtension("2.5.29.46", False, b"\x30\x00"),
}


@pytest.mark.parametrize("what", POWERS)
def test_asking_for_power_is_refused_or_ignored_never_granted(what: str) -> None:
    asked = request(cn("x"), extensions=(POWERS[what],))
    for body in (STRICT, DEFAULT):
        with pytest.raises(Rejected) as caught:
            build(template(body), asked)
        assert [reason.code for reason in caught.value.reasons] == [Refusal.BAD_EXTENSION]
    ignored = build(template(IGNORE), asked)
    plain = build(template(IGNORE), request(cn("x")))
    assert ignored.extensions == plain.extensions
    assert len(ignored.ignored) == 1


@pytest.mark.parametrize("what", ISSUERS_OWN)
def test_what_is_the_issuers_is_never_copied(what: str) -> None:
    asked = request(cn("x"), extensions=(ISSUERS_OWN[what],))
    plain = build(template(DEFAULT), request(cn("x")))
    for body in (DEFAULT, IGNORE):
        assert build(template(body), asked).extensions == plain.extensions
    if what != "SKI":  # a wish for another SKI changes nothing, and many clients send the SHA-1 one
        assert "not taken" in refusals(template(STRICT), asked)[0]


def test_harmless_wishes_of_common_clients_pass_everywhere() -> None:
    usual = (
        RequestedExtension("2.5.29.19", False, b"\x30\x00"),
        RequestedExtension("2.5.29.15", False, b"\x03\x02\x07\x80"),
        RequestedExtension("2.5.29.37", False, der.sequence(der.object_identifier("1.3.6.1.5.5.7.3.2"))),
    )
    for body in (STRICT, DEFAULT, IGNORE):
        assert build(template(body), request(cn("x"), extensions=usual)).ignored == ()


def test_allowed_extensions_are_copied_not_critical_and_only_if_well_formed() -> None:
    made = template(CN_REQUEST + '[request_extensions]\nallow = ["1.2.840.113549.1.9.15"]\nmax_octets = 20\n')
    good = RequestedExtension(
        "1.2.840.113549.1.9.15", True, b"\x30\x0d\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x01\x02"
    )
    content = build(made, request(cn("x"), extensions=(good,)))
    copied = [item for item in content.extensions if item.oid.dotted_string == good.oid]
    assert [(item.critical, item.value.value) for item in copied] == [(False, good.value)]  # type: ignore[attr-defined]
    for value in (
        b"",
        b"\x30",
        b"\x30\x80\x00\x00",
        b"\x30\x02\x05",
        b"\x05\x00\x00",
        b"\x30\x81\x02\x05\x00",
        b"\x04\x14" + b"x" * 20,
    ):
        assert refusals(made, request(cn("x"), extensions=(RequestedExtension(good.oid, False, value),)))
    assert "twice" in refusals(made, request(cn("x"), extensions=(good, good)))[0]


def test_another_requesters_name_is_refused_or_ignored_but_never_given() -> None:
    asked = request(cn("Bob"), x509.RFC822Name("bob@example.com"), x509.DNSName("dc1.corp.example.com"))
    assert refusals(ready_template("user"), asked) == [
        "common_name 'Bob' is not for this requester to ask for",
        "mail 'bob@example.com' is not for this requester to ask for",
        "dns 'dc1.corp.example.com' is not for this requester to ask for",
    ]
    content = build(ready_template("tls-client"), request(cn("Bob"), x509.DNSName("dc1.corp.example.com")))
    assert content.subject == cn("alice")
    assert content.sans == ()
    assert set(content.ignored) == {"alternative name dns 'dc1.corp.example.com'", "subject common_name 'Bob'"}


@pytest.mark.parametrize(
    "value",
    [
        "www.bank.com\0.evil.org",
        "pay\u202elapyap",
        "a\u200bb",
        "line\nbreak",
        "tab\t",
        "\u2066x",
        "e\u0301",
        " x",
        "x" * 65,
        "\ufff9",
    ],
)
def test_names_that_deceive_are_refused(value: str) -> None:
    texts = refusals(template(CN_REQUEST), request(raw_name((NameOID.COMMON_NAME, value))))
    assert len(texts) == 1
    assert texts[0].isascii()
    assert texts[0].isprintable()


def test_names_in_bmp_and_teletex_strings_are_read_as_text_and_checked_the_same() -> None:
    for kind in (x509.name._ASN1Type.BMPString, x509.name._ASN1Type.T61String):
        attribute = x509.NameAttribute(NameOID.COMMON_NAME, "www\0.evil.org", kind, _validate=False)
        assert refusals(template(CN_REQUEST), request(x509.Name([attribute])))


@pytest.mark.parametrize(
    "value",
    [
        "*.com",
        "*",
        "a.*.com",
        "www.example.com\0.evil.org",
        "exa mple.com",
        "xn--zzzzzz.com",
        "-a.com",
        "a_b.com",
        "127.0.0.1",
        "x" * 64 + ".com",
        ".".join(["a" * 60] * 5),
    ],
)
def test_bad_host_names_are_refused(value: str) -> None:
    assert refusals(template(CN_REQUEST + DNS_REQUEST), request(cn("x"), x509.DNSName(value)))


def test_wildcards_only_where_the_template_lets_them() -> None:
    asked = request(cn("x"), x509.DNSName("*.example.com"))
    assert "wildcard" in refusals(template(CN_REQUEST + DNS_REQUEST), asked)[0]
    assert build(template(CN_REQUEST + DNS_REQUEST + "wildcard = true\n"), asked).sans == (
        x509.DNSName("*.example.com"),
    )


def test_forged_other_names_are_refused() -> None:
    upn = x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")
    made = template(CN_REQUEST + '[[sans.parts]]\nkind = "upn"\nfrom = "request"\npatterns = ["*@corp.example.com"]\n')
    build(made, request(cn("x"), x509.OtherName(upn, b"\x0c\x12a@corp.example.com")))
    for value in (
        b"\x0c\x0cadmin@evil.x",
        b"\x16\x12a@corp.example.com",
        b"\x0c\x05ab",
        b"\x0c\x02\xff\xfe",
        b"\x30\x00",
        b"\x0c\x14a@corp.example.com\0\0",
        b"\x0c\x13a@corp.example.com\x0a",
    ):
        assert refusals(made, request(cn("x"), x509.OtherName(upn, value)))


def test_ten_thousand_names_cost_one_reason_and_no_time() -> None:
    names = tuple(x509.DNSName(f"h{number}.example.com") for number in range(10_000))
    made = template(CN_REQUEST + DNS_REQUEST + "max = 1024\n")
    asked = request(cn("x"), *names)
    with counted_work() as work:
        texts = refusals(made, asked)
    assert work.calls < len(names)
    assert texts == ["10000 alternative names asked for, at most 100 allowed"]


def test_many_names_with_which_the_same_is_wrong_share_a_line() -> None:
    names = tuple(x509.DNSName(f"{wrong}{number}.example.com") for number in range(31) for wrong in ("_", "-"))
    made = template(CN_REQUEST + DNS_REQUEST + "max = 100\n")
    texts = refusals(made, request(cn("x"), *names))
    [told] = texts
    first = ", ".join(f"dns '{wrong}.example.com'" for wrong in ("_0", "-0", "_1", "-1", "_2"))
    assert told == f"{first} and 57 more: each is not a host name"
    [nobody_asked] = refusals(template(CN_REQUEST), request(cn("x"), *(x509.DNSName(f"h{n}.a") for n in range(31))))
    assert nobody_asked == (
        "dns 'h0.a', dns 'h1.a', dns 'h2.a', dns 'h3.a', dns 'h4.a' and 26 more: "
        "each is not for this requester to ask for"
    )
    left_out = build(template(CN_REQUEST + '[sans]\nothers = "ignore"\n'), request(cn("x"), *names)).ignored
    assert len(left_out) == 1
    assert left_out[0].startswith("alternative names ")
    assert left_out[0].endswith(" and 57 more")


def test_bad_attributes_give_a_bounded_list_of_reasons() -> None:
    subject = name(*((NameOID.ORGANIZATIONAL_UNIT_NAME, str(number)) for number in range(60)))
    texts = refusals(template(CN_REQUEST), request(subject))
    assert len(texts) == 51
    assert texts[-1] == "and 11 more reasons"


def test_many_attributes_and_extensions_are_refused() -> None:
    subject = name(*((NameOID.ORGANIZATIONAL_UNIT_NAME, str(number)) for number in range(500)))
    assert any("more than 64 attributes" in text for text in refusals(template(CN_REQUEST), request(subject)))
    extensions = tuple(RequestedExtension(f"1.2.3.{number}", False, b"\x05\x00") for number in range(500))
    assert any(
        "500 extensions" in text for text in refusals(template(CN_REQUEST), request(cn("x"), extensions=extensions))
    )


def test_all_reasons_of_a_request_that_is_wrong_in_every_way() -> None:
    made = template(
        CN_REQUEST.replace("required", 'patterns = ["host-*"]\nrequired')
        + DNS_REQUEST
        + 'patterns = ["*.example.com"]\n'
    )
    asked = request(
        name((NameOID.COMMON_NAME, "root"), (NameOID.ORGANIZATION_NAME, "Evil")),
        x509.DNSName("evil.org"),
        x509.DNSName("*.example.com"),
        extensions=(POWERS["a CA"], POWERS["keyCertSign"]),
        kind="ec-p521",
        protocol="acme",
    )
    with pytest.raises(Rejected) as caught:
        build(made, asked)
    codes = [reason.code for reason in caught.value.reasons]
    assert sorted(codes) == sorted(
        [
            Refusal.NOT_AUTHORISED,
            Refusal.BAD_KEY,
            Refusal.BAD_SUBJECT,
            Refusal.BAD_SUBJECT,
            Refusal.BAD_NAME,
            Refusal.BAD_NAME,
            Refusal.BAD_EXTENSION,
            Refusal.BAD_EXTENSION,
        ]
    )


def test_a_whole_hostile_csr_from_octets_to_refusal() -> None:
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(cn("Bob"))
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(x509.SubjectAlternativeName([x509.RFC822Name("bob@example.com")]), False)
        .sign(key(), hashes.SHA256())
    )
    wishes = parse_request(csr.public_bytes(Encoding.DER)).wishes
    asked = request(wishes.subject, *wishes.sans, extensions=wishes.extensions)
    assert len(refusals(ready_template("user"), asked)) == 3


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([NameOID.COMMON_NAME, NameOID.TITLE, NameOID.COUNTRY_NAME]), st.text(max_size=70)),
        max_size=4,
    ),
    st.lists(st.binary(max_size=20), max_size=3),
    st.lists(
        st.tuples(st.sampled_from(["2.5.29.19", "2.5.29.15", "2.5.29.37", "1.2.3"]), st.binary(max_size=12)), max_size=3
    ),
)
def test_whatever_is_asked_the_certificate_is_an_end_entitys_with_the_records_name(
    subject: list[tuple[x509.ObjectIdentifier, str]], others: list[bytes], extensions: list[tuple[str, bytes]]
) -> None:
    """The user template takes nothing from a request: either it is refused, or the result is the usual one."""
    names = [x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), value) for value in others]
    wishes = Wishes(raw_name(*subject), tuple(names), tuple(RequestedExtension(o, False, v) for o, v in extensions))
    asked = request(wishes.subject, *wishes.sans, extensions=wishes.extensions)
    usual = build(ready_template("user"), request())
    try:
        content = build(ready_template("user"), asked)
    except Rejected as error:
        said = "".join(reason.text for reason in error.reasons)
    else:
        said = ""
    assert said.isascii()
    assert said.isprintable()
    if said:
        return
    assert (content.subject, content.sans, content.extensions) == (usual.subject, usual.sans, usual.extensions)
    read = signed(content, key().public_key())
    assert not read.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert content.not_after <= issuer().not_after
