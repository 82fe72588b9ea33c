"""Pages of a table by number, newest first, where somebody may see a part of it only.

Each part is a range of an index in the order of the numbers. What is outside the parts is never looked at, however much
there is of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Row, select


def newest_of(
    connection: Connection, number: Column[int], parts: Iterable[ColumnElement[bool]], limit: int
) -> tuple[Row[Any], ...]:
    """Up to ``limit`` rows that are in one of the parts, those with the highest numbers first.

    Args:
        connection: Of a read.
        number: The column by which the table is numbered.
        parts: Conditions of which no two hold for the same row.
        limit: Rows at most.
    """
    found: list[int] = []
    for part in parts:
        found += connection.execute(select(number).where(part).order_by(number.desc()).limit(limit)).scalars()
    chosen = sorted(found, reverse=True)[:limit]
    table = number.table
    return tuple(connection.execute(select(table).where(number.in_(chosen)).order_by(number.desc())))
