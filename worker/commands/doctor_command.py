"""``dgq doctor``: what is wrong, and how to mend it."""

from typing import TYPE_CHECKING

import click

from .options import server_command

if TYPE_CHECKING:
    from ..settings import Settings


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@server_command
def doctor(*, settings: "Settings", as_json: bool) -> int:
    """Look for what is wrong with the server, the workers and this machine.

    Without a configured server, the private one is started for a moment. Changes nothing but one
    key, which expires after a second.

    \b
    Exit codes:
      0    no problem; there may be warnings
      1    a problem
      7    the server cannot be reached, or refuses
    """
    from .. import doctor as checks

    findings = []
    for finding in checks.examine(settings):
        findings.append(finding)
        if not as_json:
            click.echo(checks.as_text(finding))
    if as_json:
        click.echo(checks.as_json(findings))
    return checks.exit_code(findings)
