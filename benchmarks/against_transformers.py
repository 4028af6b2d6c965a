"""``dgq run``'s jobs per second beside transformers' ``generate`` on the same prompts, in one run.

``python -m benchmarks.against_transformers --jobs 300``. Both use the shipped dgq-tiny in fp32, the
checkpoint's sampling settings and the same number of threads. transformers gets every prompt once,
sorted by length and padded on the left. Each implementation of the experts is probed on one prompt,
and left out if it is more than SLOW times as slow as the best; the others are run in each batch size
on a sample, and the best pair on all prompts. It is also given dgq's drafts as its
starting canvases (``decoder_input_ids``), so that the ratio does not hide the warm start. dgq also checks the
answers, asks again where a check fails, and is charged for it.
"""

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dgq.engine.engine import DEFAULT_MODEL_PATH, Engine
from dgq.engine.request import Request, Result
from dgq.pipelines.reading import read_jobs
from dgq.pipelines.run import run_jobs
from training.evaluate import FAMILIES, as_lines, held_out_jobs

BATCH_SIZES = (1, 8, 32)
EXPERTS = ("eager", "batched_mm", "grouped_mm")
SLOW = 3.0


@dataclass(frozen=True, slots=True)
class Setting:
    """How transformers is run."""

    batch_size: int
    experts: str
    warm: bool = False


class RecordingEngine:
    """Passes requests on to an engine and keeps the first one of each prompt."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.requests: dict[tuple[int, ...], Request] = {}
        self.tokenizer = engine.tokenizer
        self.canvas_length = engine.canvas_length
        self.model_name = engine.model_name
        self.model_path = engine.model_path

    def submit(self, request: Request) -> Future[Result]:
        """As Engine.submit."""
        self.requests.setdefault(request.prompt_ids, request)
        return self._engine.submit(request)


def run_dgq(lines: list[bytes]) -> tuple[float, list[Request], dict[str, Any]]:
    """Seconds, the distinct requests made, and what the results say."""
    with Engine.load() as engine:
        recorder = RecordingEngine(engine)
        started = time.perf_counter()
        results = list(run_jobs(read_jobs(lines), recorder))
        seconds = time.perf_counter() - started
    canvases = sum(result.stats.canvases for result in results)
    facts = {
        "ok": sum(result.status == "ok" for result in results),
        "requests": sum(result.stats.requests for result in results),
        "canvases": canvases,
        "steps_per_canvas": sum(result.stats.steps for result in results) / canvases,
    }
    return seconds, list(recorder.requests.values()), facts


def load_reference(experts: str) -> Any:
    """The same checkpoint in transformers."""
    from transformers.models.diffusion_gemma import DiffusionGemmaForBlockDiffusion

    model = DiffusionGemmaForBlockDiffusion.from_pretrained(DEFAULT_MODEL_PATH, dtype=torch.float32)
    model.set_experts_implementation(experts)
    return model.eval()


def run_reference(
    model: Any, requests: Sequence[Request], setting: Setting, **options: Any
) -> float:
    """Seconds for all prompts. options: more of ``generate``'s."""
    ordered = sorted(requests, key=lambda request: len(request.prompt_ids))
    torch.manual_seed(0)
    started = time.perf_counter()
    for start in range(0, len(ordered), setting.batch_size):
        batch = ordered[start : start + setting.batch_size]
        longest = max(len(request.prompt_ids) for request in batch)
        pads = [longest - len(request.prompt_ids) for request in batch]
        ids = [[0] * pad + list(r.prompt_ids) for pad, r in zip(pads, batch, strict=True)]
        mask = [[0] * pad + [1] * (longest - pad) for pad in pads]
        inputs: dict[str, Any] = {
            "input_ids": torch.tensor(ids),
            "attention_mask": torch.tensor(mask),
            "max_new_tokens": model.config.canvas_length,
        }
        if setting.warm:
            inputs["decoder_input_ids"] = starting_canvases(model, batch)
        model.generate(**inputs, **options)
    return time.perf_counter() - started


def starting_canvases(model: Any, batch: Sequence[Request]) -> torch.Tensor:
    """dgq's drafts, noised as dgq does, on transformers' full-width canvases; noise for the rest."""
    width, vocab_size = model.config.canvas_length, model.config.text_config.vocab_size
    canvases = torch.randint(0, vocab_size, (len(batch), width))
    for row, request in enumerate(batch):
        if request.draft_ids:
            draft = torch.full((width,), int(model.config.text_config.eos_token_id))
            draft[: len(request.draft_ids)] = torch.tensor(request.draft_ids)
            kept = torch.rand(width) >= request.draft_noise
            canvases[row] = torch.where(kept, draft, canvases[row])
    return canvases


def usable_experts(request: Request) -> list[str]:
    """The implementations that are not hopelessly slow, by four steps on one prompt."""
    seconds = {}
    for experts in EXPERTS:
        model = load_reference(experts)
        run_reference(model, [request], Setting(1, experts), max_denoising_steps=1)  # warm-up
        seconds[experts] = run_reference(
            model, [request], Setting(1, experts), max_denoising_steps=4
        )
        print(f"transformers {experts}: {seconds[experts]:.2f} s for one prompt, 4 steps")
    return [name for name in EXPERTS if seconds[name] <= SLOW * min(seconds.values())]


def main() -> None:
    """Run both sides and print a table, then one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--sample", type=int, default=48, help="prompts for choosing the best pair")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="also write the JSON there")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lines: list[bytes] = []
    for family in FAMILIES:
        count = arguments.jobs // len(FAMILIES)
        lines += as_lines(held_out_jobs(family, count, arguments.seed), family)
    seconds, requests, facts = run_dgq(lines)
    print(f"dgq: {len(lines)} jobs in {seconds:.1f} s, {len(lines) / seconds:.2f} jobs/s, {facts}")
    sample = requests[:: max(1, len(requests) // arguments.sample)]
    trials: list[tuple[float, Setting]] = []
    for experts in usable_experts(sample[0]):
        model = load_reference(experts)
        for batch_size in BATCH_SIZES:
            setting = Setting(batch_size, experts)
            trials.append((run_reference(model, sample, setting), setting))
            print(
                f"transformers {setting}: {len(sample) / trials[-1][0]:.2f} prompts/s", flush=True
            )
    best = min(trials, key=lambda trial: trial[0])[1]
    report: dict[str, Any] = {"jobs": len(lines), "dgq_seconds": seconds, "dgq": facts}
    model = load_reference(best.experts)
    for warm in (False, True):
        setting = Setting(best.batch_size, best.experts, warm)
        reference_seconds = run_reference(model, requests, setting)
        ratio = reference_seconds / seconds
        report[f"transformers_{'warm' if warm else 'cold'}_seconds"] = reference_seconds
        print(
            f"transformers {setting}: {len(lines) / reference_seconds:.2f} jobs/s; "
            f"dgq is {ratio:.2f} times as fast",
            flush=True,
        )
    seconds_again = run_dgq(lines)[0]
    report["dgq_seconds_again"] = seconds_again
    print(f"dgq again: {len(lines) / seconds_again:.2f} jobs/s")
    print(json.dumps(report))
    if arguments.out:
        arguments.out.write_text(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
