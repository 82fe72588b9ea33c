"""What tables are made of: kinds of columns, each said once; a column may be empty only where it says ``optional``."""

from __future__ import annotations

from typing import Any

import attrs
from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, LargeBinary, MetaData, Text
from sqlalchemy import text as sql
from sqlalchemy.types import TypeEngine

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


@attrs.frozen
class Kind:
    """A kind of column; calling it with a name makes one."""

    type: TypeEngine[Any] | type[TypeEngine[Any]]

    def __call__(
        self,
        name: str,
        *,
        key: bool = False,
        optional: bool = False,
        unique: bool = False,
        index: bool = False,
        of: str = "",
    ) -> Column[Any]:
        """A column of this kind.

        Args:
            name: its name.
            key: it is the primary key, or a part of it, and never numbered by the database.
            optional: it may be NULL.
            unique: no two rows have the same.
            index: rows are found by it.
            of: ``table.column`` that it refers to, as a foreign key.
        """
        references = (ForeignKey(of),) if of else ()
        return Column(
            name,
            self.type,
            *references,
            primary_key=key,
            nullable=optional,
            unique=unique or None,
            index=index or None,
            autoincrement=False if key else "auto",
        )


_NUMBERED = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows by itself only where it reads INTEGER

identity = Kind(_NUMBERED)
"""The number of a row that another table numbered."""
number = Kind(BigInteger)
"""A whole number of 64 bits: sequences, CRL numbers, and rows of tables without a foreign key."""
small = Kind(Integer)
"""A whole number of 32 bits: counts and codes."""
moment = Kind(BigInteger)
"""A time in microseconds since 1970, UTC (:mod:`pkiserver.store.times`)."""
flag = Kind(Boolean)
octets = Kind(LargeBinary)
"""DER, hashes, serial numbers, sealed values."""
text = Kind(Text)
"""Text that is kept and shown, never searched."""
ordered = Kind(Text().with_variant(Text(collation="C"), "postgresql"))
"""Text that is compared by octets, so that a prefix is a range: names, kinds, states."""


def row_number() -> Column[Any]:
    """``id``, which the database numbers."""
    return Column("id", _NUMBERED, primary_key=True)


def partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """An index over the rows for which ``where`` (SQL) holds."""
    return Index(name, *columns, unique=unique, sqlite_where=sql(where), postgresql_where=sql(where))
