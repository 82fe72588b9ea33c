"""What names may look like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkiserver.authority.templates import text
from pkiserver.authority.templates.sankinds import SanError, SanKind, make


@pytest.mark.parametrize(
    "value",
    [
        "a\0b",
        "a\nb",
        "a\x7f",
        "pay\u202epal",
        "pay\u2066pal",
        "zero\u200bwidth",
        "\ufeffx",
        "a\u00a0b",
        "a\u2028b",
        "\ue000",
        "\ud800",
        "e\u0301",
        " a",
        "a ",
        "\U000e0041",
        "\u061cx",
    ],
)
def test_characters_that_hide_or_reorder_are_refused(value: str) -> None:
    assert text.character_problem(value)


@pytest.mark.parametrize("value", ["Alice", "Ångström", "日本語", "O'Neil & Sons, Ltd.", "Ελλάδα", "العربية"])
def test_names_of_people_and_firms_pass(value: str) -> None:
    assert text.character_problem(value) is None


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-a.com",
        "a-.com",
        "a..b",
        ".a",
        "a.",
        "a_b.com",
        "1.2.3.4",
        "a.123",
        "x" * 64 + ".com",
        "a." * 130 + "com",
        "a b.com",
        "*.com",
        "w*.example.com",
        "*.*.example.com",
        "a.*.example.com",
        "xn--a.com",
        "ab--cd.com",
        "a.com\0.evil.org",
        "münchen.de",
        "xn--\u00e9.com",
        "a.com\n",
    ],
)
def test_what_is_no_host_name_is_refused(value: str) -> None:
    assert text.host_problem(value, wildcard=True)


@pytest.mark.parametrize("value", ["example.com", "localhost", "a-b.example.com", "xn--mnchen-3ya.de", "3com.com"])
def test_host_names_pass(value: str) -> None:
    assert text.host_problem(value) is None


def test_wildcards_need_the_templates_leave() -> None:
    assert text.host_problem("*.example.com", wildcard=True) is None
    assert "wildcard" in (text.host_problem("*.example.com") or "")


def test_international_host_names_become_a_labels() -> None:
    assert make(SanKind.DNS, "münchen.de").value == "xn--mnchen-3ya.de"
    assert make(SanKind.MAIL, "info@münchen.de").value == "info@xn--mnchen-3ya.de"
    for bad in ("\u202eexample.com", "ex\u200bample.com", "☃.com", "a\u0301\u202c.com"):
        with pytest.raises(SanError):
            make(SanKind.DNS, bad)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (
            SanKind.MAIL,
            "a.b+c@example.com",
            [
                "",
                "a",
                "@b.com",
                "a@",
                "a@b@c.com",
                "a b@c.com",
                "é@c.com",
                "a..b@c.com",
                "a@-b.com",
                '"a"@c.com',
                "x" * 65 + "@c.com",
                "a@c.com\0",
            ],
        ),
        (SanKind.IP, "192.0.2.1", ["192.0.2", "192.0.2.0/24", "1.2.3.4.5", "fe80::1%eth0", "0x7f000001", ""]),
        (SanKind.IP, "2001:db8::1", ["2001:db8::1::", "[2001:db8::1]"]),
        (
            SanKind.URI,
            "https://example.com/a?b=c",
            [
                "example.com",
                "http://",
                "http://a b/",
                "javascript",
                "http://u:p@h.com/",
                "http://exa_mple.com/",
                "http://h.com/%zz",
                "http://h.com:99999/",
                "urn:\u202e",
            ],
        ),
        (SanKind.URI, "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6", ["urn:"]),
        (SanKind.REGISTERED_ID, "1.3.6.1.4.1.99999", ["1", "3.1", "1.40", "1..2", "1.02", "a.b", "1." + "9" * 60]),
        (SanKind.UPN, "alice@corp.example.com", ["alice", "@x", "a@", "a@b@c", "a b@c", "a\0@b"]),
        (
            SanKind.SRV,
            "_ldap.example.com",
            ["ldap.example.com", "_ldap", "_.example.com", "_ldap.-a.com", "_l\0.example.com"],
        ),
        (
            SanKind.SMTP_UTF8,
            "ångström@example.com",
            ["a@example.com", "\u202ea\u00e9@example.com", "é@", "é é@example.com"],
        ),
        (SanKind.DIRECTORY, "CN=Alice,O=Example", ["Alice", "CN=a\\00b", "C=Sweden", "1.2.3.4.5=x", "CN=" + "x" * 65]),
        (SanKind.OTHER, "anything at all", ["", "a\0", "x" * 2000]),
    ],
)
def test_each_kind_of_name_has_its_form(kind: SanKind, good: str, bad: list[str]) -> None:
    make(kind, good, oid="1.3.6.1.4.1.99999.7")
    for value in bad:
        with pytest.raises(SanError):
            make(kind, value, oid="1.3.6.1.4.1.99999.7")


@given(st.text(), st.sampled_from(list(SanKind)))
def test_any_text_makes_a_name_or_a_clear_refusal(value: str, kind: SanKind) -> None:
    said = ""
    try:
        make(kind, value, oid="1.3.6.1.4.1.99999.7")
    except SanError as error:
        said = str(error)
    assert said.isascii()


@given(st.text())
def test_what_is_shown_to_a_client_is_short_ascii(value: str) -> None:
    shown = text.show(value)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) <= text.MAX_SHOWN
