"""Every bound of every setting says what is allowed, in the node's file and in the documents that apply reads."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from pkiserver.authority.documents import AuthorityDocument
from pkiserver.authority.templates.model import Template
from pkiserver.authority.validation.settings import ForeignCa
from pkiserver.foundation import tomltypes
from pkiserver.foundation.errors import Rejected
from pkiserver.publication.outward.settings import Directory
from pkiserver.registration.connectors.settings import Connector
from pkiserver.runtime.config import NodeSettings
from pkiserver.timestamping.unit import TimestampUnit

ROOTS = (NodeSettings, AuthorityDocument, Template, ForeignCa, TimestampUnit, Connector, Directory)
ABSURD: dict[type, tuple[Any, ...]] = {
    int: (-(1 << 40), -1, 0, 1 << 40),
    float: (-1.0, 0.0, float("nan"), float("inf"), 1e12),
    timedelta: (timedelta(0), timedelta(days=999_999_999)),
    str: ("", "\0", "/ ?", "x" * 300),
}


def members(kind: object) -> Iterator[object]:
    """A type and the types within it."""
    yield kind
    for one in typing.get_args(kind):
        yield from members(one)


def classes(kind: type, seen: dict[type, None]) -> dict[type, None]:
    if kind not in seen:
        seen[kind] = None
        for field in tomltypes.fields(kind):
            for one in members(field.type):
                if (found := tomltypes.attrs_class(one)) is not None:
                    classes(found, seen)
    return seen


def fields() -> Iterator[tuple[str, tomltypes.Field, Any]]:
    found: dict[type, None] = {}
    for root in ROOTS:
        classes(root, found)
    for kind in found:
        for field in tomltypes.fields(kind):
            for one in members(field.type):
                if field.attribute.validator is not None and one in ABSURD:
                    yield f"{kind.__name__}.{field.name}", field, one


FIELDS = list(fields())


def test_every_room_is_looked_at() -> None:
    names = {name for name, _, _ in FIELDS}
    assert len(names) > 80
    assert {"CrlPolicy.validity", "PasswordSettings.passes", "TokenSettings.threads", "ForeignCa.tolerance"} <= names


def without_help(error: Exception) -> list[str]:
    """What an error says, if it does not say what is allowed."""
    if isinstance(error, ExceptionGroup):
        return [text for one in error.exceptions for text in without_help(one)]
    if len(error.args) == 4 and isinstance(error.args[2], range):  # attrs' own, which the loader words
        return []
    helpful = getattr(error, "allowed", None) or "allowed: " in str(error) or "must be one of" in str(error)
    return [] if helpful else [repr(error)]


@pytest.mark.parametrize(
    ("field", "kind"), [(field, kind) for _, field, kind in FIELDS], ids=[name for name, _, _ in FIELDS]
)
def test_a_value_out_of_bounds_is_refused_with_what_is_allowed(field: tomltypes.Field, kind: type) -> None:
    validator: Any = field.attribute.validator
    found = []
    for value in ABSURD[kind]:
        given = (value,) if str(field.type).startswith("tuple") else value
        try:
            validator(object(), field.attribute, given)
        except (ValueError, Rejected, ExceptionGroup) as error:
            found += without_help(error)
    assert found == []
