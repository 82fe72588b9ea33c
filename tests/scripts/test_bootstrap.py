"""What the scripts do on a machine where something is missing."""

from __future__ import annotations

import os
import shutil
import signal
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


def test_each_checkout_of_an_environment_is_compiled(checkout: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for one in (other, checkout):
        for tree in ("pkiserver", "protocols", "twisted"):
            (one / tree).mkdir(parents=True)
        (one / "pkiserver" / "one.py").write_text("X = 1\n")
    shutil.copytree(checkout / "script", other / "script")
    (checkout / "env" / "bin").mkdir(parents=True)
    (checkout / "env" / "bin" / "python").symlink_to(sys.executable)
    environment = {**os.environ, "PKISERVER_ENV": str(checkout / "env")}
    for one in (checkout, other):
        subprocess.run(["bash", "-c", f". {one}/script/bootstrap; compile_modules"], env=environment, check=True)
        assert (one / "pkiserver" / "__pycache__").is_dir()


def test_a_checkout_that_cannot_be_written_to_is_no_obstacle(checkout: Path) -> None:
    (checkout / "env" / "bin").mkdir(parents=True)
    (checkout / "env" / "bin" / "python").symlink_to("/bin/false")
    arguments = ["bash", "-c", f". {checkout}/script/bootstrap; compile_modules; echo went on"]
    environment = {**os.environ, "PKISERVER_ENV": str(checkout / "env")}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "went on\n")


PYTHON = """\
#!/bin/sh
echo "$(basename "$(dirname "$(dirname "$0")")"): $*" >>{log}
case "$*" in
*"-m venv"*)
    for target; do :; done
    case "$*" in *--clear*) rm -rf "$target" ;; esac
    mkdir -p "$target/bin"
    touch "$target/pyvenv.cfg"
    cp "$0" "$target/bin/python"
    echo "#!$target/bin/python" >"$target/bin/pip"
    sleep 0.3
    ;;
"-m pip --version") [ -e "$(dirname "$0")/pip" ] ;;
esac
"""


class Environment:
    """A checkout with a stand-in for Python that writes down what it is asked for, and makes environments at once."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self.folder = checkout / ".venv"
        self.log = checkout / "log"
        self.log.touch()
        (checkout / "setup.cfg").write_text("[metadata]\n")
        python = checkout / "system" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(PYTHON.format(log=self.log))
        python.chmod(0o755)
        self.python = python

    def command(self) -> list[str]:
        return ["bash", "-c", f". {self.checkout}/script/bootstrap; make_environment ''"]

    def make(self) -> list[str]:
        """Make it; what Python was asked for: ``venv``, ``install``."""
        before = len(self.log.read_text().splitlines())
        subprocess.run(self.command(), env=self.variables(), check=True, capture_output=True)
        return self.asked(before)

    def variables(self) -> dict[str, str]:
        return {**os.environ, "PYTHON": str(self.python), "PKISERVER_ENV": str(self.folder)}

    def asked(self, since: int = 0) -> list[str]:
        lines = self.log.read_text().splitlines()[since:]
        found = ["venv" if " -m venv" in one else "install" for one in lines if " -m venv" in one or " -e ." in one]
        assert all(".venv:" in one for one in lines if " -e ." in one), "what is installed is installed in there"
        return found


@pytest.fixture
def environment(checkout: Path) -> Environment:
    return Environment(checkout)


def test_an_environment_is_made_once(environment: Environment) -> None:
    assert environment.make() == ["venv", "install"]
    assert environment.make() == []
    (environment.checkout / "setup.cfg").write_text("[metadata]\nname = other\n")
    assert environment.make() == ["install"]


def test_an_environment_whose_making_was_interrupted_is_made_anew(environment: Environment) -> None:
    environment.make()
    (environment.folder / ".pkiserver-stamp").unlink()
    (environment.folder / "bin" / "pip").unlink()
    assert environment.make() == ["venv", "install"]


def test_an_environment_whose_python_is_gone_is_made_anew(environment: Environment) -> None:
    """As after an upgrade of the system: what is left is a link to nowhere."""
    environment.make()
    (environment.folder / "bin" / "python").unlink()
    (environment.folder / "bin" / "python").symlink_to("/nowhere/python3.10")
    assert environment.make() == ["venv", "install"]


def test_an_environment_that_was_moved_with_its_checkout_is_made_anew(environment: Environment) -> None:
    """Its programs begin with the path of the old one's Python."""
    environment.make()
    (environment.checkout / "moved").mkdir()
    environment.folder = environment.folder.rename(environment.checkout / "moved" / ".venv")
    (environment.folder / ".pkiserver-stamp").write_text("made elsewhere\n")
    assert environment.make() == ["venv", "install"]


def test_two_who_make_an_environment_at_once_make_it_once(environment: Environment) -> None:
    both = [
        subprocess.Popen(environment.command(), env=environment.variables(), stderr=subprocess.DEVNULL) for _ in "ab"
    ]
    assert [one.wait(30) for one in both] == [0, 0]
    assert environment.asked() == ["venv", "install"]


def test_an_interrupted_installation_leaves_no_ban_on_starting_services(checkout: Path) -> None:
    """It is for the packages that are installed; left behind, no service would start with its installation any more."""
    programs, system = checkout / "programs", checkout / "sbin"
    for folder in (programs, system):
        folder.mkdir()
    begun, ban = checkout / "begun", system / "policy-rc.d"
    (programs / "apt-get").write_text(f"#!/bin/sh\ncp {ban} {begun}\nexec sleep 60\n")
    (programs / "apt-get").chmod(0o755)
    script = f". {checkout}/script/bootstrap; need_packages no-such-package"
    inside = f"mount --bind {system} /usr/sbin && PATH={programs}:$PATH exec bash -c '{script}'"
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    process = subprocess.Popen(
        [*unshare, "bash", "-c", inside], start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    while not begun.exists() and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert begun.read_text() == "#!/bin/sh\nexit 101\n", said
    assert not ban.exists()
