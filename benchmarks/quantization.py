"""What fewer bits cost in quality, and what they save in loading: ``python -m benchmarks.quantization``.

Quality, on dgq-tiny in fp32: held-out jobs through the engine (training.evaluate), and step 1 of the
same canvases, from the same noise, in each format and in bf16: the divergence KL(bf16 || format) of a
row's next-token distribution at temperature 1, and the share of a row's experts that are the same.

Loading: a checkpoint of one layer at the published model's shapes, with random weights, is
written, quantized and loaded, each in a process of its own; a process's peak of host memory
is given less what it held before it began. On a CPU the loaded weights count to it. With ``--device
cuda`` they are loaded, and quantized on the way, there, and the peak of tensors on the device is given too.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dgq.engine.checkpoint import load_model
from dgq.engine.config import ModelConfig
from dgq.engine.engine import DEFAULT_MODEL_PATH, Engine
from dgq.engine.feedforward import Router
from dgq.engine.model import DiffusionGemma
from dgq.engine.quantization import Quantization
from dgq.engine.quantized_checkpoint import quantize_checkpoint
from dgq.engine.request import Request, Result
from dgq.pipelines.reading import read_jobs
from dgq.pipelines.run import run_jobs
from training.checkpoint import CONFIG
from training.evaluate import FAMILIES, as_lines, evaluate, held_out_jobs

from .wrapped_engine import WrappedEngine

FORMATS = {
    "bf16": Quantization(),
    "fp8-experts": Quantization("fp8-experts"),
    "nf4-experts": Quantization("nf4-experts"),
    "nf4": Quantization("nf4"),
    "nf4, double": Quantization("nf4", double_quantization=True),
}
PARTS = ("loading", "quality")
LAYER_SHAPES = {
    "vocab_size": 4096,  # the real one has 262,144; the largest tensors are the experts'
    "hidden_size": 2816,
    "intermediate_size": 2112,
    "moe_intermediate_size": 704,
    "num_experts": 128,
    "top_k_experts": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "global_head_dim": 512,
    "num_global_key_value_heads": 2,
    "layer_types": ["sliding_attention"],
    "sliding_window": 1024,
}


@dataclass(frozen=True, slots=True)
class FirstStep:
    """Of all rows, the mean and the 99th percentile of KL in nats; of all layers, the overlap."""

    kl_mean_nats: float
    kl_p99_nats: float
    router_overlap: float


@dataclass(frozen=True, slots=True)
class Loading:
    """Of one process. cpu_seconds: of all its threads. peak_mb: beyond what it held before.

    device_peak_mb: of tensors on the GPU, those of the loaded model included; None without one.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float
    device_peak_mb: float | None = None


class PromptRecorder(WrappedEngine):
    """Keeps every prompt once, in the order of their submission."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.prompts: dict[tuple[int, ...], None] = {}

    def submit(self, request: Request) -> Future[Result]:
        """As Engine.submit."""
        self.prompts[request.prompt_ids] = None
        return self.engine.submit(request)


def sample_prompts(count: int, seed: int) -> list[tuple[int, ...]]:
    """Prompts of held-out jobs of all families, as the pipelines ask them."""
    prompts: list[tuple[int, ...]] = []
    with Engine.load() as engine:
        for family in FAMILIES:
            recorder = PromptRecorder(engine)
            lines = as_lines(held_out_jobs(family, count, seed), family)
            list(run_jobs(read_jobs(lines), recorder))
            prompts += list(recorder.prompts)[:count]
    return prompts


@torch.inference_mode()
def first_step(
    model: DiffusionGemma, prompt: tuple[int, ...], seed: int
) -> tuple[Tensor, list[Tensor]]:
    """Log-probabilities [W, V] of a canvas of uniform noise; each layer's experts [W, K]."""
    chosen: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _, __, output: chosen.append(output[2]))
        for module in model.modules()
        if isinstance(module, Router)
    ]
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    canvas = torch.randint(0, config.vocab_size, (1, config.canvas_length), generator=generator)
    ids = torch.tensor([prompt])
    positions = torch.arange(ids.shape[1] + canvas.shape[1])[None]
    valid = torch.ones_like(ids, dtype=torch.bool)
    _, past = model.encode(ids, positions[:, : ids.shape[1]], valid)
    chosen.clear()
    hidden = model.denoise(
        canvas, positions[:, ids.shape[1] :], torch.ones_like(canvas, dtype=torch.bool), past, valid
    )
    for hook in hooks:
        hook.remove()
    return model.logits(hidden)[0].log_softmax(dim=-1), chosen


def compare_first_steps(folder: Path, prompts: list[tuple[int, ...]]) -> FirstStep:
    """A folder beside dgq-tiny as it is shipped."""
    reference, model = load_model(DEFAULT_MODEL_PATH), load_model(folder)
    divergences: list[Tensor] = []
    overlaps: list[Tensor] = []
    for seed, prompt in enumerate(prompts):
        wanted, wanted_experts = first_step(reference, prompt, seed)
        found, found_experts = first_step(model, prompt, seed)
        divergences.append((wanted.exp() * (wanted - found)).sum(dim=-1))
        for ours, theirs in zip(found_experts, wanted_experts, strict=True):
            same = (ours[:, :, None] == theirs[:, None, :]).any(dim=-1)
            overlaps.append(same.float().mean())
    kl = torch.cat(divergences)
    return FirstStep(
        float(kl.mean()), float(kl.quantile(0.99)), float(torch.stack(overlaps).mean())
    )


def write_layer(folder: Path) -> None:
    """A checkpoint of one layer with random weights in bf16, a file for each tensor."""
    config: dict[str, Any] = json.loads(json.dumps(CONFIG))
    config["text_config"] |= LAYER_SHAPES
    (folder / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        shapes = DiffusionGemma(ModelConfig.from_dict(config)).state_dict()
    torch.manual_seed(0)
    weight_map = {}
    for number, (name, tensor) in enumerate(shapes.items()):
        file = f"model-{number:05}.safetensors"
        values = torch.empty(tensor.shape, dtype=torch.bfloat16).normal_(std=0.02)
        save_file({f"model.{name}": values}, folder / file)
        weight_map[f"model.{name}"] = file
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def measure(step: str, name: str, device: str, *folders: Path) -> Loading:
    """Run a step of this module, with a format, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.quantization", "--step", step, "--formats", name]
    command += ["--device", device]
    done = subprocess.run(
        [*command, "--", *map(str, folders)], stdout=subprocess.PIPE, text=True, check=True
    )
    return Loading(**json.loads(done.stdout.splitlines()[-1]))


def run_step(step: str, name: str, device: str, folders: list[Path]) -> Loading:
    """In a process of its own: one thing, timed, with the peak of memory that it added.

    On a GPU the driver's context, which comes first, counts neither to the time nor to the peaks.
    """
    if device != "cpu":
        torch.zeros(1, device=device)
        torch.cuda.reset_peak_memory_stats(device)
    before_mb = host_memory_mb("VmRSS")
    started, started_cpu = time.perf_counter(), time.process_time()
    if step == "quantize":
        quantize_checkpoint(folders[0], folders[1], FORMATS[name])
    else:
        load_model(folders[0], torch.bfloat16, device, quantization=FORMATS[name])
    if device != "cpu":
        torch.cuda.synchronize(device)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    peak_mb = host_memory_mb("VmHWM") - before_mb
    device_peak_mb = None
    if device != "cpu":
        device_peak_mb = round(torch.cuda.max_memory_allocated(device) / 1e6)
    return Loading(round(seconds, 2), round(cpu_seconds, 2), round(peak_mb), device_peak_mb)


def host_memory_mb(field: str) -> float:
    """VmRSS, what this process holds now, or VmHWM, its peak; not getrusage's, which a child inherits."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)[0]) * 1024 / 1e6


def measure_loading(
    parent: Path, formats: Sequence[str], device: str = "cpu"
) -> dict[str, Loading]:
    """By what is done."""
    original = parent / "layer"
    original.mkdir()
    write_layer(original)
    found: dict[str, Loading] = {}
    for name in formats:
        if FORMATS[name].is_none:
            found["load the original as it is"] = measure("load", name, device, original)
            continue
        quantized = parent / f"layer-{name}"
        found[f"{name}: load the original, quantizing"] = measure("load", name, device, original)
        found[f"{name}: dgq quantize"] = measure("quantize", name, device, original, quantized)
        found[f"{name}: load what it wrote"] = measure("load", name, device, quantized)
        shutil.rmtree(quantized)
    for name, loading in found.items():
        on_device = loading.device_peak_mb
        print(
            f"{name}: {loading.seconds:.1f} s ({loading.cpu_seconds:.1f} s of CPU), "
            f"{loading.peak_mb:,.0f} MB"
            + ("" if on_device is None else f", {on_device:,.0f} MB on the device")
        )
    return found


def measure_quality(
    parent: Path, formats: Sequence[str], num_jobs: int, seed: int
) -> dict[str, Any]:
    """Scores by family and the first step, by format."""
    prompts = sample_prompts(8, seed + 1)
    report: dict[str, Any] = {}
    for name in formats:
        quantization = FORMATS[name]
        folder = DEFAULT_MODEL_PATH
        if not quantization.is_none:
            folder = parent / name
            quantize_checkpoint(DEFAULT_MODEL_PATH, folder, quantization)
        step = compare_first_steps(folder, prompts)
        print(
            f"{name}, step 1: KL {step.kl_mean_nats:.5f} nats (99 % below {step.kl_p99_nats:.5f}), "
            f"same experts {step.router_overlap:.1%}",
            flush=True,
        )
        report[name] = {"first_step": asdict(step)}
        with Engine.load(folder) as engine:
            scores = [evaluate(engine, family, num_jobs, seed, 0) for family in FAMILIES]
        for score in scores:
            print(
                f"{name}, {score.family}: {score.exact:.1%} exact, {score.passed_checks:.1%} passed, "
                f"{score.steps_per_canvas:.2f} steps per canvas, {score.attempts:.2f} attempts",
                flush=True,
            )
        report[name]["scores"] = [asdict(score) for score in scores]
    return report


def main() -> None:
    """Print both tables line by line, and last one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=60, help="jobs of each family")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--formats", nargs="*", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--device", default="cpu", help="of the part loading: cpu or cuda")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("folders", nargs="*", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        loading = run_step(
            arguments.step, arguments.formats[0], arguments.device, arguments.folders
        )
        print(json.dumps(asdict(loading)))
        return
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if "loading" in arguments.parts:
            found = measure_loading(Path(folder), arguments.formats, arguments.device)
            report["loading"] = {name: asdict(loading) for name, loading in found.items()}
        if "quality" in arguments.parts:
            report["quality"] = measure_quality(
                Path(folder), arguments.formats, arguments.jobs, arguments.seed
            )
    print(json.dumps(report))


if __name__ == "__main__":
    main()
