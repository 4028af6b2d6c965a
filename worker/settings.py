"""What the environment may set. The only module that reads it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import UsageFault


@dataclass(frozen=True, slots=True)
class Settings:
    """Defaults of the command line's options; an option that is given wins.

    model_path: DGQ_MODEL, a checkpoint folder. None is the shipped dgq-tiny.
    progress_interval_s: DGQ_PROGRESS_INTERVAL_S, seconds between two progress lines where there
        is no terminal.
    """

    model_path: Path | None = None
    progress_interval_s: float = 5.0

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read the DGQ_ variables. Raises UsageFault, naming the variable, for a bad value."""
        given = os.environ if environ is None else environ
        model = given.get("DGQ_MODEL")
        return cls(
            model_path=Path(model) if model else None,
            progress_interval_s=_positive(given, "DGQ_PROGRESS_INTERVAL_S", 5.0),
        )


def _positive(given: Mapping[str, str], name: str, default: float) -> float:
    text = given.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UsageFault(f"{name} must be a number above 0, not {text!r}")
    return value
