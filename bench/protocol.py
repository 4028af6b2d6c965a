"""The published protocol: fixed steps and a commit per canvas, no stop tokens, prompts of random tokens.

So many texts at once, all from the start: *tokens/s* counts from the first submission to the last
answer, prompts included; *steady* is the rate over the steps in which all canvases were in flight,
commits included; *ms per step* is the median of those steps that read nothing. A profile of some steps
says where their time goes, beside what the roofline asks for.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from dgq.engine.engine import Engine

from .devices import find_device
from .engines import (
    answer_all,
    fit,
    open_engine,
    quantization_named,
    random_requests,
    room_for,
)
from .memory_use import forget_peak, peak, peak_in_words
from .profiling import ROOFLINE, StepProfiler
from .roofline import BOUND, predict
from .section import Group, Measure, Row, Settings
from .tables import as_table, quantity
from .work import StepShape

_WARM_UP_STEPS = 4
_PROFILED_STEPS = 8
_PROFILED = (1, 8, 32)
"""Numbers of canvases whose steps are profiled on a GPU; the most is everywhere."""

_BY_COMPONENT = ", by component"


class ProtocolSection:
    """Tokens per second by preset and number of canvases."""

    name = "protocol"
    title = "The protocol: fixed steps and a commit per canvas"

    def groups(self, settings: Settings) -> Sequence[Group]:
        """One for each preset."""
        counts = sorted(settings.canvases)
        profiled = [n for n in counts if n == counts[-1] or (settings.on_gpu and n in _PROFILED)]
        points = [_point(n) for n in counts] + [_point(n) + _BY_COMPONENT for n in profiled]
        return [Group(preset, tuple(points)) for preset in settings.presets]

    @contextmanager
    def open(self, settings: Settings, group: str) -> Iterator[Measure]:
        """One engine, with room for the most canvases that fit."""
        width = settings.config.canvas_length
        text_tokens = settings.prompt_tokens + settings.answer_tokens
        reason, fitting = None, 0
        for count in sorted(settings.canvases):
            planned, reason = fit(settings, group, room_for(count, width, text_tokens))
            if reason is not None:
                break
            fitting, room = count, planned
        if not fitting:
            yield lambda point: {"preset": group, "skipped": reason}
            return
        times = StepProfiler()
        with open_engine(settings, group, room, times) as engine:

            def measure(point: str) -> Row:
                count = int(point.split()[0])
                row: Row = {"preset": group, "canvases": count}
                if count > fitting:
                    return row | {"skipped": reason}
                if point.endswith(_BY_COMPONENT):
                    return row | _profile(settings, engine, times, group, count)
                return row | _run(settings, engine, times, group, count)

            yield measure

    def table(self, settings: Settings, rows: Sequence[Row]) -> str:
        """Speeds, then components."""
        speeds = [row for row in rows if "tokens_per_s" in row]
        profiles = [row for row in rows if "seconds_by_component" in row]
        parts = []
        if speeds:
            heads = ["preset", "canvases", "tokens/s", "steady", "ms per step", "host", "peak GB"]
            lines = [
                [
                    row["preset"],
                    str(row["canvases"]),
                    quantity(row["tokens_per_s"]),
                    quantity(row["steady_tokens_per_s"]),
                    quantity(1e3 * row["step_s"]),
                    f"{row['host_share']:.1%}",
                    peak_in_words(row),
                    *_bound(row),
                ]
                for row in speeds
            ]
            parts.append(as_table([*heads, *_bound_heads(speeds)], lines))
        if profiles:
            heads = ["preset", "canvases", "component", "ms per step", "share", "bound, ms"]
            parts.append(as_table(heads, [line for row in profiles for line in _lines(row)]))
        return "\n\n".join(parts)


def _point(count: int) -> str:
    return f"{count} canvas{'es' if count > 1 else ''}"


def _run(settings: Settings, engine: Engine, times: StepProfiler, preset: str, count: int) -> Row:
    config = settings.config
    width = config.canvas_length
    # The same with fewer steps: it compiles, and captures graphs for, what the other will run.
    sizes = settings.prompt_tokens, settings.answer_tokens
    answer_all(engine, random_requests(config, count, *sizes, _WARM_UP_STEPS))
    requests = random_requests(config, count, *sizes, settings.num_steps)
    forget_peak(settings)
    times.steps.clear()
    results, seconds = answer_all(engine, requests)
    num_tokens = sum(len(result.token_ids) for result in results)
    row: Row = {
        "tokens": num_tokens,
        "seconds": seconds,
        "tokens_per_s": num_tokens / seconds,
        "steps": sum(result.num_steps for result in results),
        **peak(settings),
    }
    full = times.full_steps(count * width)
    if full is None:
        return row | {"error": "too few steps held all canvases"}
    row |= {
        "steady_tokens_per_s": full.num_steps * count * width / settings.num_steps / full.seconds,
        "step_s": full.step_s,
        "host_share": full.host_share,
    }
    return row | _predicted(settings, preset, count)


def _predicted(settings: Settings, preset: str, count: int) -> Row:
    """The roofline's bound, where the device is one that the table has."""
    device = None
    if settings.on_gpu:
        device = find_device(torch.cuda.get_device_name(settings.device))
    if device is None:
        return {}
    config = settings.config
    context = settings.prompt_tokens + (settings.answer_tokens - config.canvas_length) // 2
    step = StepShape(count, max(context, settings.prompt_tokens))
    prediction = predict(
        device, config, quantization_named(preset), step, BOUND, settings.num_steps
    )
    return {
        "bound_tokens_per_s": prediction.tokens_per_s,
        "bound_step_s": prediction.step_s,
        "bound_seconds": prediction.seconds,
    }


def _profile(
    settings: Settings, engine: Engine, times: StepProfiler, preset: str, count: int
) -> Row:
    config = settings.config
    times.arm(min(_PROFILED_STEPS, settings.num_steps - 4))
    requests = random_requests(
        config, count, settings.prompt_tokens, config.canvas_length, settings.num_steps
    )
    answer_all(engine, requests)
    found = times.result
    if found is None or not found["seconds"]:
        return {"skipped": "the profiler saw nothing"}
    bound = _predicted(settings, preset, count).get("bound_seconds", {})
    return {
        "seconds_by_component": found["seconds"],
        "largest_others": found["largest_others"],
        "step_s": found["step_s"],
        "idle_share": max(0.0, 1 - sum(found["seconds"].values()) / found["step_s"]),
        "bound_by_component": {
            group: sum(bound[name] for name in names) for group, names in ROOFLINE.items()
        }
        if bound
        else {},
    }


def _bound_heads(rows: Sequence[Row]) -> list[str]:
    return ["bound, tokens/s", "bound, ms"] if "bound_step_s" in rows[0] else []


def _bound(row: Row) -> list[str]:
    if "bound_step_s" not in row:
        return []
    return [quantity(row["bound_tokens_per_s"]), quantity(1e3 * row["bound_step_s"])]


def _lines(row: Row) -> Iterator[list[str]]:
    total = row["step_s"]
    for group, seconds in row["seconds_by_component"].items():
        bound = row["bound_by_component"].get(group)
        yield [
            row["preset"],
            str(row["canvases"]),
            group,
            quantity(1e3 * seconds),
            f"{seconds / total:.0%}",
            "" if bound is None else quantity(1e3 * bound),
        ]
    idle_s = row["idle_share"] * total
    yield [
        row["preset"],
        str(row["canvases"]),
        "nothing",
        quantity(1e3 * idle_s),
        f"{row['idle_share']:.0%}",
        "",
    ]
