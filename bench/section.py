"""What a part of the benchmark is: groups of points, each group measured in a process of its own."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from dgq.engine.config import ModelConfig
from dgq.engine.shapes import config_of_shape

Row = dict[str, Any]
"""One measured point, as plain data. It names its "point", and has figures, or "skipped" with a reason,
or "error"; "ok" is False where something was found to be wrong."""

Measure = Callable[[str], Row]
"""Measures the point of this name."""

GPU_CANVASES = (1, 2, 4, 8, 16, 32)
CPU_CANVASES = (1, 2)


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured, and on what.

    device: as torch names it. shape: a named shape, or a checkpoint folder. dtype: float32 or bfloat16.
    canvases, prompt_tokens, answer_tokens: of the protocol, which takes num_steps and a commit for each
    canvas.
    """

    device: str
    shape: str
    dtype: str
    presets: tuple[str, ...]
    canvases: tuple[int, ...]
    prompt_tokens: int
    answer_tokens: int
    num_steps: int = 16

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU."""
        return self.device.startswith("cuda")

    @property
    def config(self) -> ModelConfig:
        """Of the shape. EngineError, CheckpointError where it is neither a name nor a checkpoint."""
        return config_of_shape(self.shape)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Settings":
        """From what asdict and JSON made of it."""
        lists = {name: tuple(value) for name, value in plain.items() if isinstance(value, list)}
        return cls(**plain | lists)


@dataclass(frozen=True, slots=True)
class Group:
    """Points that share what is dear to make: one process measures them in order."""

    name: str
    points: tuple[str, ...]


class Section(Protocol):
    """A part of the benchmark, which ``--only`` can name."""

    name: str
    title: str

    def groups(self, settings: Settings) -> Sequence[Group]:
        """What there is to measure; decided without touching the device."""
        ...

    def open(self, settings: Settings, group: str) -> AbstractContextManager[Measure]:
        """In the group's process: make what its points share."""
        ...

    def table(self, settings: Settings, rows: Sequence[Row]) -> str:
        """The measured rows as text; rows without figures are told elsewhere."""
        ...
