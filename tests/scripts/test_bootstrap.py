"""What the scripts do on a machine where something is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
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
