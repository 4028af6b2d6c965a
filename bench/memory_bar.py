"""The most memory that eight canvases take, each behind a long text of its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .engines import (
    answer_all,
    fit,
    open_engine,
    random_requests,
    room_for,
)
from .memory_use import forget_peak, peak, peak_in_words
from .section import Group, Measure, Row, Settings
from .tables import as_table, quantity

NUM_CANVASES = 8
_GPU_CONTEXT_TOKENS, _CPU_CONTEXT_TOKENS = 4096, 256
_STEPS = 4


class MemorySection:
    """Peak memory by preset."""

    name = "memory"
    title = f"Memory of {NUM_CANVASES} canvases"

    def groups(self, settings: Settings) -> Sequence[Group]:
        """Each four-bit preset, and nf4 with its scales quantized too."""
        presets = [preset for preset in settings.presets if preset != "bf16"]
        if "nf4" in presets:
            presets.append("nf4, double")
        point = f"{NUM_CANVASES} canvases behind {_context_tokens(settings):,} tokens"
        return [Group(preset, (point,)) for preset in presets]

    @contextmanager
    def open(self, settings: Settings, group: str) -> Iterator[Measure]:
        """An engine that holds just that much."""
        config, context = settings.config, _context_tokens(settings)
        width = config.canvas_length
        room, reason = fit(settings, group, room_for(NUM_CANVASES, width, context))
        if reason:
            yield lambda point: {"preset": group, "skipped": reason}
            return
        forget_peak(settings)
        with open_engine(settings, group, room) as engine:

            def measure(point: str) -> Row:
                requests = random_requests(config, NUM_CANVASES, context, width, _STEPS)
                _, seconds = answer_all(engine, requests)
                return {
                    "preset": group,
                    "canvases": NUM_CANVASES,
                    "context_tokens": context,
                    "seconds": seconds,
                    **peak(settings),
                }

            yield measure

    def table(self, settings: Settings, rows: Sequence[Row]) -> str:
        """Peaks in GB."""
        heads = ["preset", "tokens of context each"]
        if not settings.on_gpu:
            lines = [[*_which(row), peak_in_words(row)] for row in rows]
            return as_table([*heads, "peak of the process, GB"], lines)
        figures = ("peak_tensor_bytes", "peak_held_bytes", "device_used_bytes")
        lines = [
            [*_which(row), *(quantity(row[figure] / 1e9) for figure in figures)] for row in rows
        ]
        return as_table([*heads, "tensors, GB", "held by torch, GB", "of the device, GB"], lines)


def _which(row: Row) -> list[str]:
    return [row["preset"], f"{row['context_tokens']:,}"]


def _context_tokens(settings: Settings) -> int:
    """Long ones; on a CPU, which cannot say what a GPU would take, as many as are quick."""
    return _GPU_CONTEXT_TOKENS if settings.on_gpu else _CPU_CONTEXT_TOKENS
