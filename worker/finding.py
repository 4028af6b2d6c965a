"""What ``dgq doctor`` finds out: one thing each, and how to mend it."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem", "unknown"]
"""problem: dgq does not work, or loses work. warning: it does, with a risk. unknown: not to be told
from here; the server denies an answer, say."""


@dataclass(frozen=True, slots=True)
class Finding:
    """name: what was looked at, a word. what: how it is. mend: what to do, None if nothing."""

    name: str
    level: Level
    what: str
    mend: str | None = None
