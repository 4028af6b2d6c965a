"""Train dgq-tiny from nothing: ``python -m training.train --minutes 75``.

Loss: flat cross-entropy over every row of the canvas, plus the encoder's next-token loss over the
prompt and the answer; the answer teaches copying densely, long before canvases do, and the weights
are shared. Half of the examples get self-conditioning from a first pass without gradient. The first
quarter of the time uses short cases only, in which copying is found sooner.

The learning rate is a function of the share of the time that is used up, so that a run fits its
time on any machine; ``--resume`` goes on from the last state. ``--start CHECKPOINT`` begins with the
weights of a finished one, and takes only the last part of the schedule. On machines where fresh memory is slow
to touch, preload tcmalloc with TCMALLOC_RELEASE_RATE=0: measured, up to six times as fast.
"""

import argparse
import json
import math
import random
import time
from collections import deque
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as FastTokenizer
from torch import Tensor, nn

from dgq.engine.checkpoint import load_model
from dgq.engine.config import ModelConfig
from dgq.engine.model import DiffusionGemma
from dgq.engine.norm import RMSNorm

from . import tokenizer as tiny
from .checkpoint import CONFIG, save_checkpoint
from .examples import Batch, batches
from .loss import RouterWatch, losses
from .muon import Muon

AUTOREGRESSIVE_WEIGHT = 0.5
BALANCE_WEIGHT = 0.01
START_PROGRESS = 0.8
REPORT_STEPS = 50
SAVE_SECONDS = 300


def initialise(model: DiffusionGemma) -> None:
    """Scaled normal weights; query and key norms start at the usual 1/sqrt(head_dim) scale."""
    for name, parameter in model.named_parameters():
        if name.endswith("embed_tokens.weight"):
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        elif parameter.ndim >= 2:
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    for module in model.modules():
        if isinstance(module, RMSNorm) and module.weight is not None:
            nn.init.ones_(module.weight)
    for layer in model.decoder.layers:
        attention = layer.self_attn
        for norm in (attention.q_norm, attention.k_norm):
            if norm.weight is not None:
                nn.init.constant_(norm.weight, 1.4 * attention.head_dim**-0.25)


def make_optimisers(model: DiffusionGemma, dtype: torch.dtype) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings, norms and scalars."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim >= 2 and "embed_tokens" not in name
        (matrices if is_matrix else others).append(parameter)
    scalars = [layer.layer_scalar for layer in model.decoder.layers]
    scalars += [layer.layer_scalar for layer in model.encoder.language_model.layers]
    others += [scalar.requires_grad_(True) for scalar in scalars]
    adam = torch.optim.AdamW(others, lr=4e-3, betas=(0.9, 0.97), weight_decay=0.0, fused=True)
    return [Muon(matrices, lr=0.02, dtype=dtype), adam]


def rate(progress: float) -> float:
    """Learning-rate factor: a short warm-up, flat, then linear to zero from 60 % on."""
    if progress < 0.01:
        return progress / 0.01
    return min(1.0, (1.0 - progress) / 0.4)


class Trainer:
    """A run: the model, its optimisers, and how far it is."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        torch.manual_seed(arguments.seed)
        self.device, self.seed = arguments.device, arguments.seed
        self.dtype = getattr(torch, arguments.dtype)
        self.allowed_s: float = arguments.minutes * 60
        self.used_s, self.skipped, self.step, self.examples = 0.0, 0.0, 0, 0
        self.model = DiffusionGemma(ModelConfig.from_dict(CONFIG))
        initialise(self.model)
        self.model.to(self.device)
        self.optimisers = make_optimisers(self.model, self.dtype)
        self.base_rates = [optimiser.param_groups[0]["lr"] for optimiser in self.optimisers]
        self.watch = RouterWatch(self.model)
        self.recent: deque[dict[str, float]] = deque(maxlen=REPORT_STEPS)

    def progress(self) -> float:
        """How far the schedule is, 0 to 1."""
        return self.skipped + (1 - self.skipped) * self.used_s / self.allowed_s

    def take_step(self, batch: Batch) -> None:
        """One batch, forwards, backwards and the update."""
        started = time.monotonic()
        with torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
            parts = losses(self.model, self.watch, batch.to(self.device))
        loss = parts["canvas"] + AUTOREGRESSIVE_WEIGHT * parts["next_token"]
        total = loss + BALANCE_WEIGHT * parts["balance"]
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser, base in zip(self.optimisers, self.base_rates, strict=True):
            optimiser.param_groups[0]["lr"] = base * rate(self.progress())
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.recent.append({name: value.item() for name, value in parts.items()})
        if math.isnan(total.item()):
            raise SystemExit(f"the loss is not a number at step {self.step}")
        self.used_s += time.monotonic() - started
        self.step, self.examples = self.step + 1, self.examples + len(batch.texts)

    def report(self) -> str:
        """One line of JSON: where the run is, and its mean losses of late."""
        count = len(self.recent)
        means = {n: round(sum(r[n] for r in self.recent) / count, 4) for n in self.recent[0]}
        line = {"step": self.step, "minutes": round(self.used_s / 60, 2), "examples": self.examples}
        return json.dumps(line | means | {"examples_per_s": round(self.examples / self.used_s, 1)})

    def save(self, path: Path) -> None:
        """Everything that resuming needs; written beside and moved, so that it is never torn."""
        beside = path.with_suffix(".new")
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "used_s": self.used_s,
            "skipped": self.skipped,
            "step": self.step,
            "examples": self.examples,
        }
        torch.save(state, beside)
        beside.replace(path)

    def resume(self, path: Path) -> None:
        """Go on from a saved state."""
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.used_s, self.skipped = state["used_s"], state["skipped"]
        self.step, self.examples = state["step"], state["examples"]

    def start_from(self, folder: Path) -> None:
        """Begin with a checkpoint's weights, where the rate already falls and cases are long."""
        trained = load_model(folder, dtype=torch.float32, device="cpu")
        self.model.load_state_dict(trained.state_dict())
        self.skipped = START_PROGRESS


def train(arguments: argparse.Namespace) -> None:
    """Run until the time is up; write the checkpoint and the state as it goes."""
    out: Path = arguments.out
    if not (out / "tokenizer.json").exists():
        tiny.save_tokenizer(tiny.train_tokenizer(), out)
    tokenizer = tiny.TinyTokenizer(FastTokenizer.from_file(str(out / "tokenizer.json")))
    trainer = Trainer(arguments)
    if arguments.resume:
        trainer.resume(arguments.state)
    elif arguments.start:
        trainer.start_from(arguments.start)
    print(f"{sum(p.numel() for p in trainer.model.parameters()):,} parameters", flush=True)
    rng = random.Random(arguments.seed + trainer.step)
    last_save = time.monotonic()
    for batch in batches(rng, tokenizer, trainer.progress):
        if trainer.progress() >= 1:
            break
        trainer.take_step(batch)
        if trainer.step % REPORT_STEPS == 0:
            print(trainer.report(), flush=True)
        if time.monotonic() - last_save > SAVE_SECONDS:
            trainer.save(arguments.state)
            save_checkpoint(trainer.model, out)
            last_save = time.monotonic()
    trainer.save(arguments.state)
    save_checkpoint(trainer.model, out)
    print(f"done: {trainer.report()}", flush=True)


def main() -> None:
    """Parse the command line."""
    root = Path(__file__).parents[1]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=75, help="time for the steps in all")
    parser.add_argument("--out", type=Path, default=root / "engine" / "dgq-tiny")
    parser.add_argument("--state", type=Path, default=root / "build" / "training-state.pt")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dtype",
        choices=["bfloat16", "float32"],
        default="bfloat16",
        help="of the products; float32 is fifty times as fast where the CPU has no bfloat16",
    )
    parser.add_argument("--start", type=Path, help="checkpoint folder whose weights to begin with")
    parser.add_argument("--resume", action="store_true", help="go on from --state")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
