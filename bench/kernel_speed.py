"""How fast the kernels are at the real sizes, beside the roofline; and where one way overtakes another.

On a CPU, which cannot run them, the references that the engine uses there are set beside the plain
formulations, at sizes of a fraction of the real ones.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from dgq.engine.config import ModelConfig
from dgq.engine.shapes import PUBLISHED
from dgq.kernels.grouped_experts import grouped_experts, tile_height
from dgq.kernels.launch import HAS_TRITON
from dgq.kernels.nf4_linear import CROSSOVER_ROWS, nf4_linear
from dgq.kernels.router import route_reference

from .devices import find_device
from .kernel_case import Inputs, KernelCase
from .kernel_cases import cpu_cases, real_cases
from .roofline import BOUND
from .section import Group, Measure, Row, Settings
from .tables import as_table, quantity
from .timing import seconds_of
from .work import Work

_LINEAR_ROWS = (16, 32, 64, 128, 256, 512)
_EXPERT_ROWS = (16, 128, 256, 512, 1024, 2048, 4096, 8192)
_TILE_HEIGHTS = (16, 32, 64, 128)
_CPU_SHARE = 4
"""The sizes of a CPU's cases are this many times smaller."""

_SPEEDS, _CROSSOVER, _HEIGHTS = "speeds", "crossover", "tile heights"


class KernelsSection:
    """Speeds, the crossover of NF4 products, and tile heights of the experts."""

    name = "kernels"
    title = "Speed of the kernels"

    def groups(self, settings: Settings) -> Sequence[Group]:
        """Without a GPU only the references can be timed."""
        speeds = Group(_SPEEDS, tuple(_cases(settings)))
        if not settings.on_gpu or not HAS_TRITON:
            return [speeds]
        return [
            speeds,
            Group(_CROSSOVER, tuple(f"linear, {rows} rows" for rows in _LINEAR_ROWS)),
            Group(_HEIGHTS, tuple(f"experts, {rows} rows" for rows in _EXPERT_ROWS)),
        ]

    @contextmanager
    def open(self, settings: Settings, group: str) -> Iterator[Measure]:
        """Sweeps share their weights."""
        with torch.inference_mode():
            if group == _CROSSOVER:
                yield _crossover(settings)
            elif group == _HEIGHTS:
                yield _tile_heights(settings)
            else:
                cases = _cases(settings)
                yield lambda point: _speed(cases[point], settings)

    def table(self, settings: Settings, rows: Sequence[Row]) -> str:
        """One table for each group."""
        parts = []
        speeds = [row for row in rows if row["group"] == _SPEEDS]
        if speeds and settings.on_gpu:
            parts.append(_gpu_table(speeds))
        elif speeds:
            parts.append(_cpu_table(speeds))
        sweeps = {
            _CROSSOVER: f"NF4 products, ms by way (CROSSOVER_ROWS is {CROSSOVER_ROWS})",
            _HEIGHTS: "NF4 experts, ms by tile height",
        }
        for group, title in sweeps.items():
            found = [row for row in rows if row["group"] == group]
            if found:
                parts.append(f"{title}\n\n{_sweep_table(found)}")
        return "\n\n".join(parts)


def _cases(settings: Settings) -> dict[str, KernelCase]:
    on_cpu = cpu_cases(_smaller(PUBLISHED))
    cases = real_cases(settings.config) if settings.on_gpu else on_cpu
    return {case.name: case for case in cases}


def _smaller(config: ModelConfig) -> ModelConfig:
    """A fraction of the sizes that a CPU's time depends on; head sizes stay."""
    return replace(
        config,
        vocab_size=config.vocab_size // _CPU_SHARE**2,
        hidden_size=config.hidden_size // _CPU_SHARE,
        intermediate_size=config.intermediate_size // _CPU_SHARE,
        moe_intermediate_size=-(-config.moe_intermediate_size // _CPU_SHARE // 64) * 64,
        num_experts=config.num_experts // _CPU_SHARE,
        num_attention_heads=config.num_attention_heads // _CPU_SHARE,
        num_key_value_heads=config.num_key_value_heads // _CPU_SHARE,
        num_key_value_heads_full=1,
    )


def _speed(case: KernelCase, settings: Settings) -> Row:
    """Seconds of the kernel and what that comes to; on a CPU of the reference and the plain one."""
    dtype = torch.bfloat16 if settings.on_gpu else torch.float32
    prepared = case.prepare(Inputs.on(settings.device, dtype))
    row: Row = {"kernel": case.kernel}
    if not settings.on_gpu or not HAS_TRITON:
        return row | {
            "reference_s": seconds_of(prepared.reference, settings.device),
            "plain_s": seconds_of(prepared.plain, settings.device),
        }
    if not case.runs(settings):
        return row | {"skipped": "the kernel needs a GPU that multiplies FP8 numbers"}
    seconds = seconds_of(prepared.kernel, settings.device)
    work = prepared.work
    row |= {
        "seconds": seconds,
        "bytes_per_s": work.num_bytes / seconds,
        "operations_per_s": work.operations / seconds,
    }
    bound = _bound_s(work, settings)
    return row | ({} if bound is None else {"bound_s": bound})


def _bound_s(work: Work, settings: Settings) -> float | None:
    device = find_device(torch.cuda.get_device_name(settings.device))
    if device is None:
        return None
    return BOUND.seconds(device, "experts", work)  # of a bound, the shares of all components are 1


def _crossover(settings: Settings) -> Measure:
    """The dense MLP's gate: decoded in the loop, decoded before, and a 16-bit weight of the same shape."""
    config = settings.config
    inputs = Inputs.on(settings.device, torch.bfloat16)
    weight = inputs.nf4(config.intermediate_size, config.hidden_size)
    dense = inputs.normal(config.intermediate_size, config.hidden_size)

    def measure(point: str) -> Row:
        rows = int(point.split()[1])
        x = inputs.normal(rows, config.hidden_size)
        return _sweep(
            rows,
            settings,
            {
                "in the loop": lambda: nf4_linear(x, weight, rows),
                "before": lambda: nf4_linear(x, weight, 0),
                "16-bit weight": lambda: torch.nn.functional.linear(x, dense),
            },
        )

    return measure


def _tile_heights(settings: Settings) -> Measure:
    config = settings.config
    inputs = Inputs.on(settings.device, torch.bfloat16)
    hidden, inner, num_experts = (
        config.hidden_size,
        config.moe_intermediate_size,
        config.num_experts,
    )
    gate_up = inputs.nf4(num_experts, 2 * inner, hidden)
    down = inputs.nf4(num_experts, hidden, inner)

    def measure(point: str) -> Row:
        rows = int(point.split()[1])
        x = inputs.normal(rows, hidden)
        scores = inputs.normal(rows, num_experts)
        routed = route_reference(scores, torch.ones_like(scores[0]), config.top_k_experts)
        weights, experts = (tensor.contiguous() for tensor in routed)

        def at(height: int) -> Callable[[], object]:
            return lambda: grouped_experts(x, gate_up, down, weights, experts, block_rows=height)

        found = _sweep(rows, settings, {str(height): at(height) for height in _TILE_HEIGHTS})
        return found | {"chosen": str(tile_height(rows * config.top_k_experts, num_experts))}

    return measure


def _sweep(rows: int, settings: Settings, ways: dict[str, Callable[[], object]]) -> Row:
    """Seconds of each way; a way that fails is told, and does not stop the others."""
    seconds: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name, compute in ways.items():
        try:
            seconds[name] = seconds_of(compute, settings.device)
        except Exception as error:  # noqa: BLE001 - the row says it
            failed[name] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    row: Row = {"rows": rows, "seconds": seconds, "failed": failed, "ok": not failed}
    return row | ({"best": min(seconds, key=seconds.__getitem__)} if seconds else {})


def _gpu_table(rows: Sequence[Row]) -> str:
    lines = [
        [
            row["kernel"],
            row["point"],
            quantity(1e6 * row["seconds"]),
            quantity(1e6 * row["bound_s"]) if "bound_s" in row else "",
            f"{row['bound_s'] / row['seconds']:.0%}" if "bound_s" in row else "",
            quantity(row["bytes_per_s"] / 1e12),
            quantity(row["operations_per_s"] / 1e12),
        ]
        for row in rows
    ]
    heads = ["kernel", "case", "us", "bound, us", "of the bound", "TB/s", "TFLOP/s"]
    return as_table(heads, lines)


def _cpu_table(rows: Sequence[Row]) -> str:
    lines = [
        [
            row["kernel"],
            row["point"],
            quantity(1e3 * row["reference_s"]),
            quantity(1e3 * row["plain_s"]),
            quantity(row["plain_s"] / row["reference_s"]),
        ]
        for row in rows
    ]
    heads = ["kernel", "case", "reference, ms", "plain, ms", "times as fast"]
    return f"Sizes about a {_CPU_SHARE}th of the real ones, fp32\n\n" + as_table(heads, lines)


def _sweep_table(rows: Sequence[Row]) -> str:
    ways = list(dict.fromkeys(way for row in rows for way in (*row["seconds"], *row["failed"])))
    lines = [
        [
            f"{row['rows']:,}",
            *(
                quantity(1e3 * row["seconds"][way]) if way in row["seconds"] else "failed"
                for way in ways
            ),
            row.get("best", ""),
            row.get("chosen", ""),
        ]
        for row in rows
    ]
    return as_table(["rows", *ways, "best", "chosen now"], lines)
