"""Documents that `pkiserver apply` reads: mistakes about what a document is say what is allowed, at their line."""

from __future__ import annotations

import pytest

from pkiserver.authority.documents import Kind, read_documents
from pkiserver.foundation.tomlfile import ConfigurationError
from pkiserver.registration.connectors.settings import load_connector

READERS = {Kind.CONNECTOR: load_connector}
KINDS = 'allowed: "template", "authority", "timestamp-unit", "connector", "foreign-ca", "directory"'


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read_documents([("a.toml", text)], READERS)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("kind", ['"conector"', "7", '["connector"]'])
def test_a_kind_that_is_none_is_the_only_problem(kind: str) -> None:
    [problem] = problems(f'name = "staff"\nkind = {kind}\n[ldap]\nbase = "dc=x"\n')
    assert problem.startswith("a.toml:2: kind: ")
    assert "is no kind of object" in problem
    assert KINDS in problem


def test_a_document_without_a_kind_says_how_it_was_read() -> None:
    first, *rest = problems('name = "staff"\n[ldap]\nbase = "dc=x"\n')
    assert first == f"a.toml:1: kind: is missing, so this was read as a template ({KINDS})"
    assert any("ldap: unknown key" in problem for problem in rest)


def test_names_and_bounds_are_given_in_the_words_of_the_file() -> None:
    text = 'kind = "template"\nname = "t"\nissuer = "i"\nkeys = ["rsa-1024"]\n[validity]\nduration = "1d"\n'
    assert problems(text)[0].startswith("a.toml:4: keys[0]: unknown key type 'rsa-1024' (allowed: rsa-2048 to rsa-8192")
    assert problems(text)[0].count("allowed") == 1
    missing = problems(text.replace('keys = ["rsa-1024"]\n', ""))
    assert any("keys: is missing (allowed: an array of: rsa-2048" in problem for problem in missing)
    uncertain = problems(text.replace("rsa-1024", "rsa-2048"))
    assert any("(allowed: required = true in one of [[subject.parts]]" in problem for problem in uncertain)
    connector = (
        'kind = "connector"\nname = "r"\nat_once = 0\n[mail]\nservers = ["smtp://localhost"]\nsender = "a@b.example"\n'
    )
    assert problems(connector) == ["a.toml:3: at_once: 0 is out of range (allowed: 1 to 256)"]


def test_a_byte_order_mark_is_no_part_of_a_document() -> None:
    text = 'kind = "connector"\nname = "staff"\n[sql]\nurl = "sqlite:////srv/people.db"\nquery = "SELECT :userid"\n'
    [read] = read_documents([("a.toml", f"\ufeff{text}")], READERS)
    assert (read.kind, read.name, read.text) == (Kind.CONNECTOR, "staff", text)


@pytest.mark.parametrize("text", ["a." * 50_000 + "b = 1", "x = [" + "[" * 50_000])
def test_row_34_what_is_nested_beyond_reason_is_refused_at_once(text: str) -> None:
    """A key of so many parts took minutes to read, in which the process did nothing else."""
    assert "nested too deeply" in problems(text)[-1]
