"""The command line as its user meets it: real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.commands import PKISERVER


def pkiserver(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PKISERVER, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**{k: v for k, v in os.environ.items() if k != "PKISERVER_CONFIG"}, **environment},
    )


def test_help_lists_the_commands_and_loads_none_of_them() -> None:
    program = (
        "import sys; from pkiserver.cli.main import run; code = run(['--help'])\n"
        "slow = {'twisted', 'cryptography', 'sqlalchemy', 'rich', 'pkcs11'} & set(sys.modules)\n"
        "assert not slow, slow; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "completion" in done.stdout


def test_what_a_command_leaves_behind_is_not_looked_over_at_its_end() -> None:
    program = (
        "import atexit, gc, sys; from pkiserver.cli.main import main; sys.argv[1:] = ['config', 'example']\n"
        "atexit.register(lambda: print(len(gc.get_objects()), file=sys.stderr)); main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stderr) < 100
    assert "[database]" in done.stdout


def test_every_listed_command_loads_and_takes_the_common_options() -> None:
    import click

    from pkiserver.cli.main import cli

    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        assert {"--json", "--config"} <= {option for parameter in command.params for option in parameter.opts}, name


def test_without_a_configuration_the_places_are_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [*PKISERVER, "config", "check"], capture_output=True, text=True, check=False, cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PKISERVER_CONFIG"},
    )  # fmt: skip
    assert done.returncode == 2
    assert "give --config FILE or set PKISERVER_CONFIG" in done.stderr


@pytest.mark.parametrize("order", ["before", "after"])
def test_every_problem_of_a_configuration_is_one_line(tmp_path: Path, order: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text('workers = "many"\nno_such_key = 1\n')
    options = ["--config", str(file)]
    done = pkiserver(*options, "config", "check") if order == "before" else pkiserver("config", "check", *options)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert any(f"{file}:1: workers:" in line for line in lines)
    assert any(f"{file}:2: no_such_key: unknown key" in line for line in lines)


def test_errors_as_json(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("workers = -1\n")
    done = pkiserver("config", "check", "--json", PKISERVER_CONFIG=str(file))
    answer = json.loads(done.stderr)
    assert done.returncode == answer["exit_code"] == 1
    assert answer["error"][0]["code"] == "configuration"


EXITS = """
import os, signal
import click
from pkiserver.cli import main, context
from pkiserver.foundation.errors import *

@click.command()
@click.argument("how")
@context.reactor_command
async def command(session, how):
    if how == "rejected":
        raise Rejected([Reason(Refusal.LIMIT, "too much"), Reason(Refusal.LINT, "bad\\x1b[31mlint")])
    if how == "unavailable":
        raise Unavailable("the token is away")
    if how == "defect":
        raise Defect("it cannot be")
    if how == "bug":
        raise ZeroDivisionError("secret detail")
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred
    if how == "hang":
        reactor.callLater(0.1, os.kill, os.getpid(), signal.SIGINT)
        await Deferred()
    session.output.table([{"name": "a\\u202eb", "count": 3}])

main.LazyGroup.get_command = lambda self, ctx, name: (context.add_common_options(command), command)[1]
main.main()
"""


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("rejected", 1, "error: too much\nerror: bad\\x1b[31mlint\n"),
        ("unavailable", 75, "error: not available now: the token is away\n"),
        ("defect", 70, "error: internal error: it cannot be; the report is in "),
        ("bug", 70, "error: internal error; the report is in "),
        ("hang", 130, "interrupted\n"),
        ("well", 0, ""),
    ],
)
def test_each_kind_of_failure_has_its_exit_code_and_no_traceback(how: str, code: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXITS, "x", how], capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stderr[: len(said)]) == (code, said)
    assert "Traceback" not in done.stderr
    assert "secret detail" not in done.stderr
    if code == 70:
        report = Path(done.stderr.strip().rsplit(" ", 1)[1])
        assert report.stat().st_mode & 0o777 == 0o600
        assert "Traceback" in report.read_text()
        report.unlink()
    if how == "well":
        assert "a\\u202eb" in done.stdout


def table(rows: list[dict[str, object]], columns: int) -> list[str]:
    """The lines of a table on a terminal of that width."""
    program = f"from pkiserver.cli.output import Output\nOutput(json=False).table({rows!r})"
    environment = {**os.environ, "COLUMNS": str(columns)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    return lines


def test_ctrl_c_while_the_command_is_loaded_is_answered_in_a_word(tmp_path: Path) -> None:
    hook = """
        import os, signal, sys

        class Finder:
            def find_spec(self, name, path=None, target=None):
                if name == "click":
                    os.kill(os.getpid(), signal.SIGINT)

        sys.meta_path.insert(0, Finder())
    """
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(hook))
    done = subprocess.run(
        [Path(sys.executable).parent / "pkiserver", "config", "example"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_octets_that_are_no_utf_8_are_refused_with_their_place(tmp_path: Path) -> None:
    """As a spreadsheet on Windows saves a list of people, and as a terminal of another locale types."""
    from pkiserver.cli.selectors import read_text
    from pkiserver.foundation.tomlfile import ConfigurationError

    people = tmp_path / "people.csv"
    people.write_bytes("name,mail\nalice,a@example.org\nJosé,j@example.org\n".encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"people\.csv:3: .*is no UTF-8 text \(octet E9\): save it as UTF-8"):
        read_text(people)
    odd = [os.fsencode(one) for one in PKISERVER] + [b"account", b"show", b"Jos\xe9"]
    typed = subprocess.run(odd, capture_output=True, text=True, timeout=60, check=False)
    assert typed.returncode == 2
    assert "is no UTF-8 text" in typed.stderr


def test_a_table_fits_the_terminal() -> None:
    rows: list[dict[str, object]] = [{"subject": "CN=" + "x" * 200, "state": "issued"}] * 2
    assert "".join(table(rows, 60)).count("x") == 400


def test_no_word_of_a_table_is_broken_where_there_is_room() -> None:
    row: dict[str, object] = {
        "serial": "7432ad369ce499b976279d0e424c7e55fe24b0fe",
        "subject": "CN=OCSP responder root 1.20261121",
        "next_update": "2026-11-22 19:38:50Z",
        "entries": 1234,
    }
    words = {word for value in row.values() for word in str(value).split()}
    wide = table([row, row], 120)
    assert wide[0].split() == ["serial", "subject", "next", "update", "entries"]
    assert [line.split()[0] for line in wide[1:]] == [row["serial"]] * 2
    narrow = table([row, row], 80)
    assert narrow[0].split()[:2] == ["serial", "subject"]
    assert words <= set(" ".join(narrow).split())
    # where words would have to be broken, a block for each row
    blocks = table([row, row], 60)
    assert words <= set(" ".join(blocks).split())
    assert [line.split()[0] if line else "" for line in blocks] == [
        *("serial", "subject", "next", "entries"), "", *("serial", "subject", "next", "entries"),
    ]  # fmt: skip


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    done = pkiserver("completion", shell)
    assert done.returncode == 0
    assert "_PKISERVER_COMPLETE" in done.stdout


def test_bash_completes_commands() -> None:
    done = pkiserver(_PKISERVER_COMPLETE="bash_complete", COMP_WORDS="pkiserver comp", COMP_CWORD="1")
    assert done.stdout.strip() == "plain,completion"
