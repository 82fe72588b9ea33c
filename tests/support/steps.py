"""How much work a query is to SQLite, by its own count: a clock would tell more of the machine than of the query."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from sqlalchemy import Connection


def steps_of(connection: Connection, ask: Callable[[Connection], object]) -> int:
    """Steps of SQLite's machine while something is asked."""
    driver = connection.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    driver.set_progress_handler(step, 1)
    try:
        ask(connection)
    finally:
        driver.set_progress_handler(None, 1)
    return count
