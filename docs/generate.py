"""Write the parts of README.md that come from the code: command help and the map of the folders.

``make docs`` runs it; tests/test_readme.py fails when README.md is not what it would write.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from dgq.worker.cli import cli

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
FOLDERS = {
    "worker": "where jobs run; the command line",
    "pipelines": "what a job means; no torch",
    "engine": "how tokens are made",
    "kernels": "Triton kernels beside their references",
    "training": "how dgq-tiny is made; not installed",
    "benchmarks": "where the figures of docs/benchmarks.md come from; not installed",
}


def render(readme: str) -> str:
    """README.md with the text between each pair of markers replaced."""
    for name, text in {"help": help_text(), "map": folder_map()}.items():
        pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        readme, count = pattern.subn(_between(text), readme)
        if count != 1:
            raise SystemExit(f"README.md needs the markers {name}:begin and {name}:end once")
    return readme


def help_text() -> str:
    """``--help`` of dgq and of each of its commands."""
    pages = []
    for path, command in _commands("dgq", cli):
        context = click.Context(command, info_name=path, terminal_width=80, max_content_width=80)
        pages.append(f"```console\n$ {path} --help\n{command.get_help(context).rstrip()}\n```\n")
    return "\n".join(pages)


def folder_map() -> str:
    """One line per file, taken from the first sentence of its docstring."""
    sections = []
    for folder, meaning in FOLDERS.items():
        files = sorted((ROOT / folder).rglob("*.py"))
        lines = [f"- `{path.relative_to(ROOT)}`: {_first_sentence(path)}" for path in files]
        if lines:
            sections.append("\n".join([f"**{folder}/** ({meaning})\n", *lines]) + "\n")
    return "\n".join([*sections, "**tests/** (mirrors the folders above)\n"])


def _between(text: str) -> Callable[[re.Match[str]], str]:
    return lambda match: match[1] + text + match[2]


def _commands(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from _commands(f"{path} {name}", child)


def _first_sentence(path: Path) -> str:
    first = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")[0]
    return re.split(r"(?<=\.)\s+(?=[A-Z])", " ".join(first.split()))[0]


if __name__ == "__main__":
    README.write_text(render(README.read_text()))
