"""The SQL connector: one parameterised query on a table of the customer's own, in threads of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from threading import Event
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import URL, Engine, RowMapping, create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from pkiserver.foundation.errors import Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.keys.secrets_by_reference import SecretUnreadable
from pkiserver.outbound.dial import within
from pkiserver.registration.connectors import hashes
from pkiserver.registration.connectors.credentials import credential_problem, outcome_finding
from pkiserver.registration.connectors.mapping import mapped
from pkiserver.registration.connectors.names import spelled
from pkiserver.registration.connectors.sqlpeer import peer_problem
from pkiserver.registration.connectors.sqlsettings import SqlSettings
from pkiserver.registration.connectors.sqltrouble import is_other_alphabet, step, words
from pkiserver.registration.connectors.values import Challenge, Denied, Finding, Outcome, Shown, Step

T = TypeVar("T")
THREADS = 4
Row = dict[str, object]
USERID = "userid"
"""The column with the name as the table spells it, where the query gives one."""


class SqlConnector:
    """Checks names and passwords against a table."""

    def __init__(self, name: str, settings: SqlSettings) -> None:
        self.name = name
        self.settings = settings
        self._engine: Engine | None = None
        self._pool = ThreadPool(0, THREADS, f"connector {name}")
        self._pool.start()
        self._like: str | None = None

    async def authenticate(self, name: str, password: Secret, answering: Challenge | None = None) -> Outcome:  # noqa: ARG002
        """Who it is; raises :class:`Unavailable`."""
        if problem := credential_problem(name, password):
            return problem
        try:
            outcome = await self._run(lambda: self._authenticate(name, password))
        except (SQLAlchemyError, SecretUnreadable) as error:
            raise Unavailable(f"connector {self.name}: {words(error)}", retry_after=30) from error
        return self._settled(outcome)

    def _settled(self, outcome: Outcome) -> Outcome:
        """An outcome about somebody; raises :class:`Unavailable` where it is about the settings."""
        if isinstance(outcome, Denied) and outcome.step is Step.SETTINGS:
            raise Unavailable(f"connector {self.name}: {outcome.text}", retry_after=30)
        return outcome

    async def lookup(self, name: str) -> Outcome:
        """Who it is today, by the query alone; raises :class:`Unavailable`."""
        try:
            outcome = await self._run(lambda: self._shown(name, self._row(name)))
        except (SQLAlchemyError, SecretUnreadable) as error:
            raise Unavailable(f"connector {self.name}: {words(error)}", retry_after=30) from error
        return self._settled(outcome)

    @property
    def can_look_up(self) -> bool:
        """Yes: the query needs no password."""
        return True

    async def check(self, name: str | None, password: Secret | None) -> tuple[Finding, ...]:
        """Connect, run the query, verify the password."""
        server = make_url(self.settings.url).render_as_string(hide_password=True)
        try:
            if name is None:
                tried = await self._run(lambda: self._row("pkiserver-check"))
                if isinstance(tried, Denied) and tried.step is Step.SETTINGS:
                    return (outcome_finding(server, tried),)
                return (Finding(Step.FINE, server, "the query runs"),)
            outcome: Outcome
            if password is None:
                outcome = self._shown(name, await self._run(lambda: self._row(name)))
            elif (problem := credential_problem(name, password)) is not None:
                outcome = problem
            else:
                outcome = await self._run(lambda: self._authenticate(name, password))
        except SecretUnreadable as error:
            return (Finding(Step.SETTINGS, server, str(error)),)
        except SQLAlchemyError as error:
            return (Finding(step(error), server, await self._why(error)),)
        except Unavailable as error:
            return (Finding(Step.SILENT, server, error.text),)
        return (outcome_finding(server, outcome),)

    async def _why(self, error: SQLAlchemyError) -> str:
        """What a check says of an error: of a certificate that is not trusted, for which name it is and by whom."""
        trust, seconds = self.settings.trust, self.settings.connect_timeout.total_seconds()
        if step(error) is not Step.TLS or trust is None:
            return words(error)
        try:
            problem = await self._run(lambda: peer_problem(self.settings.url, trust.path, seconds))
        except Unavailable:
            problem = None
        return problem or words(error)

    def close(self) -> None:
        """End the threads, once they have finished; close the database's connections."""
        reactor: Any = _reactor
        engine = self._engine

        def end() -> None:
            self._pool.stop()
            if engine is not None:
                engine.dispose()

        if self._pool.workers:
            # a thread may wait for a database that is away: that wait must not be the reactor's
            reactor.callInThread(end)
        else:
            end()

    async def _run(self, work: Callable[[], T]) -> T:
        """Run work in a thread, and wait for it no longer than connecting and answering may take.

        What nobody waits for any more when its turn comes is not begun: after an outage it would stand before those
        who come then.
        """
        if self._pool.joined:  # which would take the work, and never do it
            raise Unavailable(f"connector {self.name}: its settings have just changed", retry_after=1)
        limits = self.settings.connect_timeout + self.settings.answer_timeout
        silent = Unavailable(f"connector {self.name}: the database does not answer", retry_after=30)
        given_up = Event()

        def unless_given_up() -> T:
            if given_up.is_set():
                raise silent
            return work()

        running: Deferred[T] = deferToThreadPool(IReactorThreads(_reactor), self._pool, unless_given_up)
        try:
            return await within(running, limits.total_seconds() + 1, lambda: silent)
        finally:
            given_up.set()

    def _authenticate(self, name: str, password: Secret) -> Outcome:
        row = self._row(name)
        stored = None if isinstance(row, Denied) else row.get(self.settings.password_column)
        if isinstance(stored, bytes):
            stored = stored.decode(errors="replace")
        known = isinstance(stored, str) and hashes.format_of(stored.strip()) in self.settings.formats
        if known:
            self._like = str(stored).strip()
        right = hashes.verify(str(stored).strip() if known else self._decoy(), password.reveal(), self.settings.formats)
        if isinstance(row, Denied):
            return row
        if not known:
            return Denied(Step.PASSWORD, self._unusable(stored))
        if not right:
            return Denied(Step.PASSWORD, "the password is another")
        return self._shown(name, row)

    def _unusable(self, stored: object) -> str:
        """Why what the password's column holds is not compared, without showing any of it."""
        formats = ", ".join(self.settings.formats)
        kind = hashes.format_of(stored.strip()) if isinstance(stored, str) else None
        what = f"is a hash of the format {kind}" if kind is not None else "is no hash of a known format"
        what = what if stored else "is empty"
        return f"column {self.settings.password_column} {what} (allowed by formats: {formats})"

    def _decoy(self) -> str:
        """A hash like those of the table, so that a name that does not exist takes as long."""
        return self._like or hashes.decoy(self.settings.formats)

    def _row(self, name: str) -> Row | Denied:
        try:
            given, rows = self._asked(name)
        except (SQLAlchemyError, UnicodeEncodeError) as error:
            if is_other_alphabet(error):
                return Denied(Step.USER, "the database's character set cannot write the name")
            raise
        if missing := [column for column in self._columns() if column not in given]:
            what = f"the query gives no column {', '.join(missing)} (it gives: {', '.join(sorted(given))})"
            return Denied(Step.SETTINGS, what)
        if len(rows) != 1:
            return Denied(Step.USER, "the query finds nobody" if not rows else "the query finds more than one row")
        return {str(key): value for key, value in rows[0].items()}

    def _asked(self, name: str) -> tuple[set[str], Sequence[RowMapping]]:
        """The query's columns, and its first two rows."""
        with self._connected().connect() as connection:
            result = connection.execute(text(self.settings.query), {"userid": name}).mappings()
            return set(result.keys()), result.fetchmany(2)

    def _columns(self) -> tuple[str, ...]:
        """Those that the settings name."""
        settings = self.settings
        groups = () if settings.groups is None else (settings.groups,)
        return (settings.password_column, *groups, *(one.source for one in settings.attributes))

    def _shown(self, name: str, row: Row | Denied) -> Shown | Denied:
        if isinstance(row, Denied):
            return row
        settings = self.settings
        groups: frozenset[str] = frozenset()
        if settings.groups is not None:
            texts = _texts(row, settings.groups)
            groups = frozenset(part.strip() for one in texts for part in one.split(settings.groups_separator)) - {""}
        if settings.required_groups and not groups.intersection(settings.required_groups):
            wanted = ", ".join(settings.required_groups)
            return Denied(Step.GROUP, f"the user is in none of the required groups: {wanted}", proved=True)
        attributes = mapped(settings.attributes, lambda source: _texts(row, source))
        return attributes if isinstance(attributes, Denied) else Shown(_name(name, row), groups, attributes)

    def _connected(self) -> Engine:
        if self._engine is None:
            self._engine = self._new_engine()
        return self._engine

    def _new_engine(self) -> Engine:
        settings = self.settings
        connect, answer = settings.connect_timeout.total_seconds(), settings.answer_timeout.total_seconds()
        url: URL = make_url(settings.driver_url)
        if settings.password is not None:
            url = url.set(password=settings.password.read().reveal_text())
        if settings.trust is not None and not os.access(settings.trust.path, os.R_OK):
            raise SecretUnreadable(f"trust: {settings.trust.path} cannot be read")
        arguments: dict[str, object] = {"timeout": answer}
        if settings.scheme == "postgresql":
            trust = {"sslmode": "verify-full", "sslrootcert": str(settings.trust.path)} if settings.trust else {}
            arguments = {
                "connect_timeout": max(2, round(connect)),
                "options": f"-c statement_timeout={int(answer * 1000)} -c default_transaction_read_only=on",
                "tcp_user_timeout": int(answer * 1000),
                **(trust or {"sslmode": "prefer"}),
            }
        elif settings.scheme != "sqlite":
            timeouts = {"connect_timeout": max(1, round(connect)), "read_timeout": answer, "write_timeout": answer}
            tls = {"ssl": {"ca": str(settings.trust.path), "check_hostname": True}} if settings.trust else {}
            arguments = {**timeouts, **tls}
        else:
            # a file that is not there must not be made by looking
            url = url.set(database=f"file:{quote(url.database or '')}", query={"mode": "ro", "uri": "true"})
        kept = {} if settings.scheme == "sqlite" else {"pool_size": THREADS, "max_overflow": 0, "pool_timeout": connect}
        return create_engine(url, pool_pre_ping=True, connect_args=arguments, hide_parameters=True, **kept)


def _name(typed: str, row: Row) -> str:
    """As the table spells it: a database may find ``alice`` for ``ALICE``, and for ``álice``."""
    return spelled(typed, _texts(row, USERID))


def _texts(row: Row, column: str) -> list[str]:
    value = row.get(column)
    if value is None:
        return []
    if isinstance(value, list | tuple):
        return [str(one) for one in value]
    return [value.decode(errors="replace") if isinstance(value, bytes) else str(value)]
