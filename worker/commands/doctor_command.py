"""``dgq doctor``: what is wrong, and how to mend it."""

import click

from ..guard import guarded


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@guarded
def doctor(*, as_json: bool) -> int:
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
    from ..settings import load_settings

    findings = []
    for finding in checks.examine(load_settings()):
        findings.append(finding)
        if not as_json:
            click.echo(checks.as_text(finding))
    if as_json:
        click.echo(checks.as_json(findings))
    return checks.exit_code(findings)
