"""Engines for the benchmark: on random weights of a named shape, or on a checkpoint that never ends a text.

And what their steps told of their time.
"""

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from dgq.engine.canvas import Generation
from dgq.engine.checkpoint import read_quantization
from dgq.engine.config import ModelConfig
from dgq.engine.engine import Engine
from dgq.engine.engine_config import EngineConfig
from dgq.engine.errors import EngineError
from dgq.engine.generation_config import read_json
from dgq.engine.kernel_choice import check_format, choose_dtype, choose_operations
from dgq.engine.memory_plan import plan_memory
from dgq.engine.quantization import UNQUANTIZED, Quantization
from dgq.engine.request import Request, Result, SamplingConfig
from dgq.engine.scheduler import Plan
from dgq.engine.shapes import SHAPES
from dgq.engine.stand_in import stand_in_engine
from dgq.engine.trace import NO_TRACE, Trace
from dgq.kernels.page import PAGE_TOKENS

from .section import Settings

DRIVER_BYTES = 10**9
"""Of a device's memory, what driver, context and allocator take: assumed."""


def quantization_named(preset: str) -> Quantization:
    """A preset by its name; "nf4, double" is nf4 with double quantization."""
    name, _, double = preset.partition(", ")
    return Quantization(name, bool(double))


@contextmanager
def open_engine(
    settings: Settings, preset: str, config: EngineConfig, trace: Trace = NO_TRACE
) -> Iterator[Engine]:
    """An engine of the settings' shape and dtype, on their device; no stop token ends its texts."""
    quantization = quantization_named(preset)
    if settings.shape in SHAPES:
        with stand_in_engine(
            settings.shape,
            dtype=settings.dtype,
            device=settings.device,
            preset=quantization.preset,
            double_quantization=quantization.double_quantization,
            config=config,
            trace=trace,
        ) as engine:
            yield engine
        return
    with _endless_folder(Path(settings.shape)) as folder:
        is_quantized = not read_quantization(folder).is_none
        with Engine.load(
            folder,
            dtype=settings.dtype,
            device=settings.device,
            preset=UNQUANTIZED.preset if is_quantized else quantization.preset,
            config=config,
            trace=trace,
        ) as engine:
            yield engine


@contextmanager
def _endless_folder(folder: Path) -> Iterator[Path]:
    """The same checkpoint, whose generation_config.json names no stop tokens."""
    with tempfile.TemporaryDirectory(prefix="dgq-") as parent:
        copy = Path(parent) / folder.resolve().name
        copy.mkdir()
        for path in folder.resolve().iterdir():
            (copy / path.name).symlink_to(path)
        generation = copy / "generation_config.json"
        content = read_json(generation) if generation.exists() else {}
        generation.unlink(missing_ok=True)
        generation.write_text(json.dumps(content | {"eos_token_id": []}), encoding="utf-8")
        yield copy


def fit(settings: Settings, preset: str, wanted: EngineConfig) -> tuple[EngineConfig, str | None]:
    """What the engine's planner makes of the device's memory, and why that is less than is wanted.

    The reason may also be that the device has no products of the preset's format. On a CPU, what is
    wanted.
    """
    if not settings.on_gpu:
        return wanted, None
    budget = torch.cuda.get_device_properties(settings.device).total_memory - DRIVER_BYTES
    dtype = choose_dtype(settings.dtype, settings.device)
    operations = choose_operations("auto", settings.device, dtype)
    try:
        check_format(quantization_named(preset), operations, settings.device)
        plan = plan_memory(
            settings.config, quantization_named(preset), dtype, budget, wanted, operations
        )
    except EngineError as error:
        return wanted, str(error)
    # No more than is wanted: a plan fills the memory, and leaves none for what it does not count.
    kv_tokens = min(plan.engine_config.max_kv_tokens, wanted.max_kv_tokens)
    got = replace(plan.engine_config, max_kv_tokens=kv_tokens)
    if got.max_rows >= wanted.max_rows and got.max_kv_tokens >= wanted.max_kv_tokens:
        return got, None
    return got, (
        f"{budget / 1e9:.1f} GB hold a step of {got.max_rows} rows and {got.max_kv_tokens} tokens of "
        f"keys and values, not {wanted.max_rows} and {wanted.max_kv_tokens}"
    )


def room_for(num_canvases: int, width: int, text_tokens: int) -> EngineConfig:
    """Bounds of an engine that holds so many texts at once, each with its canvas."""
    tokens = -(-text_tokens // PAGE_TOKENS) * PAGE_TOKENS + width
    return EngineConfig(
        max_canvases=num_canvases,
        max_rows=num_canvases * width,
        max_kv_tokens=num_canvases * tokens,
        share_prefixes=False,
    )


def fixed_steps(num_steps: int) -> SamplingConfig:
    """Every canvas converges at this step, by a rule that is met then whatever it holds."""
    return SamplingConfig(
        max_denoising_steps=num_steps,
        min_denoising_steps=num_steps,
        stop_rule="mean_entropy",
        confidence_threshold=1e9,
        max_rerolls=0,
    )


def random_requests(
    config: ModelConfig, count: int, prompt_tokens: int, answer_tokens: int, num_steps: int
) -> list[Request]:
    """Prompts of random tokens, no two alike."""
    generator = torch.Generator().manual_seed(count)
    prompts = torch.randint(0, config.vocab_size, (count, prompt_tokens), generator=generator)
    sampling = fixed_steps(num_steps)
    return [
        Request(tuple(prompt), answer_tokens, seed, sampling=sampling)
        for seed, prompt in enumerate(prompts.tolist())
    ]


def answer_all(engine: Engine, requests: list[Request]) -> tuple[list[Result], float]:
    """All at once; the results and the seconds until the last one.

    EngineError where a canvas had nothing but nan to say, or memory ran out on the way.
    """
    before = engine.stats.out_of_memory_total
    started_s = time.perf_counter()
    futures = [engine.submit(request) for request in requests]
    results = [future.result() for future in futures]
    seconds = time.perf_counter() - started_s
    if any(result.finish_reason == "unconverged" for result in results):
        raise EngineError("a canvas did not stop at its step: its entropy is not a number")
    if engine.stats.out_of_memory_total > before:
        raise EngineError("out of device memory: the engine went on with fewer rows")
    return results, seconds


@dataclass(slots=True)
class StepTimes(Trace):
    """When steps began and what they held; told by the engine's thread, read when it is idle.

    Of a step: when it began, its rows of texts and of canvases, and the seconds of the host in it,
    planning and judging.
    """

    steps: list[tuple[float, int, int, float]] = field(default_factory=list)
    _began_s: float = 0.0
    _planned_s: float = 0.0
    _computed_s: float = 0.0
    _rows: tuple[int, int] = (0, 0)

    def step_began(self) -> None:
        """See Trace."""
        self._began_s = time.perf_counter()

    def planned(self, plan: Plan, running: Collection[Generation]) -> None:
        """See Trace."""
        self._planned_s = time.perf_counter()
        self._rows = plan.num_read_rows, plan.num_canvas_rows

    def computed(self) -> None:
        """See Trace."""
        self._computed_s = time.perf_counter()

    def step_ended(self, num_waiting: int) -> None:
        """See Trace."""
        host_s = time.perf_counter() - self._computed_s + self._planned_s - self._began_s
        self.steps.append((self._began_s, *self._rows, host_s))

    def full_steps(self, num_rows: int) -> "FullSteps | None":
        """Of the steps so far, those between the first and the last with so many canvas rows."""
        full = [i for i, step in enumerate(self.steps) if step[2] >= num_rows]
        if len(full) < 3:
            return None
        window = self.steps[full[0] : full[-1] + 1]
        durations = [after[0] - step[0] for step, after in itertools.pairwise(window)]
        pure = [
            seconds
            for step, seconds in zip(window, durations, strict=False)
            if step[1] == 0 and step[2] >= num_rows
        ]
        seconds = sum(durations)
        return FullSteps(
            num_steps=len(full) - 1,
            seconds=seconds,
            step_s=statistics.median(pure) if pure else statistics.median(durations),
            host_share=sum(step[3] for step in window[:-1]) / seconds,
        )


@dataclass(frozen=True, slots=True)
class FullSteps:
    """Steady state. step_s: the median of steps that read nothing; seconds: of all, commits included.

    host_share: of the time, what planning and judging took.
    """

    num_steps: int
    seconds: float
    step_s: float
    host_share: float
