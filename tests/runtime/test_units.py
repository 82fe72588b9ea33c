"""The systemd units that ship, as systemd's own tools judge them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pkiserver.foundation.tomlfile import load
from pkiserver.runtime.config import NodeSettings
from pkiserver.runtime.endpoints import Endpoint
from pkiserver.runtime.services.inherited import wanted_sockets

UNITS = Path(__file__).parents[2] / "conf" / "systemd"
EXAMPLE = load(NodeSettings, (UNITS.parent / "pkiserver.toml").read_text(), "pkiserver.toml")


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with a program that exists here."""
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/opt/pkiserver/bin/twistd", str(Path(sys.executable).parent / "twistd"))
        (tmp_path / unit.name).write_text(text)
    return tmp_path


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    assert program, "apt-get install systemd"
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)


def test_systemd_finds_nothing_wrong(units: Path) -> None:
    done = analyze("verify", "--man=no", *sorted(units.iterdir()))
    ours = [line for line in done.stderr.splitlines() if str(units) in line or "pkiserver" in line]
    assert (done.returncode, ours) == (0, [])


def test_the_service_is_confined(units: Path) -> None:
    done = analyze("security", "--offline=true", "--no-pager", units / "pkiserver.service")
    level = re.search(r"Overall exposure level for pkiserver.service: ([0-9.]+)", done.stdout)
    assert level, done.stdout + done.stderr
    assert float(level[1]) <= 2.0


def test_the_configuration_knows_the_sockets_names() -> None:
    names = {re.search(r"FileDescriptorName=(.*)", unit.read_text())[1] for unit in UNITS.glob("*.socket")}  # type: ignore[index]
    assert names == {f"pki-{listener}" for listener in wanted_sockets(EXAMPLE)}
    assert all(Endpoint.parse(f"systemd:{name}").host == name for name in names)


def test_the_unit_lets_the_server_wait_for_its_database_and_write_a_log_file() -> None:
    lines = (UNITS / "pkiserver.service").read_text().splitlines()
    assert "TimeoutStartSec=infinity" in lines, "systemd would kill, again and again, what waits"
    assert "LogsDirectory=pkiserver" in lines, "ProtectSystem=strict makes /var/log read-only"


def test_the_unit_waits_longer_than_the_server_drains() -> None:
    stop = re.search(r"TimeoutStopSec=(\d+)s", (UNITS / "pkiserver.service").read_text())
    assert stop
    assert int(stop[1]) >= EXAMPLE.drain.total_seconds() + 10
