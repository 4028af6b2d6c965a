"""The protocol in transformers, in 16 bits, by batch: what dgq's figures are to be set beside."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from dgq.engine.config import ModelConfig
from dgq.engine.errors import EngineError
from dgq.engine.kernel_choice import choose_dtype
from dgq.engine.memory_plan import MemoryCosts
from dgq.engine.quantization import UNQUANTIZED
from dgq.engine.torch_operations import TORCH

from .engines import DRIVER_BYTES
from .memory_use import forget_peak, peak, peak_in_words
from .reference_model import generate, random_reference, why_not
from .section import Group, Measure, Row, Settings
from .tables import as_table, quantity

_GPU_BATCHES = (1, 2, 4, 8)
_CPU_BATCHES = (1, 2)
EXPERTS = ("grouped_mm", "eager")
"""transformers' implementations of the experts, the faster first; a third one needs far more memory."""


class TransformersSection:
    """Tokens per second by batch, until memory is out."""

    name = "transformers"
    title = "The same protocol in transformers"

    def groups(self, settings: Settings) -> Sequence[Group]:
        """One model for all batches."""
        batches = _GPU_BATCHES if settings.on_gpu else _CPU_BATCHES
        return [Group(settings.dtype, tuple(f"batch of {batch}" for batch in batches))]

    @contextmanager
    def open(self, settings: Settings, group: str) -> Iterator[Measure]:
        """The model, where transformers and the memory allow it."""
        if reason := why_not() or _too_little_memory(settings):
            yield lambda point: {"skipped": reason}
            return
        config = settings.config
        dtype = choose_dtype(settings.dtype, settings.device)
        model = random_reference(config, dtype, settings.device)
        experts = _choose_experts(model, config)

        def measure(point: str) -> Row:
            batch = int(point.split()[-1])
            prompt, answer = settings.prompt_tokens, settings.answer_tokens
            generate(model, config, batch, prompt, config.canvas_length, 2)
            forget_peak(settings)
            tokens, seconds = generate(model, config, batch, prompt, answer, settings.num_steps)
            return {
                "batch": batch,
                "experts": experts,
                "tokens": tokens,
                "seconds": seconds,
                "tokens_per_s": tokens / seconds,
                **peak(settings),
            }

        yield measure

    def table(self, settings: Settings, rows: Sequence[Row]) -> str:
        """By batch; the best is what counts."""
        best = max(rows, key=lambda row: row["tokens_per_s"])
        lines = [
            [
                str(row["batch"]),
                row["experts"],
                quantity(row["tokens_per_s"]),
                peak_in_words(row),
                "best" if row is best else "",
            ]
            for row in rows
        ]
        return as_table(["batch", "experts", "tokens/s", "peak GB", ""], lines)


def _too_little_memory(settings: Settings) -> str | None:
    if not settings.on_gpu:
        return None
    dtype = choose_dtype(settings.dtype, settings.device)
    weights = MemoryCosts.of(settings.config, UNQUANTIZED, dtype, TORCH).weights
    total = torch.cuda.get_device_properties(settings.device).total_memory
    if weights + DRIVER_BYTES <= total:
        return None
    return f"its weights take {weights / 1e9:.1f} GB, the device has {total / 1e9:.1f} GB"


def _choose_experts(model: Any, config: ModelConfig) -> str:
    """The first of EXPERTS that this version and this device can run. EngineError for none."""
    refusals = []
    for name in EXPERTS:
        try:
            model.set_experts_implementation(name)
            generate(model, config, batch=1, prompt=16, answer=config.canvas_length, num_steps=1)
        except Exception as error:  # noqa: BLE001 - another may run
            refusals.append(f"{name}: {type(error).__name__}: {error}")
            continue
        return name
    raise EngineError("transformers runs none of its experts: " + "; ".join(refusals))
