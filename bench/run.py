"""``dgq bench``: section after section, each table as soon as it is known, one line of JSON last."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dgq.engine.checkpoint import read_quantization
from dgq.engine.engine import DEFAULT_MODEL_PATH
from dgq.engine.errors import EngineError
from dgq.engine.quantization import PRESETS, Quantization
from dgq.engine.shapes import SHAPES, config_of_shape
from dgq.kernels.launch import FP8_CAPABILITY

from .bars import bars
from .children import measure
from .roofline import Roofline
from .section import CPU_CANVASES, GPU_CANVASES, Row, Section, Settings
from .sections import SECTIONS
from .tables import NOT_MEASURED, as_table

Echo = Callable[[str], None]

PUBLISHED_SHAPE = "26b-a4b"
FAILED = 1
"""Exit status where something is wrong or has failed."""


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """As the command line gives them; None takes what suits the device."""

    roofline: bool
    shape: str | None
    presets: tuple[str, ...]
    device: str | None
    sections: tuple[str, ...]
    canvases: tuple[int, ...] | None
    prompt_tokens: int | None
    answer_tokens: int | None
    time_limit_s: float
    output: Path | None


def run_bench(options: BenchOptions, echo: Echo, note: Echo) -> int:
    """Measure or predict, and print; the exit status.

    echo: takes what was found, note: what is being done.
    EngineError or CheckpointError for a device or a shape that is not there.
    """
    if options.output is not None:
        options.output.touch()  # now, not after ten minutes
    report = predicted(options, echo) if options.roofline else measured(options, echo, note)
    line = json.dumps(report)
    if options.output is not None:
        options.output.write_text(line + "\n", encoding="utf-8")
    echo(line)
    return FAILED if report.get("failures") else 0


def predicted(options: BenchOptions, echo: Echo) -> dict[str, Any]:
    """The roofline; needs no device."""
    shape = options.shape or PUBLISHED_SHAPE
    roofline = Roofline(
        shape,
        config_of_shape(shape),
        presets_of(shape, options.presets),
        options.canvases or GPU_CANVASES,
        options.prompt_tokens or 1024,
    )
    echo(roofline.text() + "\n")
    return {"dgq_bench": "roofline", "roofline": roofline.report()}


def measured(options: BenchOptions, echo: Echo, note: Echo) -> dict[str, Any]:
    """All sections asked for, for as long as the time lasts."""
    started_s = time.monotonic()
    machine = machine_of(options.device)
    settings = settings_for(options, machine)
    echo(introduction(machine, settings, options) + "\n")
    found: dict[str, list[Row]] = {}
    for section in SECTIONS.values():
        if section.name in options.sections:
            rows = run_section(section, settings, started_s + options.time_limit_s, note)
            found[section.name] = rows
            echo(section_text(section, settings, rows) + "\n")
    judged = bars(found) if settings.on_gpu and settings.shape == PUBLISHED_SHAPE else []
    if judged:
        heads = ["bar, for an H100", "wanted", "measured", "met"]
        echo("## Bars\n\n" + as_table(heads, [bar.cells() for bar in judged]) + "\n")
    return {
        "dgq_bench": "measured",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": time.monotonic() - started_s,
        "machine": machine,
        "settings": asdict(settings),
        "sections": found,
        "bars": [asdict(bar) for bar in judged],
        "skipped": [
            {"section": name, "point": row["point"], "reason": row["skipped"]}
            for name, rows in found.items()
            for row in rows
            if "skipped" in row
        ],
        "failures": [
            {"section": name, "point": row["point"], "error": row.get("error", "wrong")}
            for name, rows in found.items()
            for row in rows
            if has_failed(row)
        ],
    }


def run_section(section: Section, settings: Settings, deadline_s: float, note: Echo) -> list[Row]:
    """All its groups, one after the other."""
    rows: list[Row] = []
    for group in section.groups(settings):
        left_s = deadline_s - time.monotonic()
        if left_s > 0:
            note(f"{section.name}, {group.name}: {len(group.points)} points, {left_s:.0f} s left")
        rows += measure(section.name, settings, group, deadline_s)
    return rows


def has_failed(row: Row) -> bool:
    """Whether it raised, or found something wrong."""
    return "error" in row or row.get("ok") is False


def section_text(section: Section, settings: Settings, rows: Sequence[Row]) -> str:
    """Its table, then what there is no figure for and why."""
    parts = [f"## {section.title}"]
    usable = [row for row in rows if "skipped" not in row and "error" not in row]
    if usable:
        parts.append(_table(section, settings, usable))
    elif not rows:
        parts.append(f"{NOT_MEASURED}: nothing of it runs on this device")
    lines = [
        f"{row['group']}, {row['point']}: {NOT_MEASURED}: "
        + (f"FAILED: {row['error']}" if "error" in row else row["skipped"])
        for row in rows
        if "error" in row or "skipped" in row
    ]
    return "\n\n".join([*parts, *(["\n".join(lines)] if lines else [])])


def _table(section: Section, settings: Settings, rows: Sequence[Row]) -> str:
    """A table that cannot be made must not take the figures with it."""
    try:
        return section.table(settings, rows)
    except Exception as error:  # noqa: BLE001 - the rows are in the JSON all the same
        return f"no table ({type(error).__name__}: {error}); the figures are in the JSON line"


def machine_of(device: str | None) -> dict[str, Any]:
    """What a process of its own finds. EngineError where the device is not there."""
    command = [sys.executable, "-m", f"{__package__}.machine", *([device] if device else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["it said nothing"]
        raise EngineError(f"cannot look at the device: {words[-1]}")
    machine: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in machine:
        raise EngineError(machine["error"])
    return machine


def settings_for(options: BenchOptions, machine: dict[str, Any]) -> Settings:
    """What was asked for, and for the rest what suits the device."""
    on_gpu = machine["device"] != "cpu"
    shape = options.shape or (PUBLISHED_SHAPE if on_gpu else str(DEFAULT_MODEL_PATH))
    width = config_of_shape(shape).canvas_length
    return Settings(
        device=machine["device"],
        shape=shape,
        dtype="bfloat16" if on_gpu else "float32",
        presets=presets_of(shape, options.presets or _default_presets(machine)),
        canvases=options.canvases or (GPU_CANVASES if on_gpu else CPU_CANVASES),
        prompt_tokens=options.prompt_tokens or (1024 if on_gpu else 128),
        answer_tokens=options.answer_tokens or (1024 if on_gpu else width),
    )


def _default_presets(machine: dict[str, Any]) -> tuple[str, ...]:
    """All but FP8 where the device does not multiply it: a CPU, or a GPU before that."""
    capability = tuple(map(int, machine.get("gpu_capability", "0.0").split(".")))
    presets = reversed(PRESETS)
    return tuple(
        preset
        for preset in presets
        if Quantization(preset).format != "fp8" or capability >= FP8_CAPABILITY
    )


def presets_of(shape: str, asked: Sequence[str]) -> tuple[str, ...]:
    """In the order in which they are worth measuring; a quantized folder has its own only."""
    if shape not in SHAPES and not (stored := read_quantization(Path(shape))).is_none:
        return (stored.preset,)
    return tuple(asked) or tuple(reversed(PRESETS))


def introduction(machine: dict[str, Any], settings: Settings, options: BenchOptions) -> str:
    """On what, of what, and how."""
    versions = ", ".join(
        f"{name} {version or 'not installed'}" for name, version in machine["versions"].items()
    )
    gpu = ""
    if settings.on_gpu:
        gpu = (
            f"{machine['gpu']} (sm {machine['gpu_capability']}, "
            f"{machine['gpu_memory_bytes'] / 1e9:.1f} GB, {machine['gpu_free_bytes'] / 1e9:.1f} GB "
            f"free); "
        )
    return (
        f"{gpu}{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads\n"
        f"{versions}\n"
        f"Triton's kernels: {machine['kernels'] or 'not run here'}\n"
        f"shape {Path(settings.shape).name}, {settings.dtype}; canvases "
        f"{', '.join(map(str, settings.canvases))}; prompts of {settings.prompt_tokens}, answers of "
        f"{settings.answer_tokens} tokens; {settings.num_steps} steps; at most "
        f"{options.time_limit_s:.0f} s"
    )
