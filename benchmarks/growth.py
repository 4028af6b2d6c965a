"""How speed and memory grow: with the number of jobs, the length of prompts, and the blocks in flight.

    python -m benchmarks.growth --jobs 10 100 1000 10000

Every point is a process of its own, so that its peak of memory is its own. *Host* is the share of the
time from the first step to the last that was not spent in the model: planning and laying out a step,
judging it and handing results back, and waiting between steps for what the pipelines submit next. It
is read from the engine's trace, which is on in all of them. Prints a line for each point, and last one
line of JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dgq.engine.engine import Engine
from dgq.engine.engine_config import DEFAULT_ENGINE_CONFIG, EngineConfig
from dgq.engine.request import Request, SamplingConfig
from dgq.engine.stats import BLOCK_ROWS
from dgq.engine.trace import TraceRecorder
from dgq.pipelines.reading import read_jobs
from dgq.pipelines.run import RunOptions, run_jobs
from training.evaluate import FAMILIES, as_lines, held_out_jobs

ROWS_PER_CANVAS = 32
"""Rows for which one more canvas is allowed, where the row budget is changed."""

KV_TOKENS_PER_ROW = DEFAULT_ENGINE_CONFIG.max_kv_tokens // DEFAULT_ENGINE_CONFIG.max_rows
PROMPT_REQUESTS = 48
PROMPT_STEPS = 8
"""Denoising steps of each canvas where the length of prompts is changed: all of them."""


@dataclass(frozen=True, slots=True)
class Point:
    """What one process does: the jobs of a file or, with prompt_tokens, requests of that length.

    num_blocks: of the row budget. shared: whether the prompts differ in their last tokens only.
    """

    jobs_path: str = ""
    prompt_tokens: int = 0
    shared: bool = False
    num_blocks: int = DEFAULT_ENGINE_CONFIG.max_rows // BLOCK_ROWS
    threads: int = 1

    @property
    def config(self) -> EngineConfig:
        """The default, or with more or fewer rows and what goes with them."""
        rows = self.num_blocks * BLOCK_ROWS
        if rows == DEFAULT_ENGINE_CONFIG.max_rows:
            return DEFAULT_ENGINE_CONFIG
        return EngineConfig(
            max_rows=rows,
            max_canvases=rows // ROWS_PER_CANVAS,
            max_kv_tokens=max(rows * KV_TOKENS_PER_ROW, DEFAULT_ENGINE_CONFIG.max_kv_tokens),
        )

    @property
    def options(self) -> RunOptions:
        """Enough requests to fill the engine, as ``dgq run`` has for the default one."""
        default = RunOptions()
        times = max(1, self.config.max_canvases // DEFAULT_ENGINE_CONFIG.max_canvases)
        return RunOptions(default.max_jobs * times, default.enough_requests * times)


@dataclass(frozen=True, slots=True)
class Times:
    """Of a trace, in seconds; shares of the time from the first step's begin to the last one's end.

    between: no step was under way. fill: mean over the steps, of the blocks that they filled.
    """

    steps: int
    seconds: float
    model: float
    plan: float
    judge: float
    between: float
    fill: float
    canvases: float

    @classmethod
    def of(cls, trace: Path) -> "Times":
        """Read a trace, event by event: it may be long."""
        sums = dict.fromkeys(("step", "plan", "model", "judge"), 0.0)
        begin = end = fill = canvases = 0.0
        steps = 0
        for event in events_of(trace):
            if event["ph"] != "X":
                continue
            sums[event["name"]] += event["dur"] / 1e6
            if event["name"] == "step":
                begin = begin if steps else event["ts"] / 1e6
                end = (event["ts"] + event["dur"]) / 1e6
                steps += 1
                fill += event["args"]["block_fill"]
                canvases += event["args"]["canvases"]
        seconds = end - begin
        return cls(
            steps=steps,
            seconds=seconds,
            model=sums["model"] / seconds,
            plan=sums["plan"] / seconds,
            judge=sums["judge"] / seconds,
            between=1 - sums["step"] / seconds,
            fill=fill / steps,
            canvases=canvases / steps,
        )


def events_of(trace: Path) -> Iterator[dict[str, Any]]:
    """The events of a trace; each has a line of its own."""
    with trace.open() as file:
        for line in file:
            if line.startswith("{"):
                yield json.loads(line.rstrip().rstrip(","))


def measure(point: Point) -> dict[str, Any]:
    """In the child: do it, and say how long it took."""
    torch.set_num_threads(point.threads)
    with tempfile.TemporaryDirectory() as folder:
        trace_path = Path(folder) / "trace.json"
        with (
            TraceRecorder(trace_path) as trace,
            Engine.load(config=point.config, trace=trace) as engine,
        ):
            started = time.perf_counter()
            count = sum(1 for _ in results_of(point, engine))
            seconds = time.perf_counter() - started
        return {"count": count, "seconds": seconds, **asdict(Times.of(trace_path))}


def results_of(point: Point, engine: Engine) -> Iterator[object]:
    """Do it; one item for each job or request, as it ends."""
    if point.prompt_tokens:
        yield from engine.generate(prompts(point, engine))
        return
    with open(point.jobs_path, "rb") as lines:
        yield from run_jobs(read_jobs(lines), engine, options=point.options)


def prompts(point: Point, engine: Engine) -> Iterator[Request]:
    """Requests with prompts of random tokens, and canvases of 64 rows that take all their steps."""
    vocab_size = engine.tokenizer.vocab_size
    generator = torch.Generator().manual_seed(0)
    knobs = SamplingConfig(
        max_denoising_steps=PROMPT_STEPS, confidence_threshold=1e-12, max_rerolls=0
    )
    ids: list[int] = []
    for seed in range(PROMPT_REQUESTS):
        if not (ids and point.shared):
            ids = torch.randint(6, vocab_size, (point.prompt_tokens,), generator=generator).tolist()
        yield Request((*ids[:-1], 6 + seed), 64, seed=seed, canvas_length=64, sampling=knobs)


def in_a_process(point: Point) -> dict[str, Any]:
    """What the child says, and the most memory that it had."""
    command = [sys.executable, "-m", "benchmarks.growth", "--point", json.dumps(asdict(point))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as stdout:
        output = stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    found: dict[str, Any] = json.loads(output)
    return found | {"peak_bytes": usage.ru_maxrss * 1024}


def write_jobs(path: Path, count: int) -> None:
    """Held-out jobs of all families in turn."""
    each = -(-count // len(FAMILIES))
    by_family = [as_lines(held_out_jobs(family, each, 0), family) for family in FAMILIES]
    lines = [line for group in zip(*by_family, strict=True) for line in group]
    path.write_bytes(b"".join(lines[:count]))


def show(name: str, found: dict[str, Any]) -> None:
    """One row of the table."""
    host = 1 - found["model"]
    print(
        f"| {name} | {found['count'] / found['seconds']:.2f} | {found['peak_bytes'] / 1e6:.0f} "
        f"| {found['canvases']:.1f} | {found['fill']:.0%} "
        f"| {host:.1%} ({found['plan']:.1%}, {found['judge']:.1%}, {found['between']:.1%}) "
        f"| {found['steps']} |",
        flush=True,
    )


HEAD = """\
| | per second | peak MB | canvases per step | block fill | host (plan, judge, between) | steps |
| --- | --- | --- | --- | --- | --- | --- |"""


def points(arguments: argparse.Namespace, folder: Path) -> Iterable[tuple[str, Point]]:
    """What to measure, with its name in the table."""
    threads = arguments.threads
    for count in arguments.jobs:
        path = folder / f"{count}.jsonl"
        write_jobs(path, count)
        yield f"{count:,} jobs", Point(jobs_path=str(path), threads=threads)
    for tokens in arguments.prompts:
        yield f"prompts of {tokens:,} tokens", Point(prompt_tokens=tokens, threads=threads)
        shared = Point(prompt_tokens=tokens, shared=True, threads=threads)
        yield f"{tokens:,} tokens, alike but for the last", shared
    path = folder / "blocks.jsonl"
    write_jobs(path, arguments.block_jobs)
    for num_blocks in arguments.blocks:
        point = Point(jobs_path=str(path), num_blocks=num_blocks, threads=threads)
        yield f"{num_blocks} blocks ({arguments.block_jobs} jobs)", point


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, nargs="*", default=[10, 100, 1_000, 10_000])
    parser.add_argument("--prompts", type=int, nargs="*", default=[100, 500, 2_000, 8_000])
    parser.add_argument("--blocks", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--block-jobs", type=int, default=600)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--point", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point:
        print(json.dumps(measure(Point(**json.loads(arguments.point)))))
        return
    print(HEAD)
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, point in points(arguments, Path(folder)):
            found = in_a_process(point)
            report[name] = found
            show(name, found)
    print(json.dumps({"threads": arguments.threads, "points": report}))


if __name__ == "__main__":
    main()
