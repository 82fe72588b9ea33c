"""The pages under docs/ have every command, and whatever they link is there; --help explains every option."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pkiserver.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
]


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from commands(found, (*path, name))
        else:
            yield " ".join((*path, name)), found


def test_the_page_of_commands_has_every_one_and_no_other() -> None:
    listed = re.findall(
        r"^\| `([a-z -]+?)(?: [A-Z\[{].*?)?` \|", (ROOT / "docs" / "commands.md").read_text(), re.MULTILINE
    )
    assert sorted(listed) == sorted(name for name, _ in commands(cli))


def test_help_says_what_every_command_and_option_is_for() -> None:
    silent = [name for name, command in commands(cli) if not command.help]
    silent += [
        f"{name} {option.opts[0]}"
        for name, command in commands(cli)
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ]
    assert silent == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_is_there(page: Path) -> None:
    text = page.read_text()
    missing = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, heading = link.partition("#")
        if "://" in file:
            continue
        target = page if not file else page.parent / file
        if not target.exists() or (heading and heading not in headings(target)):
            missing.append(link)
    missing += [name for name in re.findall(r"docs/[a-z/]+\.md", text) if not (ROOT / name).exists()]
    assert missing == []


def headings(page: Path) -> set[str]:
    """The anchors that a page has, as code forges make them."""
    found = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-") for title in found}
