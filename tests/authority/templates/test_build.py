"""What a template makes of a request: the user-visible rules, one by one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from pkiserver.authority import certparts
from pkiserver.authority.requests import RegistrationRecord, RequestedExtension
from pkiserver.authority.templates.library import ready_template
from pkiserver.foundation import der
from tests.support.work import counted_work

from .helpers import (
    CN_REQUEST,
    NOW,
    build,
    cn,
    issuer,
    key,
    name,
    of,
    refusals,
    request,
    signed,
    template,
    with_override,
)


def test_key_usage_is_what_the_kind_of_key_can_do() -> None:
    made = template(CN_REQUEST + '[key_usage]\nusages = ["digital_signature", "key_encipherment", "key_agreement"]\n')
    rsa = of(build(made, request(cn("x"), kind="rsa-2048")), x509.KeyUsage).value
    ec = of(build(made, request(cn("x"))), x509.KeyUsage).value
    assert isinstance(rsa, x509.KeyUsage)
    assert isinstance(ec, x509.KeyUsage)
    assert (rsa.key_encipherment, rsa.key_agreement) == (True, False)
    assert (ec.key_encipherment, ec.key_agreement) == (False, True)


def test_a_key_that_the_template_does_not_allow_is_refused_with_what_it_allows() -> None:
    assert refusals(template(CN_REQUEST), request(cn("x"), kind="ec-p384")) == [
        "an ec-p384 key is not allowed (allowed: ec-p256, rsa-2048)"
    ]


def test_protocol_and_switch() -> None:
    assert "by scep" in refusals(template(CN_REQUEST), request(cn("x"), protocol="scep"))[0]
    assert "switched off" in refusals(template("enabled = false\n" + CN_REQUEST), request(cn("x")))[0]


def test_issuer_parts_are_copied_and_urls_can_be_switched_off() -> None:
    content = build(template(CN_REQUEST), request(cn("x")))
    aki = of(content, x509.AuthorityKeyIdentifier).value
    assert isinstance(aki, x509.AuthorityKeyIdentifier)
    assert aki.key_identifier == b"issuer key identifier"
    ski = of(content, x509.SubjectKeyIdentifier).value
    assert isinstance(ski, x509.SubjectKeyIdentifier)
    assert ski.digest == certparts.key_identifier(request(cn("x")).request.spki)
    oids = {item.oid for item in content.extensions}
    assert {ExtensionOID.CRL_DISTRIBUTION_POINTS, ExtensionOID.AUTHORITY_INFORMATION_ACCESS} <= oids
    without = build(template(CN_REQUEST + "[urls]\ncrl = false\nocsp = false\nca_issuers = false\n"), request(cn("x")))
    assert not {ExtensionOID.CRL_DISTRIBUTION_POINTS, ExtensionOID.AUTHORITY_INFORMATION_ACCESS} & {
        item.oid for item in without.extensions
    }


def test_validity_counts_both_ends_and_whole_seconds() -> None:
    content = build(template(CN_REQUEST), request(cn("x")))
    assert content.not_before == NOW.replace(microsecond=0) - timedelta(minutes=5)
    assert content.not_after - content.not_before == timedelta(days=90) - timedelta(seconds=1)


def test_beyond_the_issuers_end_it_is_clamped_or_refused() -> None:
    clamp = template(CN_REQUEST + '[validity]\nduration = "20y"\n')
    assert build(clamp, request(cn("x"))).not_after == issuer().not_after
    refuse = template(CN_REQUEST + '[validity]\nduration = "20y"\nbeyond_issuer = "refuse"\n')
    assert "after its issuer" in refusals(refuse, request(cn("x")))[0]
    forever = template(CN_REQUEST + "[validity]\nnot_after = 9999-12-31T23:59:59Z\n")
    assert build(forever, request(cn("x")), issuer(years=7900)).not_after == issuer(years=7900).not_after
    assert issuer(years=7900).not_after.year > 9900
    least = template(CN_REQUEST + '[validity]\nduration = "20y"\nminimum = "11y"\n')
    assert "too short" in refusals(least, request(cn("x")))[0]


def test_a_fixed_end_in_the_past_is_refused() -> None:
    made = template(CN_REQUEST + "[validity]\nnot_after = 2026-01-01T00:00:00Z\n")
    assert "too short" in refusals(made, request(cn("x")))[0]


def test_a_client_may_shorten_only_where_the_template_says() -> None:
    shorten = template(CN_REQUEST + '[validity]\nduration = "90d"\nwishes = "shorten"\n')
    assert build(shorten, request(cn("x"), lifetime_seconds=3600)).not_after == NOW.replace(microsecond=0) + timedelta(
        hours=1
    )
    longer = build(shorten, request(cn("x"), lifetime_seconds=10**12))
    assert longer.not_after == build(shorten, request(cn("x"))).not_after
    later = NOW + timedelta(days=10)
    assert build(shorten, request(cn("x"), not_before=later)).not_before == later.replace(microsecond=0)
    assert refusals(shorten, request(cn("x"), not_after=datetime(2020, 1, 1, tzinfo=UTC)))
    assert refusals(shorten, request(cn("x"), lifetime_seconds=-5))
    plain = build(template(CN_REQUEST), request(cn("x"), lifetime_seconds=3600))
    assert plain.not_after == build(template(CN_REQUEST), request(cn("x"))).not_after
    strict = template(CN_REQUEST + '[validity]\nduration = "90d"\nwishes = "refuse"\n')
    assert "choose its validity" in refusals(strict, request(cn("x"), lifetime_seconds=3600))[0]


def test_a_ca_template_stays_below_its_issuers_path_length() -> None:
    made = template(
        CN_REQUEST + '[key_usage]\nusages = ["key_cert_sign", "crl_sign"]\n[ca]\npath_length = 3\n'
        '[ca.permitted]\ndns = ["example.com"]\nip = ["10.0.0.0/8"]\n'
    )
    content = build(made, request(cn("Sub CA")), issuer(path_length=2))
    assert of(content, x509.BasicConstraints).value == x509.BasicConstraints(True, 1)
    constraints = of(content, x509.NameConstraints)
    assert constraints.critical
    assert refusals(made, request(cn("Sub CA")), issuer(path_length=0))
    unlimited = build(made, request(cn("Sub CA")), issuer(path_length=None))
    assert of(unlimited, x509.BasicConstraints).value == x509.BasicConstraints(True, 3)


def test_purposes_from_the_request_within_what_the_template_offers() -> None:
    made = template(
        CN_REQUEST
        + '[extended_key_usage]\nusages = ["client_auth"]\nfrom_request = ["server_auth", "1.3.6.1.4.1.99999.8"]\n'
    )
    server = der.tlv(0x30, b"\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01")
    signing = der.tlv(0x30, b"\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x03")
    plain = of(build(made, request(cn("x"))), x509.ExtendedKeyUsage).value
    assert isinstance(plain, x509.ExtendedKeyUsage)
    assert list(plain) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    asked = build(made, request(cn("x"), extensions=(RequestedExtension("2.5.29.37", True, server),)))
    assert of(asked, x509.ExtendedKeyUsage).value == x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    assert refusals(made, request(cn("x"), extensions=(RequestedExtension("2.5.29.37", False, signing),))) == [
        "extended key usage code_signing is not given by the template"
    ]


def test_microsoft_extensions() -> None:
    made = template(
        CN_REQUEST + '[extended_key_usage]\nusages = ["smartcard_logon"]\n[microsoft]\ntemplate_name = "User"\n'
        'template_oid = "1.3.6.1.4.1.311.21.8.1.2.3"\nmajor_version = 100\nminor_version = 3\n'
        "application_policies = true\n"
        'sid = "{record.sid}"\n'
    )
    read = signed(build(made, request(cn("x"))), key().public_key())
    found = {item.oid.dotted_string: item.value for item in read.extensions}
    version = found["1.3.6.1.4.1.311.21.7"]
    assert isinstance(version, x509.MSCertificateTemplate)
    assert (version.template_id.dotted_string, version.major_version, version.minor_version) == (
        "1.3.6.1.4.1.311.21.8.1.2.3",
        100,
        3,
    )
    sid = found["1.3.6.1.4.1.311.25.2"]
    assert isinstance(sid, x509.UnrecognizedExtension)
    text = b"S-1-5-21-1004336348-1177238915-682003330-512"
    inner = der.tlv(0xA0, b"\x06\x0a\x2b\x06\x01\x04\x01\x82\x37\x19\x02\x01" + der.tlv(0xA0, der.tlv(4, text)))
    assert sid.value == der.tlv(0x30, inner)
    assert found["1.3.6.1.4.1.311.20.2"].value == b"\x1e\x08\x00U\x00s\x00e\x00r"
    assert refusals(made, request(cn("x"), record=RegistrationRecord("nobody"))) == [
        "the registration has no SID, which the template needs"
    ]


def test_policies_statements_own_extensions_and_flags() -> None:
    made = template(
        "must_staple = true\n" + CN_REQUEST + '[extended_key_usage]\nusages = ["server_auth"]\n'
        '[[policies]]\noid = "1.3.6.1.4.1.99999.1"\ncps = ["https://pki.example.com/cps"]\nnotice = "Test only"\n'
        '[[policies]]\noid = "2.23.140.1.2.1"\n'
        '[qc_statements]\ncompliance = true\nsscd = true\ntypes = ["esign"]\nretention_years = 10\n'
        'legislation = ["SE"]\n'
        'semantics = "natural"\nlimit = { currency = "SEK", amount = 1000, exponent = 2 }\n'
        'disclosures = [{ url = "https://pki.example.com/pds", language = "en" }]\n'
        '[qc_statements.psd2]\nroles = ["PSP_AS", "PSP_PI"]\nauthority_name = "FI"\nauthority_id = "SE-FINA"\n'
        '[[extensions]]\noid = "1.3.6.1.4.1.99999.5"\nder = "04 02 CA FE"\ncritical = false\n'
    )
    read = signed(build(made, request(cn("x"))), key().public_key())
    policies = read.extensions.get_extension_for_class(x509.CertificatePolicies).value
    assert [p.policy_identifier.dotted_string for p in policies] == ["1.3.6.1.4.1.99999.1", "2.23.140.1.2.1"]
    assert policies[0].policy_qualifiers == ["https://pki.example.com/cps", x509.UserNotice(None, "Test only")]
    assert read.extensions.get_extension_for_class(x509.TLSFeature).value == x509.TLSFeature(
        [x509.TLSFeatureType.status_request]
    )
    own = read.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.3.6.1.4.1.99999.5")).value
    assert own == x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.5"), b"\x04\x02\xca\xfe")


def test_private_key_usage_period() -> None:
    made = template(CN_REQUEST + '[validity]\nduration = "5y"\nprivate_key_usage = "1y"\n')
    content = build(made, request(cn("x")))
    period = of(content, x509.PrivateKeyUsagePeriod).value
    assert isinstance(period, x509.PrivateKeyUsagePeriod)
    assert period.not_before == content.not_before
    assert period.not_after == content.not_before + timedelta(days=365)


@pytest.mark.parametrize("template_name", ["tls-server", "tls-client"])
def test_a_build_costs_little(template_name: str) -> None:
    made = ready_template(template_name)
    subject = name((NameOID.ORGANIZATION_NAME, "Acme"), (NameOID.COMMON_NAME, "www.example.com"))
    asked = request(subject, x509.DNSName("www.example.com"), x509.DNSName("mail.example.com"))
    if template_name == "tls-client":
        asked = request(subject)
    build(made, asked)
    with counted_work() as work:
        build(made, asked)
    assert work.calls < 1200


def test_a_renewal_keeps_the_names_that_the_template_once_made() -> None:
    """The gate gives subject and names of the current certificate; variables are not applied to them again."""
    made = template(
        '[[subject.parts]]\nattribute = "country"\nfrom = "fixed"\nvalue = "SE"\n'
        '[[subject.parts]]\nattribute = "common_name"\nfrom = "request"\n'
        'value = "{request.common_name} ({record.name})"\n'
        '[[subject.parts]]\nattribute = "user_id"\nfrom = "record"\nvalue = "{record.name:upper}"\nrequired = true\n'
        "[sans]\ncopy_common_name = true\n"
        '[[sans.parts]]\nkind = "mail"\nfrom = "record"\nvalues = ["{record.name}@example.com"]\n'
        '[[sans.parts]]\nkind = "dns"\nfrom = "request"\nvalues = ["{request.common_name:lower}.example.com"]\n'
    )
    first = build(made, request(cn("Box")))
    assert first.subject.rfc4514_string() == "UID=ALICE,CN=Box (alice),C=SE"
    again = build(made, request(first.subject, *first.sans, record=with_override(first.subject, first.sans)))
    assert (again.subject, again.sans) == (first.subject, first.sans)
