"""The corpus: functions and prose from the source of Python's own standard library."""

import ast
import re
import sysconfig
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from .case import Split, is_held_out

MAX_CHARACTERS = 600


def _modules() -> Iterator[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if "site-packages" not in path.parts and "lib2to3" not in path.parts:
            yield path


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """All that holds statements, in the order of ``ast.walk``, which also enters expressions."""
    nodes: list[ast.AST] = [tree]
    for node in nodes:
        yield node
        for field in ("body", "handlers", "orelse", "finalbody", "cases"):
            nodes += getattr(node, field, ())


@cache
def _definitions() -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """(name, dedented source) of each short function, and all docstrings, in a fixed order."""
    functions: dict[str, str] = {}
    docstrings: list[str] = []
    for path in _modules():
        try:
            source = path.read_text(encoding="utf-8")
            tree = ast.parse(source)
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        lines = source.splitlines()
        for node in _statements(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if docstring := ast.get_docstring(node):
                docstrings.append(docstring)
            if isinstance(node, ast.ClassDef):
                continue
            first = min([node.lineno, *(item.lineno for item in node.decorator_list)])
            text = textwrap.dedent("\n".join(lines[first - 1 : node.end_lineno]))
            if len(text) <= MAX_CHARACTERS and "\t" not in text:
                functions.setdefault(text, node.name)
    return tuple((name, text) for text, name in functions.items()), tuple(docstrings)


@cache
def functions(split: Split) -> tuple[str, ...]:
    """Sources of short functions, dedented; a function's name decides its split."""
    wanted = split == "held_out"
    return tuple(text for name, text in _definitions()[0] if is_held_out(name) == wanted)


@cache
def sentences(split: Split) -> tuple[str, ...]:
    """Plain sentences of 20 to 130 characters from docstrings."""
    found: dict[str, None] = {}
    for docstring in _definitions()[1]:
        for paragraph in re.split(r"\n\s*\n", docstring):
            flat = " ".join(paragraph.split())
            for sentence in re.findall(r"[A-Z][^.!?:<>`{}\\]{18,128}[.!?](?= |$)", flat):
                if re.fullmatch(r"[A-Za-z0-9 ,.;'()!?/-]+", sentence):
                    found.setdefault(sentence)
    wanted = split == "held_out"
    return tuple(text for text in found if is_held_out(text) == wanted)
