"""What a template makes of the names in a request: the subject, the alternative names, and how they bind each other."""

from __future__ import annotations

import ipaddress

from cryptography import x509
from cryptography.x509.oid import NameOID

from pkiserver.authority.requests import RegistrationRecord

from .helpers import (
    ALICE,
    CN_REQUEST,
    DNS_REQUEST,
    build,
    cn,
    key,
    name,
    refusals,
    request,
    signed,
    template,
    with_override,
)


def test_the_subject_has_the_templates_parts_in_the_templates_order() -> None:
    made = template(
        '[subject]\nothers = "ignore"\nrequired = ["common_name"]\n'
        '[[subject.parts]]\nattribute = "country"\nfrom = "fixed"\nvalue = "SE"\n'
        '[[subject.parts]]\nattribute = "organization"\nfrom = "record"\n'
        '[[subject.parts]]\nattribute = "organizational_unit"\nfrom = "request"\nmax = 3\n'
        '[[subject.parts]]\nattribute = "common_name"\nfrom = "request"\n'
        'value = "{request.common_name:lower} ({record.name})"\n'
        '[[subject.parts]]\nattribute = "user_id"\nfrom = "record"\nvalue = "{record.upn:user}"\nsame_rdn = true\n'
    )
    ou = NameOID.ORGANIZATIONAL_UNIT_NAME
    content = build(made, request(name((NameOID.COMMON_NAME, "BOX"), (ou, "one"), (ou, "two"))))
    assert [sorted(a.value for a in rdn) for rdn in content.subject.rdns] == [
        ["SE"],
        ["Example Ltd"],
        ["one"],
        ["two"],
        ["alice", "box (alice)"],
    ]


def test_string_types_follow_the_standards_whatever_the_request_used() -> None:
    made = template(
        CN_REQUEST + '[[subject.parts]]\nattribute = "serial_number"\nfrom = "request"\n'
        '[[subject.parts]]\nattribute = "email_address"\nfrom = "request"\n'
    )
    bmp = x509.NameAttribute(NameOID.COMMON_NAME, "Büro", x509.name._ASN1Type.BMPString)
    serial = x509.NameAttribute(NameOID.SERIAL_NUMBER, "42", x509.name._ASN1Type.UTF8String)
    mail = x509.NameAttribute(NameOID.EMAIL_ADDRESS, "a@example.com", x509.name._ASN1Type.UTF8String)
    encoded = build(made, request(x509.Name([bmp, serial, mail]))).subject.public_bytes()
    assert b"\x0c\x05B\xc3\xbcro" in encoded
    assert b"\x13\x0242" in encoded
    assert b"\x16\x0da@example.com" in encoded


def test_record_and_request_may_stand_in_for_each_other() -> None:
    first = template('[[subject.parts]]\nattribute = "organization"\nfrom = "record_or_request"\nrequired = true\n')
    second = template('[[subject.parts]]\nattribute = "organization"\nfrom = "request_or_record"\nrequired = true\n')
    nobody = RegistrationRecord("nobody")
    asked = name((NameOID.ORGANIZATION_NAME, "Wished"))
    assert build(first, request(record=ALICE)).subject.rfc4514_string() == "O=Example Ltd"
    assert build(first, request(asked, record=nobody)).subject == asked
    assert build(second, request(asked)).subject == asked
    assert build(second, request()).subject.rfc4514_string() == "O=Example Ltd"
    assert refusals(second, request(record=nobody)) == ["the subject needs a organization"]


def test_an_attribute_with_several_values_in_the_record_gives_several_names() -> None:
    content = build(template(CN_REQUEST + '[[sans.parts]]\nkind = "mail"\nfrom = "record"\n'), request(cn("x")))
    assert [n.value for n in content.sans] == ["alice@example.com", "a.angstrom@example.com"]


def test_every_kind_of_alternative_name_from_the_record() -> None:
    record = RegistrationRecord(
        "m",
        frozenset(),
        (
            ("dns", "münchen.example.com"),
            ("ip", "2001:db8::7"),
            ("mail", "m@example.com"),
            ("uri", "urn:x:y"),
            ("directory", "CN=M,O=X"),
            ("registered_id", "1.3.6.1.4.1.99999.1"),
            ("upn", "m@corp.example.com"),
            ("srv", "_imap.example.com"),
            ("smtp_utf8", "mü@example.com"),
            ("other", "text"),
        ),
    )
    kinds = ["dns", "ip", "mail", "uri", "directory", "registered_id", "upn", "srv", "smtp_utf8"]
    body = "".join(f'[[sans.parts]]\nkind = "{kind}"\nfrom = "record"\n' for kind in kinds)
    body += '[[sans.parts]]\nkind = "other"\nfrom = "record"\noid = "1.3.6.1.4.1.99999.7"\n'
    content = build(template("[sans]\nmin = 10\n" + body), request(record=record))
    read = signed(content, key().public_key()).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert read.critical  # the subject is empty: RFC 5280 section 4.2.1.6
    assert list(read.value) == list(content.sans)
    others = {n.type_id.dotted_string: n.value for n in content.sans if isinstance(n, x509.OtherName)}
    assert others == {
        "1.3.6.1.4.1.311.20.2.3": b"\x0c\x12m@corp.example.com",
        "1.3.6.1.5.5.7.8.7": b"\x16\x11_imap.example.com",
        "1.3.6.1.5.5.7.8.9": "\x0c\x0fmü@example.com".encode(),
        "1.3.6.1.4.1.99999.7": b"\x0c\x04text",
    }
    assert content.sans[0].value == "xn--mnchen-3ya.example.com"


def test_every_kind_of_alternative_name_from_the_request() -> None:
    names = (
        x509.DNSName("a.example.com"),
        x509.IPAddress(ipaddress.ip_address("10.1.2.3")),
        x509.RFC822Name("a@example.com"),
        x509.UniformResourceIdentifier("https://a.example.com/"),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
        x509.DirectoryName(cn("A")),
        x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x03a@b"),
        x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7"), b"\x16\x0f_ldap.example.c"),
    )
    kinds = ["dns", "ip", "mail", "uri", "registered_id", "directory", "upn", "srv"]
    body = "".join(f'[[sans.parts]]\nkind = "{kind}"\nfrom = "request"\n' for kind in kinds)
    assert set(build(template(CN_REQUEST + body), request(cn("x"), *names)).sans) == set(names)
    texts = refusals(template(CN_REQUEST), request(cn("x"), *names))
    assert len(texts) == len(names)
    assert "dns 'a.example.com' is not for this requester to ask for" in texts


def test_an_empty_directory_name_is_no_name() -> None:
    """RFC 5280 section 4.2.1.6 forbids empty names; this one was issued, as the only name of a certificate, too."""
    made = template('[sans]\nmin = 1\n[[sans.parts]]\nkind = "directory"\nfrom = "request"\n')
    assert "directory '' is an empty name, which says nothing" in refusals(
        made, request(x509.Name([]), x509.DirectoryName(x509.Name([])))
    )


def test_patterns_bind_wishes_and_each_mismatch_is_told() -> None:
    made = template(
        CN_REQUEST.replace("required", 'patterns = ["*.example.com"]\nrequired')
        + DNS_REQUEST
        + 'patterns = ["*.example.com"]\n'
        '[[sans.parts]]\nkind = "ip"\nfrom = "request"\npatterns = ["10.0.0.0/8", "2001:db8::/32"]\n'
    )
    good = request(cn("a.example.com"), x509.DNSName("b.example.com"), x509.IPAddress(ipaddress.ip_address("10.9.9.9")))
    assert len(build(made, good).sans) == 2
    bad = request(
        cn("evil.org"),
        x509.DNSName("evil.org"),
        x509.DNSName("b.example.com"),
        x509.IPAddress(ipaddress.ip_address("192.0.2.1")),
    )
    assert sorted(refusals(made, bad)) == [
        "common_name 'evil.org' matches no pattern of the template",
        "dns 'evil.org' matches no pattern of the template",
        "ip '192.0.2.1' matches no pattern of the template",
    ]


def test_patterns_see_names_as_they_will_stand_in_the_certificate() -> None:
    made = template(CN_REQUEST + '[[sans.parts]]\nkind = "dns"\nfrom = "record"\npatterns = ["re:[a-z.]+"]\n')
    record = RegistrationRecord("m", frozenset(), (("dns", "m.example.com"), ("dns", "münchen.example.com")))
    assert refusals(made, request(cn("x"), record=record)) == [
        "dns 'm\\xfcnchen.example.com' matches no pattern of the template"
    ]


def test_a_common_name_that_is_a_host_is_copied_to_the_names_once() -> None:
    made = template(CN_REQUEST + "[sans]\ncopy_common_name = true\n" + DNS_REQUEST)
    assert build(made, request(cn("a.example.com"))).sans == (x509.DNSName("a.example.com"),)
    assert len(build(made, request(cn("A.example.com"), x509.DNSName("a.example.com"))).sans) == 1
    assert build(made, request(cn("192.0.2.1"))).sans == (x509.IPAddress(ipaddress.ip_address("192.0.2.1")),)
    assert build(made, request(cn("Printer on floor 3"))).sans == ()
    assert "wildcard" in refusals(made, request(cn("*.example.com")))[0]
    bounded = template(
        CN_REQUEST + "[sans]\ncopy_common_name = true\n" + DNS_REQUEST + 'patterns = ["*.example.com"]\n'
    )
    assert "evil.org" in refusals(bounded, request(cn("evil.org")))[0]


def test_a_mail_address_in_the_subject_is_copied() -> None:
    made = template(
        '[[subject.parts]]\nattribute = "email_address"\nfrom = "record"\nvalue = "{record.name}@example.com"\n'
        "required = true\n[sans]\ncopy_mail = true\n"
    )
    assert build(made, request()).sans == (x509.RFC822Name("alice@example.com"),)


def test_the_common_name_may_come_from_the_first_alternative_name() -> None:
    made = template(
        '[[subject.parts]]\nattribute = "common_name"\nfrom = "san"\nsans = ["dns", "ip"]\n[sans]\nmin = 1\n'
        + DNS_REQUEST
        + '[[sans.parts]]\nkind = "ip"\nfrom = "request"\n'
    )
    assert build(made, request(None, x509.DNSName("a.example.com"))).subject == cn("a.example.com")
    assert build(made, request(None, x509.IPAddress(ipaddress.ip_address("10.0.0.1")))).subject == cn("10.0.0.1")


def test_what_a_registration_names_replaces_the_wish() -> None:
    made = template(CN_REQUEST + DNS_REQUEST)
    bound = with_override(cn("bound"), (x509.DNSName("bound.example.com"),))
    content = build(made, request(record=bound))
    assert content.subject == cn("bound")
    assert content.sans == (x509.DNSName("bound.example.com"),)
    build(made, request(cn("bound"), x509.DNSName("bound.example.com"), record=bound))
    assert refusals(made, request(cn("other"), x509.DNSName("other.example.com"), record=bound)) == [
        "common_name 'other' is not for this requester to ask for",
        "dns 'other.example.com' is not for this requester to ask for",
    ]
    surplus = with_override(name((NameOID.COMMON_NAME, "b"), (NameOID.TITLE, "King")), (x509.RFC822Name("a@b.com"),))
    assert refusals(made, request(record=surplus)) == [
        "the registered title 'King' is not taken by the template",
        "the registered mail 'a@b.com' is not taken by the template",
    ]
