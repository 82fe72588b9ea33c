"""What the scripts do on a machine where something is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A place with the script that every user can read, wherever this checkout is."""
    folder = Path(tempfile.mkdtemp(prefix="pkiserver-scripts-"))
    folder.chmod(0o755)
    shutil.copytree(ROOT / "script", folder / "script")
    yield folder
    shutil.rmtree(folder)


def bootstrap(checkout: Path, command: str, *, anybody: bool) -> subprocess.CompletedProcess[str]:
    arguments = ["bash", "-c", f". {checkout}/script/bootstrap; {command}"]
    if anybody and os.geteuid() == 0:
        arguments = [*NOBODY, *arguments]
    return subprocess.run(arguments, capture_output=True, text=True, cwd="/", check=False)


def test_without_root_the_missing_packages_are_one_line(checkout: Path) -> None:
    done = bootstrap(checkout, "need_packages bash no-such-package-a no-such-package-b; echo went on", anybody=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[1:] == ["  apt-get install -y no-such-package-a no-such-package-b"]


def test_what_is_there_is_not_installed_again(checkout: Path) -> None:
    done = bootstrap(checkout, "need_packages bash coreutils", anybody=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_modules_are_compiled_where_python_is_told_not_to_keep_what_it_compiled(checkout: Path) -> None:
    for tree in ("pkiserver", "protocols", "twisted"):
        (checkout / tree).mkdir()
    module = checkout / "pkiserver" / "one.py"
    module.write_text("X = 1\n")
    (checkout / "env" / "bin").mkdir(parents=True)
    (checkout / "env" / "bin" / "python").symlink_to(sys.executable)
    compiled = checkout / "pkiserver" / "__pycache__"
    arguments = ["bash", "-c", f". {checkout}/script/bootstrap; compile_modules"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PKISERVER_ENV": str(checkout / "env")}

    subprocess.run(arguments, env=environment, check=True)
    (first,) = compiled.iterdir()
    made = first.stat().st_ino, first.read_bytes()
    subprocess.run(arguments, env=environment, check=True)
    assert (first.stat().st_ino, first.read_bytes()) == made, "nothing changed, and nothing was done"

    module.write_text("X = 12\n")
    later = time.time() + 2
    os.utime(module, (later, later))
    subprocess.run(arguments, env=environment, check=True)
    assert first.read_bytes() != made[1], "a newer module is compiled again"


def test_a_checkout_that_cannot_be_written_to_is_no_obstacle(checkout: Path) -> None:
    (checkout / "env" / "bin").mkdir(parents=True)
    (checkout / "env" / "bin" / "python").symlink_to("/bin/false")
    arguments = ["bash", "-c", f". {checkout}/script/bootstrap; compile_modules; echo went on"]
    environment = {**os.environ, "PKISERVER_ENV": str(checkout / "env")}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "went on\n")
