"""Documents of the configuration that all nodes share: what each describes, and how they are read.

A document is one object: ``kind = "template"`` is a certificate template, kept with its comments; ``kind =
"authority"`` the settings of an authority that exists (making one needs keys: ``pkiserver ca``). Rooms above this one
bring the readers of their own kinds (:data:`Readers`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Literal, Protocol, runtime_checkable

import attrs

from pkiserver.authority.settingchecks import as_problems, contradictions
from pkiserver.authority.settings import AuthoritySettings
from pkiserver.authority.templates.library import load_template
from pkiserver.authority.templates.model import EST_OPERATIONS
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.tomlfile import (
    ConfigurationError,
    Invalid,
    Problem,
    TomlIndex,
    dump,
    load,
    parse,
    without_mark,
)


class Kind(StrEnum):
    """What a document describes."""

    TEMPLATE = "template"
    AUTHORITY = "authority"
    TIMESTAMP_UNIT = "timestamp-unit"
    CONNECTOR = "connector"
    FOREIGN_CA = "foreign-ca"
    DIRECTORY = "directory"


_KINDS = ", ".join(f'"{kind}"' for kind in Kind)


class Named(Protocol):
    """What a document says, read and checked."""

    @property
    def name(self) -> str:
        """The object's name."""


@runtime_checkable
class Certified(Named, Protocol):
    """What an authority of this server has to certify before it is of any use."""

    @property
    def issuer(self) -> str:
        """The authority's name."""


Readers = Mapping[Kind, Callable[[str, str], Named]]
"""How other rooms' documents are read: from text and file name; raises :class:`ConfigurationError`."""
SETTINGS = "settings"
"""The table of an authority's document that has its settings."""


@attrs.frozen
class AuthorityDocument:
    """The settings of one authority, as a document."""

    name: str
    kind: Literal["authority"] = "authority"
    settings: AuthoritySettings = attrs.field(factory=AuthoritySettings)

    def __attrs_post_init__(self) -> None:
        if self.name.lower() in EST_OPERATIONS:
            raise Invalid(f'"{self.name}" is an operation path of EST and cannot be a label', key="name")


@attrs.frozen
class Document:
    """One object as read from a file. ``text`` is what the database keeps; ``source`` is what the file says."""

    kind: Kind
    name: str
    text: str
    file: str
    value: Named
    source: str = attrs.field(repr=False)


@attrs.frozen
class Key:
    """Kind and name of an object."""

    kind: Kind
    name: str

    @classmethod
    def parse(cls, text: str) -> Key:
        """From ``template/tls-server``; raises :class:`Rejected`."""
        kind, _, name = text.partition("/")
        if kind not in set(Kind) or not name:
            kinds = " or ".join(f"{kind}/NAME" for kind in Kind)
            raise Rejected.because(Refusal.CONFIGURATION, f"{text!r} names no object (allowed: {kinds})")
        return cls(Kind(kind), name)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def read_documents(files: Iterable[tuple[str, str]], readers: Readers | None = None) -> tuple[Document, ...]:
    """Documents from (file name, text) pairs; those of kinds that other rooms know by their ``readers``.

    Raises:
        ConfigurationError: every problem of every file, and objects that two files describe.
    """
    problems: list[Problem] = []
    found: dict[tuple[Kind, str], Document] = {}
    for file, text in files:
        try:
            document = _read_document(file, without_mark(text), readers or {})
        except ConfigurationError as error:
            problems += error.problems
            continue
        key = (document.kind, document.name)
        if key in found:
            message = f"{document.kind} {document.name} is in {found[key].file} already"
            problems.append(Problem(file, 1, "name", message))
        found[key] = document
    if problems:
        raise ConfigurationError(problems)
    return tuple(found.values())


def _read_document(file: str, text: str, readers: Readers) -> Document:
    try:
        kind = parse(text).get("kind")
    except (tomllib.TOMLDecodeError, RecursionError):
        kind = Kind.TEMPLATE  # the loader says what is wrong, and where
    if kind is None:
        return _read_unmarked(file, text)
    if not isinstance(kind, str) or kind not in set(Kind):
        line = TomlIndex(text).line(("kind",))
        raise ConfigurationError([Problem(file, line, "kind", f"{kind!r} is no kind of object", _KINDS)])
    if kind == Kind.AUTHORITY:
        authority = load(AuthorityDocument, text, file)
        if problems := as_problems(contradictions(authority.settings), text, file, SETTINGS):
            raise ConfigurationError(problems)
        return Document(Kind.AUTHORITY, authority.name, dump(authority.settings), file, authority, text)
    if kind in readers:
        value = readers[Kind(kind)](text, file)
        return Document(Kind(kind), value.name, text, file, value, text)
    template = load_template(text, file)
    return Document(Kind.TEMPLATE, template.name, text, file, template, text)


def _read_unmarked(file: str, text: str) -> Document:
    """A document without ``kind``: a template, or a mistake that says so before all that follows from it."""
    try:
        template = load_template(text, file)
    except ConfigurationError as error:
        said = Problem(file, 1, "kind", "is missing, so this was read as a template", _KINDS)
        raise ConfigurationError([said, *error.problems]) from error
    return Document(Kind.TEMPLATE, template.name, text, file, template, text)
