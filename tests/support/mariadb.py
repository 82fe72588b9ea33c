"""A MariaDB server of the test's own: on loopback, in a folder that is thrown away."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pymysql
import pytest

from tests.support.ports import free_port

INSTALL = "MariaDB's programs are missing; install them with: apt-get install -y mariadb-server"


class MariaDb:
    """A started server with the database ``customer`` and the user ``reader``; with ``tls`` for nobody without."""

    def __init__(self, password: str, *, tls: tuple[Path, Path] | None = None) -> None:
        server, installer = (
            shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin"),
            shutil.which("mariadb-install-db"),
        )
        if server is None or installer is None:
            pytest.fail(INSTALL)
        self.folder = Path(tempfile.mkdtemp(prefix="pkiserver-mariadb-"))
        shutil.chown(self.folder, "mysql")
        self.port = free_port()
        data = self.folder / "data"
        common = ["--no-defaults", f"--datadir={data}", "--user=mysql"]
        subprocess.run(
            [installer, *common, "--auth-root-authentication-method=normal", "--skip-test-db"],
            check=True,
            capture_output=True,
            timeout=60,
        )
        self.socket = self.folder / "socket"
        command = [
            server, *common, f"--port={self.port}", "--bind-address=127.0.0.1", f"--socket={self.socket}",
            f"--pid-file={self.folder / 'pid'}", "--innodb-flush-log-at-trx-commit=0", "--skip-name-resolve",
        ]  # fmt: skip
        if tls is not None:
            certificate, key = (shutil.copy(one, self.folder) for one in tls)
            shutil.chown(key, "mysql")
            command += [f"--ssl-cert={certificate}", f"--ssl-key={key}", "--require-secure-transport=ON"]
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self._wait()
        self.run("CREATE DATABASE customer", f"CREATE USER reader@'127.0.0.1' IDENTIFIED BY '{password}'")
        self.run("GRANT SELECT ON customer.* TO reader@'127.0.0.1'")

    def run(self, *statements: str, database: str | None = None) -> None:
        """Run statements as the administrator."""
        with (
            pymysql.connect(
                unix_socket=str(self.socket), user="root", database=database, autocommit=True
            ) as connection,
            connection.cursor() as cursor,
        ):
            for statement in statements:
                cursor.execute(statement)

    def discard(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait(self) -> None:
        for _ in range(600):
            try:
                self.run("SELECT 1")
            except pymysql.OperationalError:
                assert self.process.poll() is None, (self.folder / "log").read_text(errors="replace")
                time.sleep(0.05)
            else:
                return
        raise AssertionError((self.folder / "log").read_text(errors="replace"))
