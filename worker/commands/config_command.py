"""``dgq config``: what is set, and where it was set."""

import json
from typing import Any

import click

from .. import exit_codes
from ..guard import guarded, say


@click.group()
def config() -> None:
    """Look at the settings."""


@config.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@guarded
def show(*, as_json: bool) -> int:
    """Print each setting, its value, and where that came from.

    Passwords are shown as ***. The stronger source wins: a flag, a DGQ_ variable, .env, dgq.toml
    (here, or in the user's folder of configurations, or where DGQ_CONFIG says), the default.
    """
    from ..settings import load_settings, misspelt_variables, setting_name

    settings = load_settings()
    origins = settings.origins
    shown = {
        setting_name(name): (_shown(getattr(settings, name)), origins[name])
        for name in type(settings).model_fields
    }
    if as_json:
        rows = {name: {"value": value, "origin": origin} for name, (value, origin) in shown.items()}
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        click.echo(
            _table([(name, _text(value), origin) for name, (value, origin) in shown.items()])
        )
    for given, meant in misspelt_variables():
        say(f"{given} is not a setting; did you mean {meant}?")
    return exit_codes.OK


def _shown(value: Any) -> str | int | float | None:
    """The value for JSON, without passwords."""
    from pydantic import SecretStr

    from ..ledger.connection import masked

    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, SecretStr):
        return "***"
    return masked(value) if isinstance(value, str) and "://" in value else str(value)


def _text(value: str | float | None) -> str:
    return "-" if value is None else str(value)


def _table(rows: list[tuple[str, str, str]], widest: int = 48) -> str:
    """Rows in columns; a value above ``widest`` characters pushes only its own row."""
    widths = [min(widest, max(len(row[column]) for row in rows)) for column in (0, 1)]
    return "\n".join(
        f"{name:{widths[0]}}  {text:{widths[1]}}  {where}" for name, text, where in rows
    )
