"""What each part of the engine and of the decoding is worth: the same jobs with and without it.

    python -m benchmarks.engine_parts --jobs 300

Each part is switched off alone, and measured right after a run with everything on, so that a machine
whose speed varies disturbs the two alike. Prints a table, and last one line of JSON.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch

from dgq.engine.engine import Engine
from dgq.engine.engine_config import DEFAULT_ENGINE_CONFIG, EngineConfig
from dgq.engine.stats import BLOCK_ROWS
from dgq.pipelines.decoding import DEFAULT_DECODINGS, Decodings, changed_decoding, load_decoding
from dgq.pipelines.ports import TextEngine
from dgq.pipelines.run import RunOptions
from training.evaluate import FAMILIES

from .measuring import Figures, JobSet, mixed_jobs, run_set
from .wrapped_engine import FullWidth, Waves

EARLIER_DECODINGS: dict[str, Any] = {
    "fill": {"slot_tokens": 31, "max_attempts": 6},
    "reformat_python": {
        "draft_noise": [0.0, 0.5, 1.0],
        "piece_tokens": 111,
        "room": 1.3,
        "max_attempts": 4,
    },
    "reformat_json": {
        "draft_noise": [0.0, 0.5, 1.0],
        "piece_tokens": 48,
        "room": 1.6,
        "max_attempts": 4,
    },
    "rewrite": {
        "draft_noise": [0.0, 0.5, 1.0],
        "piece_tokens": 44,
        "room": 1.2,
        "max_attempts": 4,
    },
}
"""dgq-tiny's dgq.json of 2026-11-24, before stop rules and piece sizes were measured."""


@dataclass(frozen=True, slots=True)
class Without:
    """A part, and how a run goes without it."""

    part: str
    config: EngineConfig = DEFAULT_ENGINE_CONFIG
    wrap: Callable[[Engine], TextEngine] = lambda engine: engine
    decodings: Callable[[Engine, Decodings], Decodings] = lambda engine, decodings: decodings


@dataclass(frozen=True, slots=True)
class Share:
    """A part's runs, with and without it."""

    part: str
    on: Figures
    off: Figures

    @property
    def ratio(self) -> float:
        """How many times as many jobs per second there are with it."""
        return self.on.jobs_per_s / self.off.jobs_per_s

    def __str__(self) -> str:
        on, off = self.on, self.off
        return (
            f"| {self.part} | {on.jobs_per_s:.2f} | {off.jobs_per_s:.2f} | {self.ratio:.2f} "
            f"| {on.exact:.1%} | {off.exact:.1%} | {on.steps_per_canvas:.1f} "
            f"| {off.steps_per_canvas:.1f} | {on.requests} | {off.requests} |"
        )


HEAD = (
    """\
| part | jobs/s with | without | ratio | exact with | without | steps with | without \
| requests with | without |
|"""
    + " --- |" * 10
)


def cold(engine: Engine, decodings: Decodings) -> Decodings:
    """Every canvas starts from noise."""
    kinds = {field.name: getattr(decodings, field.name) for field in fields(Decodings)}
    return Decodings(**{name: replace(kind, draft_noise=(1.0,)) for name, kind in kinds.items()})


def earlier(engine: Engine, decodings: Decodings) -> Decodings:
    """What was decoded how before it was measured."""
    changed = {
        kind: changed_decoding(getattr(DEFAULT_DECODINGS, kind), values, engine.sampling, kind)
        for kind, values in EARLIER_DECODINGS.items()
    }
    return replace(decodings, **changed)


def in_waves(engine: Engine) -> TextEngine:
    """With the bounds of the default engine."""
    config = DEFAULT_ENGINE_CONFIG
    return Waves(engine, config.max_canvases, config.max_rows)


def budget(num_blocks: int) -> EngineConfig:
    """A row budget of so many blocks."""
    return replace(DEFAULT_ENGINE_CONFIG, max_rows=num_blocks * BLOCK_ROWS)


PARTS = (
    Without("shared prefixes", config=replace(DEFAULT_ENGINE_CONFIG, share_prefixes=False)),
    Without(
        "sparse self-conditioning",
        config=replace(DEFAULT_ENGINE_CONFIG, sparse_self_conditioning=False),
    ),
    Without("widths by need (off: 256 rows each)", wrap=FullWidth),
    Without("continuous batching (off: in waves)", wrap=in_waves),
    Without("warm starts (off: from noise)", decodings=cold),
    Without("stop rules and pieces (off: of 2026-11-24)", decodings=earlier),
    Without("8 blocks in a step (off: 1)", config=budget(1)),
    Without("8 blocks in a step (off: 2)", config=budget(2)),
    Without("8 blocks in a step (off: 4)", config=budget(4)),
)


def run_without(off: Without, jobs: JobSet) -> Figures:
    """One run, on an engine of its own."""
    with Engine.load(config=off.config) as engine:
        decodings = off.decodings(engine, load_decoding(engine.model_path))
        return run_set(jobs, off.wrap(engine), RunOptions(decodings=decodings))


def main() -> None:
    """Print a line for each part as it is measured; last, one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", default=[""], help="only those that begin like this")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    jobs = mixed_jobs(arguments.families, arguments.jobs, arguments.seed)
    run_without(Without("warm-up"), jobs.sample(16))
    print(HEAD)
    shares = []
    for off in PARTS:
        if off.part.startswith(tuple(arguments.parts)):
            shares.append(Share(off.part, run_without(Without(""), jobs), run_without(off, jobs)))
            print(shares[-1], flush=True)
    report = [asdict(share) | {"ratio": share.ratio} for share in shares]
    print(json.dumps({"threads": arguments.threads, "parts": report}))


if __name__ == "__main__":
    main()
