"""Decoding settings against each other, kind by kind: right answers, steps, rows and speed.

``python -m benchmarks.decoding --sweep stop --families json python --jobs 100 --seed 3``. Runs the
same held-out jobs through the engine and the pipelines once for each named setting of a sweep
(SWEEPS), the checkpoint's own decoding (``as shipped``) among them. A setting is what dgq.json may
hold for a kind. Prints a table for each family, and last one line of JSON.

*rows* is the work of the denoising loop, canvas rows times steps, failed attempts included; it does
not depend on what else the machine does, as seconds do. CPU seconds are of the whole process.
Recall and copies are over first attempts, each compared to its own right answer: the share of the
needed edits that were made, and the share of answers equal to their source that should not be.
"""

import argparse
import difflib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dgq.engine.engine import Engine
from dgq.engine.generation_config import read_generation_config
from dgq.engine.request import ROW_MULTIPLE, Request, Result
from dgq.pipelines.decoding import Decodings, changed_decoding, load_decoding
from dgq.pipelines.reading import read_jobs
from dgq.pipelines.run import RunOptions, run_jobs
from training import json_documents, python_functions
from training.case import JobCase
from training.evaluate import FAMILIES, as_lines, held_out_jobs

KINDS = {
    "fill": "fill",
    "json": "reformat_json",
    "python": "reformat_python",
    "rewrite": "rewrite",
}
Changes = dict[str, Any]


def _sampling(**knobs: Any) -> Changes:
    return {"sampling": knobs}


SWEEPS: dict[str, dict[str, Changes]] = {
    "shipped": {},
    "stop": {
        "reference rule": _sampling(stability_threshold=1, stop_to_end=False),
        "stability 0": _sampling(stability_threshold=0, stop_to_end=False),
        "rows to the end": _sampling(stability_threshold=1, stop_to_end=True),
        "stability 0, rows to the end": _sampling(stability_threshold=0, stop_to_end=True),
        "entropy 0.02, rows to the end": _sampling(
            stop_rule="mean_entropy", confidence_threshold=0.02, stop_to_end=True
        ),
        "entropy 0.05, rows to the end": _sampling(
            stop_rule="mean_entropy", confidence_threshold=0.05, stop_to_end=True
        ),
        "entropy 0.05 after 4, rows to the end": _sampling(
            stop_rule="mean_entropy",
            confidence_threshold=0.05,
            min_denoising_steps=4,
            stop_to_end=True,
        ),
        "plateau 1 below 0.05": _sampling(
            stop_rule="plateau", stability_threshold=1, confidence_threshold=0.05
        ),
        "plateau 2 below 0.2": _sampling(
            stop_rule="plateau", stability_threshold=2, confidence_threshold=0.2
        ),
        "argmax still for 1 below 0.05": _sampling(
            stability_threshold=1, confidence_threshold=0.05
        ),
        "argmax still for 2 below 0.2": _sampling(stability_threshold=2, confidence_threshold=0.2),
    },
    "cap": {
        f"cap {cap}, {rerolls} re-rolls": _sampling(max_denoising_steps=cap, max_rerolls=rerolls)
        for cap in (6, 8, 12, 16, 24)
        for rerolls in (0, 1)
    },
    "warm": {
        f"noise {noise}, renoise {renoise}": {
            "draft_noise": [noise],
            "draft_renoise": [renoise],
            "max_attempts": 1,
        }
        for noise in (0.0, 0.15, 0.3, 0.5, 0.7, 1.0)
        for renoise in ((1.0, 0.0) if noise < 1 else (1.0,))
    },
    "attempts": {
        "0, 0.5, 1": {"draft_noise": [0.0, 0.5, 1.0]},
        "1, 0.5, 0": {"draft_noise": [1.0, 0.5, 0.0]},
        "0, 1": {"draft_noise": [0.0, 1.0]},
        "0.3, 0.7, 1": {"draft_noise": [0.3, 0.7, 1.0]},
        "always 1": {"draft_noise": [1.0]},
    },
    "width": {
        "by need": {"full_width": False},
        "256 rows": {"full_width": True},
        "too narrow, room 0.6": {"room": 0.6},
    },
    "pieces": {
        f"pieces of {size}": {"piece_tokens": size} for size in (20, 24, 32, 40, 48, 64, 111)
    },
}


class RecordingEngine:
    """Passes requests on to an engine and keeps each with its result."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.answered: list[tuple[Request, Result]] = []
        self.tokenizer = engine.tokenizer
        self.canvas_length = engine.canvas_length
        self.model_name = engine.model_name
        self.model_path = engine.model_path

    def submit(self, request: Request) -> Future[Result]:
        """As Engine.submit."""
        future = self._engine.submit(request)
        future.add_done_callback(partial(self._keep, request))
        return future

    def _keep(self, request: Request, future: Future[Result]) -> None:
        self.answered.append((request, future.result()))


@dataclass(frozen=True, slots=True)
class Row:
    """One setting on one family; counts are per job where they say so.

    steps: of the canvases, re-rolls included. histogram: how many requests took that many steps.
    """

    family: str
    setting: str
    jobs: int
    exact: float
    passed_checks: float
    steps_per_canvas: float
    requests_per_job: float
    rows_per_job: float
    prompt_tokens_per_job: float
    edit_recall: float | None
    copies: float | None
    jobs_per_second: float
    jobs_per_cpu_second: float
    histogram: dict[int, int]


def measure(engine: Engine, family: str, cases: Sequence[JobCase], decodings: Decodings) -> Row:
    """Run the jobs once; the setting's name is left empty."""
    recorder = RecordingEngine(engine)
    jobs = read_jobs(as_lines(cases, family))
    started, cpu_started = time.perf_counter(), time.process_time()
    results = list(run_jobs(jobs, recorder, options=RunOptions(decodings=decodings)))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    expected = {f"{family}-{i}": case.expected for i, case in enumerate(cases)}
    answered = recorder.answered
    recall, copies = edits(recorder, family, cases)
    count = len(results)
    return Row(
        family=family,
        setting="",
        jobs=count,
        exact=sum(result.output == expected[str(result.id)] for result in results) / count,
        passed_checks=sum(result.status == "ok" for result in results) / count,
        steps_per_canvas=sum(result.num_steps for _, result in answered)
        / sum(result.num_canvases for _, result in answered),
        requests_per_job=len(answered) / count,
        rows_per_job=sum(rows_of(request) * result.num_steps for request, result in answered)
        / count,
        prompt_tokens_per_job=sum(len(request.prompt_ids) for request, _ in answered) / count,
        edit_recall=recall,
        copies=copies,
        jobs_per_second=count / seconds,
        jobs_per_cpu_second=count / cpu,
        histogram=dict(sorted(Counter(result.num_steps for _, result in answered).items())),
    )


def rows_of(request: Request) -> int:
    """The width of the request's canvases (a shorter last one is counted in full)."""
    most = -(-request.max_new_tokens // ROW_MULTIPLE) * ROW_MULTIPLE
    return min(request.canvas_length or most, most)


def edits(
    recorder: RecordingEngine, family: str, cases: Sequence[JobCase]
) -> tuple[float | None, float | None]:
    """Edit recall and the share of copies, over the first attempts that have edits to make."""
    answers = {case.prompt: (case.draft, case.answer) for job in cases for case in job.cases}
    needed = made = copied = asked = 0
    seen: set[tuple[int, ...]] = set()
    for request, result in recorder.answered:
        if request.prompt_ids in seen:
            continue
        seen.add(request.prompt_ids)
        prompt = recorder.tokenizer.decode(request.prompt_ids)
        prompt = prompt.removeprefix("user\n").removesuffix("\nmodel\n")
        draft, answer = answers.get(prompt) or reformatted(prompt, family)
        source, wanted = recorder.tokenizer.encode(draft), recorder.tokenizer.encode(answer)
        if not draft or source == wanted:
            continue
        wanted_edits = _edits(source, wanted)
        got = recorder.tokenizer.encode(recorder.tokenizer.decode(result.token_ids))
        asked += 1
        copied += got == source
        needed += len(wanted_edits)
        made += len(wanted_edits & _edits(source, got))
    return (made / needed, copied / asked) if asked else (None, None)


def _edits(source: list[int], answer: list[int]) -> set[tuple[int, int, tuple[int, ...]]]:
    matcher = difflib.SequenceMatcher(None, source, answer, autojunk=False)
    return {
        (start, end, tuple(answer[first:last]))
        for kind, start, end, first, last in matcher.get_opcodes()
        if kind != "equal"
    }


def reformatted(prompt: str, family: str) -> tuple[str, str]:
    """The source of a reformat prompt and its right answer; nothing where there is none."""
    match = re.fullmatch(r"Reformat this \w+\. Style: ([^.]*)\.\n\n(.*)", prompt, re.DOTALL)
    if match is None:
        return "", ""
    words, source = match.groups()
    if family == "json":
        style = next(name for name, said in json_documents.STYLES.items() if said == words)
        return source, json_documents.layout(json.loads(source), style)
    layout = next(style for style in python_functions.STYLES.values() if style.words == words)
    answer = python_functions.restyle(source, layout)
    return (source, answer) if answer is not None else ("", "")


def settings_of(sweep: str, extra: Sequence[str]) -> dict[str, Changes]:
    """The sweep's settings after the shipped one, and those given as NAME=JSON."""
    settings: dict[str, Changes] = {"as shipped": {}} | SWEEPS[sweep]
    for text in extra:
        name, _, changes = text.partition("=")
        settings[name] = json.loads(changes)
    return settings


COLUMNS: list[tuple[str, Callable[[Row], str]]] = [
    ("setting", lambda row: row.setting),
    ("exact", lambda row: f"{row.exact:.1%}"),
    ("passed", lambda row: f"{row.passed_checks:.1%}"),
    ("steps/canvas", lambda row: f"{row.steps_per_canvas:.2f}"),
    ("steps p50/p90/max", lambda row: quantiles(row.histogram)),
    ("requests/job", lambda row: f"{row.requests_per_job:.2f}"),
    ("rows/job", lambda row: f"{row.rows_per_job:.0f}"),
    ("read/job", lambda row: f"{row.prompt_tokens_per_job:.0f}"),
    ("recall", lambda row: "" if row.edit_recall is None else f"{row.edit_recall:.1%}"),
    ("copies", lambda row: "" if row.copies is None else f"{row.copies:.1%}"),
    ("jobs/s", lambda row: f"{row.jobs_per_second:.1f}"),
    ("jobs/CPU s", lambda row: f"{row.jobs_per_cpu_second:.1f}"),
]


def print_line(cells: Sequence[str]) -> None:
    """A line of a Markdown table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def quantiles(histogram: dict[int, int]) -> str:
    """Median, ninth decile and the most."""
    steps = [step for step, count in histogram.items() for _ in range(count)]
    return f"{steps[len(steps) // 2]}/{steps[len(steps) * 9 // 10]}/{steps[-1]}"


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=None, help="default: the shipped dgq-tiny")
    parser.add_argument("--sweep", default="shipped", choices=list(SWEEPS))
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--jobs", type=int, default=100, help="jobs of each family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=JSON", help="more settings")
    parser.add_argument("--only", default="", help="settings whose name contains this")
    arguments = parser.parse_args()
    report: list[dict[str, Any]] = []
    with Engine.load(arguments.model) as engine:
        shipped = load_decoding(engine.model_path)
        sampling = read_generation_config(engine.model_path).sampling
        for family in arguments.families:
            cases = held_out_jobs(family, arguments.jobs, arguments.seed)
            kind = KINDS[family]
            print(f"\n{family}, {len(cases)} jobs\n")
            print_line([name for name, _ in COLUMNS])
            print_line(["---"] * len(COLUMNS))
            for name, changes in settings_of(arguments.sweep, arguments.set).items():
                if arguments.only not in name:
                    continue
                decoding = changed_decoding(getattr(shipped, kind), changes, sampling, kind)
                row = measure(engine, family, cases, replace(shipped, **{kind: decoding}))
                row = replace(row, setting=name)
                print_line([show(row) for _, show in COLUMNS])
                report.append(asdict(row))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
