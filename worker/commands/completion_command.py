"""``dgq completion``: the script that lets a shell complete the command line."""

import click

from .. import exit_codes
from ..guard import guarded, say

PROGRAM = "dgq"
VARIABLE = "_DGQ_COMPLETE"
"""What the script sets when it asks for completions, and click looks for."""

HINTS = {
    "bash": "save it as ~/.local/share/bash-completion/completions/dgq, "
    'or put this into ~/.bashrc: eval "$(dgq completion bash 2>/dev/null)"',
    "zsh": "save it as _dgq in a folder of your $fpath, "
    'or put this into ~/.zshrc, after compinit: eval "$(dgq completion zsh 2>/dev/null)"',
    "fish": "save it as ~/.config/fish/completions/dgq.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(list(HINTS)))
@guarded
def completion(*, shell: str) -> int:
    """Print the completion script for a SHELL: bash, zsh or fish."""
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root().command
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(root, {}, PROGRAM, VARIABLE).source())
    say(f"to install it, {HINTS[shell]}")
    return exit_codes.OK
