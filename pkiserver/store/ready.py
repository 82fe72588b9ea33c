"""Statements that are made once and then go straight to the driver.

SQLAlchemy takes some twelve microseconds around each execution, whatever the statement; a certificate takes a dozen
executions, which were a quarter of the writer's time. What it is good for, text for either engine, is done here once
for each engine. Rows come as the driver gives them: integers, text, octets; a SQLite boolean is 0 or 1.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import attrs
from sqlalchemy import ClauseElement, Connection, Dialect, Select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler

T = TypeVar("T")


@attrs.frozen
class _Plan:
    """The text for one engine; ``names`` are the parameters in their order where it knows no names."""

    sql: str
    names: tuple[str, ...] | None
    fixed: dict[str, Any]

    def values(self, given: Mapping[str, Any]) -> Any:
        """The parameters as the driver takes them."""
        if self.names is None:
            return {**self.fixed, **given}
        return [given[name] if name in given else self.fixed[name] for name in self.names]


class Ready:
    """A statement whose parameters are numbers, text, octets, booleans or None.

    Args:
        statement: With named parameters; without lists to be expanded.
        columns: Of an INSERT: the columns that it fills by parameters of the same names.
    """

    def __init__(self, statement: ClauseElement, *, columns: Iterable[str] | None = None) -> None:
        self._statement = statement
        self._columns = None if columns is None else list(columns)
        self._plans: dict[str, _Plan] = {}
        self._row: Any = None

    def rows(self, connection: Connection, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Execute; every row of the answer. Raises what SQLAlchemy would."""

        def work(cursor: Any, plan: _Plan) -> list[tuple[Any, ...]]:
            cursor.execute(plan.sql, plan.values(values))
            found: list[tuple[Any, ...]] = cursor.fetchall()
            return found

        return self._run(connection, work)

    def named(self, connection: Connection, values: Mapping[str, Any]) -> list[Any]:
        """As :meth:`rows`, of a SELECT of columns, each row with its values by their names."""
        found = self.rows(connection, values)
        if found and self._row is None:
            assert isinstance(self._statement, Select)
            make: Any = namedtuple  # noqa: PYI024 - the columns are known when the statement is
            self._row = make("Row", [column.name for column in self._statement.selected_columns])
        return [self._row._make(one) for one in found]

    def one(self, connection: Connection, values: Mapping[str, Any]) -> Any:
        """The first row of :meth:`named`; None where there is none."""
        found = self.named(connection, values)
        return found[0] if found else None

    def count(self, connection: Connection, values: Mapping[str, Any]) -> int:
        """Execute; how many rows were written. Raises what SQLAlchemy would."""

        def work(cursor: Any, plan: _Plan) -> int:
            cursor.execute(plan.sql, plan.values(values))
            count: int = cursor.rowcount
            return count

        return self._run(connection, work)

    def many(self, connection: Connection, each: Iterable[Mapping[str, Any]]) -> None:
        """Execute for each of the given parameters. Raises what SQLAlchemy would."""
        self._run(
            connection, lambda cursor, plan: cursor.executemany(plan.sql, [plan.values(values) for values in each])
        )

    def _run(self, connection: Connection, work: Callable[[Any, _Plan], T]) -> T:
        """Call ``work`` with a cursor of the driver's and the plan for its engine."""
        plan = self._plan(connection)
        cursor = _cursor(connection)
        try:
            return work(cursor, plan)
        except Exception as error:
            raise _known(connection, cursor, plan, error) from error  # as it is, where it is not the driver's
        finally:
            cursor.close()

    def _plan(self, connection: Connection) -> _Plan:
        dialect = connection.dialect
        plan = self._plans.get(dialect.name)
        if plan is None:
            plan = self._plans[dialect.name] = _plan(self._statement, dialect, self._columns)
        return plan


def _plan(statement: ClauseElement, dialect: Dialect, columns: list[str] | None) -> _Plan:
    compiled = statement.compile(dialect=dialect, column_keys=columns)
    assert isinstance(compiled, SQLCompiler)
    names = None if compiled.positiontup is None else tuple(compiled.positiontup)
    required = {bind.key for bind in compiled.binds.values() if bind.required}
    fixed = {} if compiled.params is None else dict(compiled.params)
    return _Plan(compiled.string, names, {name: value for name, value in fixed.items() if name not in required})


def _cursor(connection: Connection) -> Any:
    if not connection.in_transaction():
        connection.begin()  # as SQLAlchemy does by itself: a read is one snapshot
    driver: Any = connection.connection.dbapi_connection
    return driver.cursor()


def _known(connection: Connection, cursor: Any, plan: _Plan, error: Exception) -> BaseException:
    """The driver's error as SQLAlchemy tells it, and nothing of the parameters in it; another error as it is."""
    dialect = connection.dialect
    kind = dialect.loaded_dbapi.Error
    if not isinstance(error, kind):
        return error
    lost = dialect.is_disconnect(error, connection.connection.dbapi_connection, cursor)
    if lost:
        connection.invalidate(error)
    return DBAPIError.instance(
        plan.sql, None, error, kind, hide_parameters=True, connection_invalidated=lost, dialect=dialect
    )
