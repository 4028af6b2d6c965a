"""The files that settings come from, read with every refusal in one line: .env and dgq.toml."""

import io
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from .errors import CommandError, UsageFault


def read_dotenv(path: Path, prefix: str) -> Mapping[str, str | None]:
    """The variables in a .env file; none where there is no such file.

    The file may be another program's, so lines that make no sense are skipped; only those that
    begin with ``prefix`` raise UsageFault.
    """
    if not (path.is_file() or path.is_fifo()):
        return {}
    lines = []
    for binding in parse_stream(io.StringIO(_read_text(path))):
        line = binding.original.string
        if not binding.error:
            lines.append(line)
        elif re.match(rf"\s*(export\s+)?{prefix}", line):
            raise UsageFault(f"{path} line {binding.original.line} is not NAME=value")
    return dotenv_values(stream=io.StringIO("".join(lines)))


def read_toml(path: Path) -> Mapping[str, Any]:
    """What a TOML file holds. Raises UsageFault for what is no TOML, with its line."""
    text = _read_text(path)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r" \(at (?:line (\d+), .*|end of document)\)$", str(error))
        line = (place and place[1]) or len(text.splitlines())
        what = str(error)[: place.start()] if place else str(error)
        raise UsageFault(f"{path} line {line} is not TOML: {what}") from None


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UsageFault(f"{path} line {line} is not UTF-8") from None
