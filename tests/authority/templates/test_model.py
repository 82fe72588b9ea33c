"""What a template file may say: every mistake is reported at its line, with what would be allowed."""

from __future__ import annotations

import pytest

from pkiserver.authority.templates.library import load_template, ready_names, ready_text
from pkiserver.authority.templates.model import EST_OPERATIONS, Template
from pkiserver.foundation.tomlfile import ConfigurationError, dump, load

from .helpers import MINIMAL, template

NAMED = '[[subject.parts]]\nattribute = "common_name"\nfrom = "request"\nrequired = true\n'


def problems(body: str, head: str = MINIMAL) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        template(body, head)
    return [str(problem) for problem in caught.value.problems]


def test_mistakes_come_with_file_line_and_what_is_allowed() -> None:
    text = (
        'kind = "template"\nname = "x"\nissuer = "a"\nkeys = ["rsa-1024"]\nprotocols = ["carrier-pigeon"]\ncolour = 1\n'
        '[validity]\nduration = "fortnight"\n[key_usage]\nusages = ["digital_signature", "everything"]\n'
    )
    with pytest.raises(ConfigurationError) as caught:
        load_template(text, "x.toml")
    found = [str(problem) for problem in caught.value.problems]
    assert len(found) == 5
    assert "x.toml:4: keys[0]: " in found[0]
    assert "rsa-2048" in found[0]
    assert "x.toml:5: protocols[0]: " in found[1]
    assert "scep" in found[1]
    assert found[2].startswith("x.toml:6: colour: unknown key")
    assert "x.toml:8: validity.duration: " in found[3]
    assert "x.toml:10: key_usage.usages[1]: " in found[4]
    assert "digital_signature" in found[4]


@pytest.mark.parametrize("label", sorted(EST_OPERATIONS))
def test_no_template_is_named_like_an_est_operation(label: str) -> None:
    head = MINIMAL.replace('"test"', f'"{label.upper()}"')
    assert any("test.toml:3: name: " in problem and "EST" in problem for problem in problems(NAMED, head))


@pytest.mark.parametrize(
    ("body", "where", "what"),
    [
        ('[extended_key_usage]\nusages = ["ocsp_signing", "client_auth"]\n', ":7: extended_key_usage:", "alone"),
        ('[extended_key_usage]\nusages = ["time_stamping"]\n', ":7: extended_key_usage:", "critical"),
        (
            '[extended_key_usage]\nusages = ["client_auth"]\nfrom_request = ["ocsp_signing"]\n',
            "extended_key_usage",
            "never",
        ),
        ('[extended_key_usage]\nusages = ["any"]\ncritical = true\n', "extended_key_usage", "not critical"),
        ('[extended_key_usage]\nusages = ["juggling"]\n', ":8: extended_key_usage.usages[0]:", "server_auth"),
        ('[key_usage]\nusages = ["key_cert_sign"]\n', ":7: key_usage:", "[ca]"),
        ('[key_usage]\nusages = ["crl_sign"]\n', ":7: key_usage:", "[ca]"),
        ('[key_usage]\nusages = ["encipher_only"]\n', ":8: key_usage.usages:", "key_agreement"),
        ("[key_usage]\nusages = []\n", "key_usage.usages", "no usage"),
        ("[ca]\npath_length = 0\n", ":7: ca:", "key_cert_sign"),
        ("[ca]\npath_length = -1\n", "ca.path_length", "0 to 255"),
        ("[request_extensions]\nallow = ['2.5.29.19']\n", ":8: request_extensions.allow:", "never taken"),
        (
            "[request_extensions]\nallow = ['2.5.29.35', '2.5.29.31', '1.3.6.1.5.5.7.1.1']\n",
            "request_extensions",
            "never",
        ),
        ("[request_extensions]\nallow = ['2.5.29.37']\n", "request_extensions.allow", "from_request"),
        ('[[extensions]]\noid = "2.5.29.19"\nder = "3000"\n', "extensions", "set twice"),
        ('[[extensions]]\noid = "1.2.3"\nder = "30"\n', ":9: extensions[0].der:", "DER"),
        ('[[extensions]]\noid = "1.2.3"\nder = "0500ff"\n', "extensions[0].der", "after"),
        ('[[policies]]\noid = "1.2.3"\n[[policies]]\noid = "1.2.3"\n', "policies", "twice"),
        ('[[policies]]\noid = "1.2.3"\nnotice = "' + "x" * 201 + '"\n', "policies[0].notice", "200"),
        ('[[evidence]]\nall = ["password"]\nprotocols = ["scep"]\n', "evidence", "scep"),
        ("[[evidence]]\nall = []\n", "evidence[0].all", "nothing"),
        ('[est]\nserver_keygen_key = "ec-p256"\n', "est.server_keygen_key", "server_keygen"),
        ('[est]\nserver_keygen = true\nserver_keygen_key = "ed25519"\n', "est", "not among keys"),
        ('[validity]\nduration = "1d"\nbackdate = "2d"\n', "validity.backdate", "further"),
        ('[validity]\nduration = "1d"\nnot_after = 2030-01-01T00:00:00Z\n', "validity.duration", "one of"),
        ("[sans]\ncopy_mail = true\n", "sans", "email_address"),
        (
            '[[sans.parts]]\nkind = "dns"\nfrom = "request"\npatterns = ["re:(a"]\n',
            "sans.parts[0].patterns",
            "ends too early",
        ),
        (
            '[[sans.parts]]\nkind = "ip"\nfrom = "request"\npatterns = ["10.0.0.1/8"]\n',
            "sans.parts[0].patterns",
            "host bits",
        ),
        ('[[sans.parts]]\nkind = "dns"\nfrom = "fixed"\nvalues = ["a b"]\n', ":10: sans.parts[0].values:", "host name"),
        ('[[sans.parts]]\nkind = "other"\nfrom = "request"\n', "sans.parts[0].oid", "other"),
        ('[[sans.parts]]\nkind = "mail"\nfrom = "record"\nvalues = ["{request.mail}"]\n', "values", "cannot stand"),
        ('[[sans.parts]]\nkind = "mail"\nfrom = "record"\nvalues = ["{record.mail"]\n', "values[0]", "brace"),
        ('[[sans.parts]]\nkind = "mail"\nfrom = "record"\nvalues = ["{record.mail:rot13}"]\n', "values[0]", "filter"),
        ('[microsoft]\nsid = "{request.common_name}"\n', "microsoft.sid", "record only"),
        ('[qc_statements]\nlegislation = ["Sweden"]\ncompliance = true\n', "qc_statements.legislation", "country"),
    ],
)
def test_impossible_combinations_are_refused_at_their_line(body: str, where: str, what: str) -> None:
    found = problems(body + NAMED)
    assert any(where in problem and what in problem for problem in found), found


def test_flags_that_need_each_other() -> None:
    assert any("ocsp_no_check" in p for p in problems("ocsp_no_check = true\n" + NAMED))
    assert any("must_staple" in p for p in problems("must_staple = true\n" + NAMED))
    assert any("escrow" in p for p in problems('escrow = true\n[key_usage]\nusages = ["content_commitment"]\n' + NAMED))


def test_encipherment_with_elliptic_curve_keys_only_is_refused() -> None:
    head = MINIMAL.replace('"ec-p256", "rsa-2048"', '"ec-p256", "ed25519"')
    found = problems('[key_usage]\nusages = ["key_encipherment"]\n' + NAMED, head)
    assert any("test.toml:6: keys:" in p and "ec-p256" in p for p in found)
    assert any("ed25519" in p for p in found)


def test_subject_parts_are_checked_against_x520() -> None:
    assert any(
        "2 to 2" in p for p in problems('[[subject.parts]]\nattribute = "country"\nfrom = "fixed"\nvalue = "SWE"\n')
    )
    assert any(
        "capital" in p for p in problems('[[subject.parts]]\nattribute = "country"\nfrom = "fixed"\nvalue = "se"\n')
    )
    long = '[[subject.parts]]\nattribute = "organization"\nfrom = "fixed"\nvalue = "' + "x" * 65 + '"\n'
    assert any("1 to 64" in p for p in problems(long))
    assert any("needs it" in p for p in problems('[[subject.parts]]\nattribute = "organization"\nfrom = "fixed"\n'))
    assert any("forbidden" in p for p in problems("[subject]\nforbidden = ['common_name']\n" + NAMED))


def test_a_template_with_neither_certain_subject_nor_names_is_refused() -> None:
    assert any("certain" in p for p in problems('[[sans.parts]]\nkind = "dns"\nfrom = "request"\n'))


@pytest.mark.parametrize("name", ready_names())
def test_a_template_written_back_is_the_same_template(name: str) -> None:
    made = load_template(ready_text(name), name)
    assert load(Template, dump(made), name) == made
