"""A PostgreSQL server of the test run's own: started on loopback as the ``postgres`` user, thrown away afterwards.

The fixtures are known everywhere, through ``tests/conftest.py``, so that one server does for the whole run.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.support.ports import free_port

INSTALL = "PostgreSQL's programs are missing; install them with: apt-get install -y postgresql"
_AS_POSTGRES = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")


class PostgresServer:
    """A started server; :meth:`new_url` gives a fresh, empty database each time."""

    def __init__(self) -> None:
        self.bin = _programs()
        self.folder = Path(tempfile.mkdtemp(prefix="pkiserver-pg-"))
        shutil.chown(self.folder, "postgres")
        self.port = free_port()
        self._run("initdb", "-D", str(self.data), "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8")
        self.start()

    @property
    def data(self) -> Path:
        """The server's data folder."""
        return self.folder / "data"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = (
            f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories={self.folder}"
            " -c max_connections=200"
        )
        self._run("pg_ctl", "-D", str(self.data), "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def only_tls(self, certificate: Path, key: Path) -> None:
        """From now on TLS with these files, and nobody without."""
        for source, name in ((certificate, "server.crt"), (key, "server.key")):
            target = self.data / name
            shutil.copy(source, target)
            shutil.chown(target, _owner(self.data))
            target.chmod(0o600)
        with (self.data / "postgresql.conf").open("a") as file:
            file.write("ssl = on\n")
        (self.data / "pg_hba.conf").write_text("local all all trust\nhostssl all all 127.0.0.1/32 trust\n")
        self.stop()
        self.start()

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; ``immediate`` is a crash."""
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", mode, "stop")

    def new_url(self) -> str:
        """The URL of a database that nobody has used."""
        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(self._admin, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def end_connections(self, url: str) -> None:
        """Let the server end every connection to one database, as an administrator may."""
        name = conninfo_to_dict(url)["dbname"]
        with psycopg.connect(self._admin, autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))

    def copy(self, url: str) -> str:
        """Copy a database as it is, which ends every connection to it; the copy's name."""
        name, copy = conninfo_to_dict(url)["dbname"], f"t{uuid.uuid4().hex}"
        with self._alone(name) as connection:
            connection.execute(f'CREATE DATABASE "{copy}" TEMPLATE "{name}"')
        return copy

    def fail_over(self, url: str, copy: str) -> None:
        """Let a copy take a database's place, as a replica does that had not got the last transactions."""
        name = conninfo_to_dict(url)["dbname"]
        with self._alone(name) as connection:
            connection.execute(f'ALTER DATABASE "{name}" RENAME TO "{name}-lost"')
            connection.execute(f'ALTER DATABASE "{copy}" RENAME TO "{name}"')

    @contextmanager
    def _alone(self, name: str | int | None) -> Iterator[psycopg.Connection[Any]]:
        """A connection for administration, while nobody can connect to a database."""
        with psycopg.connect(self._admin, autocommit=True) as connection:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            try:
                connection.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,)
                )
                yield connection
            finally:
                connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')

    @contextmanager
    def away(self, url: str) -> Iterator[None]:
        """Nobody can connect to a database while the block runs, and who was connected is no longer."""
        with self._alone(conninfo_to_dict(url)["dbname"]):
            yield

    def discard(self) -> None:
        """Stop the server and remove its files."""
        try:
            self.stop("immediate")
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _admin(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*_AS_POSTGRES, str(self.bin / program), *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a pipe would stay open in the started server
            stderr=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
        if done.returncode:
            log = self.folder / "log"
            raise RuntimeError(f"{program} failed: {log.read_text() if log.exists() else done.returncode}")


def _owner(path: Path) -> int:
    return path.stat().st_uid


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        pytest.fail(INSTALL)
    return found[-1].parent


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL server for the whole run."""
    server = PostgresServer()
    yield server
    server.discard()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of a fresh PostgreSQL database."""
    return postgres_server.new_url()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, once on each engine."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    return str(request.getfixturevalue("postgres_server").new_url())


@pytest.fixture
def url(empty_url: str) -> str:
    """The same; the store's own tests get one with the schema under this name."""
    return empty_url
