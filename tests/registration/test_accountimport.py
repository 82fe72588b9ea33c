"""Accounts from CSV and LDIF: the difference first, then all or nothing; replaced only when told; back out and in."""

from __future__ import annotations

import contextlib
import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkiserver.authority.requests import IssuedCertificate, PasswordEvidence
from pkiserver.foundation.clock import SystemClock
from pkiserver.foundation.errors import Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.foundation.tomlfile import ConfigurationError
from pkiserver.registration.accountfiles import Format, read, write
from pkiserver.registration.accountimport import AccountImport
from pkiserver.registration.accounts import account_reasons
from pkiserver.runtime.engine import Engine
from pkiserver.store.registration.accounts import Account
from tests.support.engines import engine_with, enrollment, template_text
from tests.support.slapd import Slapd

CSV = """name,password,groups,disabled,mail,mail,display_name
alice,"a long, password",staff;engineers,no,alice@example.org,a@example.org,Alice Example
bob,,,,bob@example.org,,"Bob ""B"" Brown"
"""


def work_of(engine: Engine) -> AccountImport:
    return AccountImport(engine.database, engine.audit, engine.accounts.hasher, engine.clock)


async def test_an_import_adds_and_updates_and_replaces_only_when_told(tmp_path: Path) -> None:
    texts = {"open": template_text("open", '[[evidence]]\nall = ["password"]\n')}
    async with engine_with(tmp_path, texts) as engine:
        await engine.accounts.create("carol", Secret("carol's password"), by="tester")
        kept = (("mail", "old@example.org"), ("room", "7"))
        await engine.accounts.create("bob", None, groups=frozenset({"staff"}), attributes=kept, by="tester")
        work = work_of(engine)
        plan = await work.plan(read(CSV, "people.csv", Format.CSV))
        shown = {change.name: (change.what, change.difference()) for change in plan.changes}
        assert shown["alice"] == (
            "add",
            (
                "+ group engineers",
                "+ group staff",
                "+ mail = alice@example.org",
                "+ mail = a@example.org",
                "+ display_name = Alice Example",
                "+ a password",
            ),
        )
        assert shown["bob"] == (
            "change",
            ("- mail = old@example.org", "+ mail = bob@example.org", '+ display_name = Bob "B" Brown'),
        )
        assert "carol" not in shown
        assert (await engine.accounts.get("bob")).attributes == kept  # looking changes nothing
        await work.apply(plan, by="tester")
        bob = await engine.accounts.get("bob")
        assert bob.groups == {"staff"}
        assert ("room", "7") in bob.attributes
        alice = PasswordEvidence("alice", Secret("a long, password"))
        assert isinstance(await engine.enroll(enrollment("open", alice)), IssuedCertificate)
        again = await work.plan(read(CSV, "people.csv", Format.CSV))
        assert (again.changes, again.unchanged) == ((), 2)
        whole = await work.plan(read(CSV, "people.csv", Format.CSV), replace=True)
        assert {(change.name, change.what) for change in whole.changes} == {("carol", "remove"), ("bob", "change")}
        await engine.accounts.set_disabled("bob", True, by="somebody else")
        with pytest.raises(Rejected, match="changed meanwhile"):
            await work.apply(whole, by="tester")
        assert (await engine.accounts.get("carol")).name == "carol"  # all or nothing
        await work.apply(await work.plan(read(CSV, "people.csv", Format.CSV), replace=True), by="tester")
        assert [one.name for one in await engine.accounts.list_page()] == ["alice", "bob"]
        assert ("room", "7") not in (await engine.accounts.get("bob")).attributes
        for form in Format:
            exported = write(await work.export(by="tester"), form)
            assert "argon2" not in exported
            plan = await work.plan(read(exported, f"x.{form}", form), replace=True)
            assert plan.changes == ()


async def test_what_ldapsearch_writes_is_read(slapd: Slapd) -> None:
    ldif = slapd._tool("ldapsearch", "-LLL", "-b", "ou=people,dc=example,dc=org", "(uid=a*)", "uid", "cn", "mail")
    found = {one.name: one for one in read(ldif, "people.ldif", Format.LDIF)}
    assert set(found) == {"alice", "a*(b)\\c"}
    assert ("mail", "alice@elsewhere.example") in found["alice"].attributes


def test_ldif_with_everything_it_may_have() -> None:
    text = (
        "version: 1\n# a comment\n that goes on\ndn: ou=people,dc=x\nobjectClass: organizationalUnit\n\n"
        "dn: uid=alice,ou=people,dc=x\nuid: alice\ncn:: w4RsaWNl\nuserPassword: a long password\n"
        "description: folded \n over two lines\nmemberOf: cn=Staff\\, all,ou=groups\njpegPhoto;binary:: /9j/\n"
        "pkiserverDisabled: TRUE\n"
    )
    (alice,) = read(text, "x.ldif", Format.LDIF)
    assert alice.password == Secret("a long password")
    assert alice.groups == {"Staff, all"}
    assert alice.attributes == (("cn", "Älice"), ("description", "folded over two lines"))
    assert alice.disabled is True


@pytest.mark.parametrize(
    ("form", "text", "what"),
    [
        (Format.CSV, "login,mail\na,b\n", r"x:1: name: .*no column name"),
        (Format.CSV, "name,mail\na\n", r"x:2: .*has 1 cells and the first line 2"),
        (Format.CSV, 'name\n"a\n', "no CSV"),
        (Format.CSV, "name,password\na,short\nb,tiny\n", r"x:3: b: .*at least 12"),
        (Format.CSV, "name,disabled\na,perhaps\n", "neither yes nor no"),
        (Format.CSV, "name\na\na\n", "is on line 2 already"),
        (Format.CSV, "name,password,Password\na,,\n", r"x:1: password: is there twice"),
        (Format.CSV, "name\na:b\n", "no colon"),
        (Format.CSV, "name,bad name\na,x\n", "cannot be an attribute's name"),
        (Format.CSV, "name,password\na,{SSHA}abc\n", "not argon2id"),
        (Format.LDIF, "dn: uid=a\nchangetype: delete\n", "describes a change"),
        (Format.LDIF, "dn: uid=a\nuid: a\nphoto:< file:///etc/passwd\n", "refers to another file"),
        (Format.LDIF, "what is this\n", "no line of LDIF"),
        (Format.LDIF, "dn: uid=a\nuid: a\ncn:: /w==\n", "no UTF-8"),
    ],
)
def test_every_problem_has_its_line(form: Format, text: str, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        read(text, "x", form)


def test_a_spreadsheets_capitals_make_no_attribute_of_a_password() -> None:
    (alice,) = read("Name,PASSWORD, Groups ,Disabled,Room\nalice,a long password,staff,yes,7\n", "x.csv", Format.CSV)
    assert (alice.name, alice.password, alice.groups, alice.disabled) == (
        "alice",
        Secret("a long password"),
        {"staff"},
        True,
    )
    assert alice.attributes == (("Room", "7"),)


def test_what_spreadsheets_make_of_a_file() -> None:
    text = "\ufeffname,password,mail,\r\nalice,  twelve and two ,a@example.org,\r\n"
    (alice,) = read(text, "x.csv", Format.CSV)
    assert alice.password == Secret("  twelve and two ")  # what is typed at the prompt is not trimmed either
    assert alice.attributes == (("mail", "a@example.org"),)
    with pytest.raises(ConfigurationError, match=r"x.csv:1: name: .*separated by commas"):
        read("name;mail\nalice;a@example.org\n", "x.csv", Format.CSV)
    with pytest.raises(ConfigurationError) as caught:
        read("name,E-Mail Address\n" + "".join(f"user{n},a@example.org\n" for n in range(50)), "x.csv", Format.CSV)
    assert [problem.line for problem in caught.value.problems] == [1]
    (bob,) = read("\ufeffdn: uid=bob\r\nuid: bob\r\nmail: b\u2028@example.org\r\n", "x.ldif", Format.LDIF)
    assert bob.attributes == (("mail", "b\u2028@example.org"),)


def test_a_password_is_twelve_characters_of_utf_8() -> None:
    for octets, what in (("ä" * 11, "at least 12 characters"), (b"p\xe4ssword of latin 1", "UTF-8")):
        [reason] = account_reasons("alice", frozenset(), (), Secret(octets))
        assert what in reason.text
    assert account_reasons("alice", frozenset(), (), Secret("ä" * 12)) == ()


def test_no_cell_that_is_written_is_a_formula() -> None:
    cells = (("mail", '=HYPERLINK("http://evil.example","click")'), ("phone", "+49 30 1234"), ("room", "@A1"))
    account = Account("-mallory", None, frozenset({"=cmd|' /C calc'!A0"}), cells, False, SystemClock().now())
    text = write([account], Format.CSV)
    for row in csv.reader(io.StringIO(text)):
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row)
    (back,) = read(text, "x.csv", Format.CSV)
    assert (back.name, back.groups, back.attributes) == (account.name, account.groups, cells)


_WORDS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=90).map(str.strip)
_NAMES = _WORDS.filter(lambda text: text and ":" not in text and text[0] not in "/ " and not text[0].isspace())
_GROUPS = st.frozensets(_WORDS.filter(lambda text: text.isprintable() and text and ";" not in text), max_size=3)
_FORMULAS = st.sampled_from(["=1+1", "+49 30 1", "-1", "@SUM(A1)", "'=1", "''@", "'quoted'", "'", "x\ny", "a\u2028b"])
_KEYS = st.sampled_from(
    ["mail", "cn", "room", "name", "Password", "groups", "disabled", "uid", "userPassword", "memberOf", "objectClass",
     "pkiserverDisabled", "pkiserverAttribute", "dn", "version", "changetype", "_x", "-y", "attribute"]
)  # fmt: skip
_ATTRIBUTES = st.lists(st.tuples(_KEYS, _WORDS.filter(bool) | _FORMULAS), max_size=6)


@given(_NAMES, _GROUPS, _ATTRIBUTES, st.booleans(), st.sampled_from(Format))
def test_what_is_written_is_read_back(
    name: str, groups: frozenset[str], attributes: list[tuple[str, str]], disabled: bool, form: Format
) -> None:
    account = Account(name, None, groups, tuple(attributes), disabled, SystemClock().now())
    (back,) = read(write([account], form), "x", form)
    assert back.name == name
    assert (back.groups or frozenset()) == groups
    assert back.disabled is disabled
    assert back.password is None
    assert back.password_hash is None
    for key in {key for key, _ in (*attributes, *back.attributes)}:
        assert [v for k, v in back.attributes if k == key] == [v for k, v in attributes if k == key]


@given(st.text(max_size=300), st.sampled_from(Format))
def test_any_text_is_accounts_or_problems(text: str, form: Format) -> None:
    with contextlib.suppress(ConfigurationError):
        read(text, "x", form)
