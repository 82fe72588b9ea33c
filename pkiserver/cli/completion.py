"""``pkiserver completion``: the script that teaches a shell our commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    r"""Print the completion script of a shell.

    \b
    bash:  eval "$(pkiserver completion bash)"       in ~/.bashrc
    zsh:   eval "$(pkiserver completion zsh)"        in ~/.zshrc
    fish:  pkiserver completion fish | source        in ~/.config/fish/config.fish
    """
    from pkiserver.cli.main import cli

    completer = get_completion_class(shell)
    assert completer is not None
    click.echo(completer(cli, {}, "pkiserver", "_PKISERVER_COMPLETE").source())
