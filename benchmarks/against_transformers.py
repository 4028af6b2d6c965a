"""dgq beside transformers' ``generate``, on the same jobs with the same checkpoint, in one run.

    python -m benchmarks.against_transformers --jobs 300

Both use the shipped dgq-tiny in fp32, the same number of threads, and the same pipelines, which split
the jobs, judge the answers and put them together; so both are judged alike. dgq asks again where a
check fails, and is charged for it; transformers answers each request once.

transformers is given the best that was found for it on samples: its batch size and implementation of
the experts on mixed jobs (an implementation more than SLOW times as slow as the best is left out), then
for each family the way to ask: dgq's own pieces or whole documents, from noise or from dgq's drafts.
Its canvases have the width that the checkpoint says; beside that it is measured with canvases cut by
hand to what the family needs. Every run of transformers stands between two runs of dgq, and ratios are
against the mean of the two.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace

import torch

from dgq.engine.engine import Engine
from dgq.engine.request import Request, Result
from dgq.pipelines.decoding import Decoding, Decodings, load_decoding
from dgq.pipelines.run import RunOptions
from training.evaluate import FAMILIES

from .measuring import Figures, JobSet, mixed_jobs, run_set
from .reference_engine import EXPERTS, ReferenceEngine, Setting, load_reference
from .wrapped_engine import WrappedEngine

BATCH_SIZES = (1, 4, 16)
SLOW = 3.0
UNSPLIT = 100_000

KINDS = {
    "fill": "fill",
    "json": "reformat_json",
    "python": "reformat_python",
    "rewrite": "rewrite",
}
"""The fields of Decodings that the families are decoded by."""

WAYS: dict[str, Callable[[Decoding], Decoding]] = {
    "pieces": lambda decoding: replace(decoding, draft_noise=(1.0,)),
    "pieces with drafts": lambda decoding: decoding,
    "whole": lambda decoding: replace(decoding, draft_noise=(1.0,), piece_tokens=UNSPLIT),
    "whole with drafts": lambda decoding: replace(decoding, piece_tokens=UNSPLIT),
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One set of jobs: transformers, and dgq before and after it."""

    name: str
    setting: Setting
    way: str
    before: Figures
    transformers: Figures
    after: Figures

    @property
    def ratio(self) -> float:
        """How many times as many jobs per second dgq does."""
        return self.transformers.seconds / (self.before.seconds + self.after.seconds) * 2

    def __str__(self) -> str:
        return (
            f"{self.name}\n  transformers ({self.setting}; {self.way}): {self.transformers}\n"
            f"  dgq before: {self.before}\n  dgq after:  {self.after}\n"
            f"  dgq is {self.ratio:.2f} times as fast"
        )


class Bench:
    """Both engines, loaded once."""

    def __init__(self, engine: Engine, jobs: int, seed: int, num_sampled: int) -> None:
        self._engine = engine
        self._model = load_reference()
        self._jobs, self._seed, self._num_sampled = jobs, seed, num_sampled
        self._decodings = load_decoding(engine.model_path)

    def jobs_of(self, families: Sequence[str]) -> JobSet:
        """The jobs of some families; each family's are the same alone and mixed."""
        return mixed_jobs(families, self._jobs * len(families) // len(FAMILIES), self._seed)

    def best_setting(self, families: Sequence[str]) -> Setting:
        """Of all experts that are not hopeless and all batch sizes, on a sample in pieces."""
        ways = dict.fromkeys(families, "pieces")
        sample = self.jobs_of(families).sample(self._num_sampled)
        probe = sample.sample(2)
        self.run_reference(probe, Setting(1, EXPERTS[0]), ways)  # warm-up
        seconds = {
            experts: self.run_reference(probe, Setting(1, experts), ways).seconds
            for experts in EXPERTS
        }
        usable = [name for name in EXPERTS if seconds[name] <= SLOW * min(seconds.values())]
        print(f"seconds for {len(probe)} jobs: {seconds}")
        trials = []
        for experts in usable:
            for batch_size in BATCH_SIZES:
                setting = Setting(batch_size, experts)
                trials.append((self.run_reference(sample, setting, ways).seconds, setting))
                print(f"transformers ({setting}): {len(sample) / trials[-1][0]:.2f} jobs/s")
        return min(trials, key=lambda trial: trial[0])[1]

    def best_way(self, family: str, setting: Setting) -> str:
        """The fastest way to ask for a family's answers, on a sample."""
        sample = self.jobs_of([family]).sample(self._num_sampled)
        trials = []
        for way in ["pieces"] if family == "fill" else list(WAYS):
            figures = self.run_reference(sample, setting, {family: way})
            trials.append((figures.seconds, way))
            print(f"transformers, {family}, {way}: {figures}", flush=True)
        return min(trials)[1]

    def compare(self, name: str, setting: Setting, ways: dict[str, str]) -> Comparison:
        """Run one set of jobs, dgq first and last."""
        jobs = self.jobs_of(list(ways))
        before = self.run_dgq(jobs)
        reference = self.run_reference(jobs, setting, ways)
        after = self.run_dgq(jobs)
        comparison = Comparison(name, setting, ", ".join(ways.values()), before, reference, after)
        print(comparison, flush=True)
        return comparison

    def run_dgq(self, jobs: JobSet) -> Figures:
        """As ``dgq run`` does it, the model loaded beforehand."""
        return run_set(jobs, self._engine)

    def run_reference(self, jobs: JobSet, setting: Setting, ways: dict[str, str]) -> Figures:
        """The same pipelines, all jobs at once, one attempt; ways: by family."""
        options = RunOptions(
            max_jobs=len(jobs),
            enough_requests=1_000_000,
            decodings=decodings_for(self._decodings, ways),
        )
        with ReferenceEngine(self._model, setting) as engine:
            return run_set(jobs, engine, options)

    def width_needed(self, family: str, way: str) -> int:
        """Rows of the widest canvas that a family's requests ask for."""
        engine = WidestRequest(self._engine)
        decodings = decodings_for(self._decodings, {family: way})
        run_set(self.jobs_of([family]), engine, RunOptions(decodings=decodings))
        return engine.widest


class WidestRequest(WrappedEngine):
    """Notes the widest canvas that is asked for."""

    widest = 0

    def submit(self, request: Request) -> Future[Result]:
        self.widest = max(self.widest, request.canvas_length or self.canvas_length)
        return self.engine.submit(request)


def decodings_for(decodings: Decodings, ways: dict[str, str]) -> Decodings:
    """One attempt each, asked in each family's way."""
    changed = {
        KINDS[family]: replace(WAYS[way](getattr(decodings, KINDS[family])), max_attempts=1)
        for family, way in ways.items()
    }
    return replace(decodings, **changed)


def comparisons(bench: Bench, families: Sequence[str]) -> Iterator[Comparison]:
    """Each family at the checkpoint's width and cut, then all of them mixed."""
    setting = bench.best_setting(families)
    print(f"best: {setting}", flush=True)
    ways = {family: bench.best_way(family, setting) for family in families}
    for family, way in ways.items():
        yield bench.compare(family, setting, {family: way})
        cut = replace(setting, canvas_length=bench.width_needed(family, way))
        yield bench.compare(f"{family}, canvases cut", cut, {family: way})
    if len(families) > 1:
        yield bench.compare("mixed", setting, ways)


def main() -> None:
    """Print what is found as it is found; last, one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=300, help="of all four families together")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--sample", type=int, default=16, help="jobs for choosing what is best")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with Engine.load() as engine:
        bench = Bench(engine, arguments.jobs, arguments.seed, arguments.sample)
        found = list(comparisons(bench, arguments.families))
    report = [asdict(comparison) | {"ratio": comparison.ratio} for comparison in found]
    print(json.dumps({"threads": arguments.threads, "comparisons": report}))


if __name__ == "__main__":
    main()
