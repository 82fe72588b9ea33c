"""Header fields of a request: names without case, values as Latin-1 text (RFC 9110 section 5)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache

_PRECONDITIONS = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since")


@lru_cache(maxsize=256)
def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip(" \t").lower()


class Headers:
    """An immutable list of header fields, in the order received."""

    def __init__(self, fields: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._fields = tuple(fields)
        self._by_name: dict[str, tuple[str, ...]] | None = None

    @classmethod
    def of(cls, **fields: str) -> Headers:
        """Header fields from keywords; an underscore stands for a hyphen. For tests and for callers in the process."""
        return cls((name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in fields.items())

    def get(self, name: str) -> str | None:
        """The value without surrounding blanks; several fields of one name are joined by commas (RFC 9110 5.3)."""
        values = self.get_all(name)
        return ", ".join(values) if values else None

    def get_all(self, name: str) -> tuple[str, ...]:
        """Every value under ``name``, in the order received."""
        if self._by_name is None:
            self._by_name = self._read()
        return self._by_name.get(name.lower(), ())

    def _read(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for name, value in self:
            lowered = name.lower()
            found[lowered] = (*found.get(lowered, ()), value)
        return found

    @cached_property
    def conditional(self) -> bool:
        """Whether any of them is a precondition (RFC 9110 section 13.1); worked out once for a head that is known."""
        return any(name in self for name in _PRECONDITIONS)

    def media_type(self) -> str | None:
        """Type and subtype of Content-Type in lower case, without parameters; None when absent or given twice."""
        values = self.get_all("content-type")
        return _media_type(values[0]) if len(values) == 1 else None

    def __contains__(self, name: str) -> bool:
        return bool(self.get_all(name))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for name, value in self._fields:
            yield name.decode("latin-1"), value.strip(b" \t").decode("latin-1")

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        # Values may be credentials: only names are shown.
        return f"Headers({', '.join(name.decode('latin-1') for name, _ in self._fields)})"
