"""Write the pages that come from the code: docs/commands.md, docs/map.md and docs/settings.md.

``make docs`` runs it; tests fail when a page is not what it would write.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click

from dgq.worker.cli import cli
from dgq.worker.settings import Settings, expected, setting_name, variable_name

ROOT = Path(__file__).resolve().parents[1]
SETTINGS_INTRODUCTION = """# Settings

Made from `worker/settings.py` by `make docs`. Where several sources set the same, the first wins:

1. a flag of the command;
2. an environment variable; an empty one counts as not set;
3. `.env` in the working folder, with the same names;
4. `dgq.toml` in the working folder, else in `$XDG_CONFIG_HOME/dgq` or `~/.config/dgq`; the variable
   `DGQ_CONFIG` names another file. Its keys are the names below, without tables; a path in it is
   relative to the file; an empty text stands for none; an unknown key is an error;
5. the default.

`dgq config show` prints what holds and where it was set. Names that end in `_s` are seconds, in
`_bytes` bytes.

"""
FOLDERS = {
    "worker": "where jobs run; the command line",
    "pipelines": "what a job means; no torch",
    "bench": "dgq bench: what is checked and measured on a device",
    "engine": "how tokens are made",
    "kernels": "Triton kernels beside their references",
    "training": "how dgq-tiny is made; not installed",
    "benchmarks": "where the figures of docs/benchmarks.md come from; not installed",
}


COMMANDS_INTRODUCTION = """# Commands

What `--help` says of each command, made by `make docs`.

"""
MAP_INTRODUCTION = """# Map

What each file is for, made from their docstrings by `make docs`. Imports go one way: worker → pipelines →
engine → kernels, with bench beside pipelines. The folders are the subpackages of `dgq`: `engine/` is `dgq.engine`.

"""


def pages() -> dict[Path, str]:
    """Every generated page and its text."""
    return {
        ROOT / "docs" / "commands.md": commands_page(),
        ROOT / "docs" / "map.md": map_page(),
        ROOT / "docs" / "settings.md": settings_page(),
    }


def commands_page() -> str:
    """``--help`` of dgq and of each of its commands."""
    pages = []
    for path, command in _commands("dgq", cli):
        context = click.Context(command, info_name=path, terminal_width=80, max_content_width=80)
        pages.append(f"```console\n$ {path} --help\n{command.get_help(context).rstrip()}\n```\n")
    return COMMANDS_INTRODUCTION + "\n".join(pages)


def map_page() -> str:
    """One line per file, taken from the first sentence of its docstring."""
    sections = []
    for folder, meaning in FOLDERS.items():
        files = sorted((ROOT / folder).rglob("*.py"))
        lines = [f"- `{path.relative_to(ROOT)}`: {_first_sentence(path)}" for path in files]
        if lines:
            sections.append("\n".join([f"**{folder}/** ({meaning})\n", *lines]) + "\n")
    return MAP_INTRODUCTION + "\n".join([*sections, "**tests/** (mirrors the folders above)\n"])


def settings_page() -> str:
    """One row per setting, in the order of worker/settings.py."""
    lines = [
        "| setting | variable | a value is | default | meaning |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, field in Settings.model_fields.items():
        default = "none" if field.default is None else f"`{field.default}`"
        cells = [
            f"`{setting_name(name)}`",
            f"`{variable_name(name)}`",
            expected(name),
            "see right" if field.default_factory else default,
            field.description or "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return SETTINGS_INTRODUCTION + "\n".join(lines) + "\n"


def _commands(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path)
        for name in command.list_commands(context):
            if child := command.get_command(context, name):
                yield from _commands(f"{path} {name}", child)


def _first_sentence(path: Path) -> str:
    first = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")[0]
    return re.split(r"(?<=\.)\s+(?=[A-Z])", " ".join(first.split()))[0]


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text)
