"""Train dgq-tiny from nothing: ``python -m training.train --minutes 100``.

Loss: flat cross-entropy over every row of the canvas, plus the encoder's next-token loss over the
prompt. Half of the examples get self-conditioning from a first pass without gradient. Matrices are
optimised by Muon (momentum, orthogonalised by Newton-Schulz; Jordan et al. 2024), the rest by AdamW.
The learning rate is a function of the share of the time that is used up, so that a run fits its
time on any machine; ``--resume`` goes on from the last state.
"""

import argparse
import json
import math
import random
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from dgq.engine.config import ModelConfig
from dgq.engine.model import DiffusionGemma, RMSNorm
from tokenizers import Tokenizer as FastTokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from . import tokenizer as tiny
from .canvases import corrupt, width_for
from .case import Case
from .checkpoint import CONFIG, save_checkpoint
from .fills import fill_job
from .json_documents import json_job
from .python_functions import python_job
from .rewrites import rewrite_case
from .standard_library import sentences

AUTOREGRESSIVE_WEIGHT = 0.3
BALANCE_WEIGHT = 0.01
MAX_ROWS = 5_000
SHARES = {"fill": 0.22, "rewrite": 0.26, "json": 0.22, "python": 0.30}


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of one case. answer and canvas have the same length."""

    prompt: list[int]
    answer: list[int]
    canvas: list[int]


@dataclass(frozen=True, slots=True)
class Batch:
    """int64 [B, L], bool [B, L], int64 [B, W] twice."""

    prompts: Tensor
    valid: Tensor
    answers: Tensor
    canvases: Tensor


def draw_case(rng: random.Random) -> Case:
    """A training case, families mixed by SHARES."""
    kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
    if kind == "rewrite":
        return rewrite_case(rng, "train", sentences("train"))[1]
    job = {"fill": fill_job, "json": json_job, "python": python_job}[kind](rng, "train")
    return rng.choice(job.cases)


def encode_prompt(tokenizer: FastTokenizer, message: str) -> list[int]:
    """What the chat template makes of one user message."""

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return [
        tiny.BOS_ID,
        tiny.TURN_ID,
        *encode("user\n"),
        *encode(message),
        tiny.END_OF_TURN_ID,
        *encode("\n"),
        tiny.TURN_ID,
        *encode("model\n"),
    ]


def make_example(rng: random.Random, tokenizer: FastTokenizer, case: Case) -> Example | None:
    """Encode and corrupt a case; None when it does not fit a canvas of 160 rows."""
    answer = tokenizer.encode(case.answer, add_special_tokens=False).ids
    draft = tokenizer.encode(case.draft, add_special_tokens=False).ids
    prompt = encode_prompt(tokenizer, case.prompt)
    longest = max(len(answer), len(draft))
    if longest >= 160 or len(prompt) > 260:
        return None
    width = width_for(rng, longest, CONFIG["canvas_length"])
    full = answer + [tiny.END_OF_TURN_ID] + [tiny.EOS_ID] * (width - len(answer) - 1)
    canvas = corrupt(rng, full, draft, width, tiny.VOCAB_SIZE, tiny.EOS_ID)
    return Example(prompt, full, canvas)


def batches(rng: random.Random, tokenizer: FastTokenizer) -> Iterator[Batch]:
    """For ever: pools of examples, sorted by length, cut into batches of about MAX_ROWS rows."""
    while True:
        pool: list[Example] = []
        while len(pool) < 2_000:
            if example := make_example(rng, tokenizer, draw_case(rng)):
                pool.append(example)
        pool.sort(key=lambda example: (len(example.canvas), len(example.prompt)))
        groups: list[list[Example]] = [[]]
        for example in pool:
            rows = len(example.canvas) * 1.5 + len(example.prompt)
            if (len(groups[-1]) + 1) * rows > MAX_ROWS:
                groups.append([])
            groups[-1].append(example)
        rng.shuffle(groups)
        for group in groups:
            rng.shuffle(group)
            yield collate(group)


def collate(group: list[Example]) -> Batch:
    """Pad prompts on the right, and canvases of the batch to the widest with filler."""
    length = max(len(example.prompt) for example in group)
    width = max(len(example.canvas) for example in group)

    def padded(tokens: list[int], size: int, filler: int) -> list[int]:
        return tokens + [filler] * (size - len(tokens))

    return Batch(
        torch.tensor([padded(e.prompt, length, tiny.PAD_ID) for e in group]),
        torch.tensor([[i < len(e.prompt) for i in range(length)] for e in group]),
        torch.tensor([padded(e.answer, width, tiny.EOS_ID) for e in group]),
        torch.tensor([padded(e.canvas, width, tiny.EOS_ID) for e in group]),
    )


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
        for norm in (layer.self_attn.q_norm, layer.self_attn.k_norm):
            nn.init.constant_(norm.weight, 1.4 * norm.size**-0.25)


def newton_schulz(gradient: Tensor) -> Tensor:
    """Nearest orthogonal matrix, roughly; [.., rows, columns]."""
    x = gradient.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        product = x @ x.mT
        x = 3.4445 * x + (-4.7750 * product + 2.0315 * product @ product) @ x
    return (x.mT if tall else x).to(gradient.dtype)


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum, for matrices and stacks of matrices."""

    def __init__(self, parameters: list[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "velocity" not in state:
                    state["velocity"] = torch.zeros_like(parameter)
                velocity = state["velocity"].lerp_(parameter.grad, 1 - group["momentum"])
                update = newton_schulz(parameter.grad.lerp(velocity, group["momentum"]))
                scale = max(1.0, parameter.shape[-2] / parameter.shape[-1]) ** 0.5
                parameter.mul_(1 - group["lr"] * 0.02)
                parameter.add_(update, alpha=-group["lr"] * scale)


def make_optimisers(model: DiffusionGemma) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings, norms and scalars."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim >= 2 and "embed_tokens" not in name
        (matrices if is_matrix else others).append(parameter)
    for stack in (model.decoder.layers, model.encoder.language_model.layers):
        for layer in stack:
            layer.layer_scalar.requires_grad_(True)
            others.append(layer.layer_scalar)
    adam = torch.optim.AdamW(others, lr=4e-3, betas=(0.9, 0.97), weight_decay=0.0, fused=True)
    return [Muon(matrices, lr=0.02), adam]


class RouterWatch:
    """Collects the routers' probabilities for the balance loss."""

    def __init__(self, model: DiffusionGemma) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []
        for layer in model.decoder.layers:
            layer.router.register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: object, output: tuple[Tensor, ...]) -> None:
        self.seen.append((output[0], output[2]))

    def balance_loss(self) -> Tensor:
        """num_experts * sum(share of rows * mean probability), 1 when balanced (Switch)."""
        losses = []
        for probabilities, experts in self.seen:
            share = F.one_hot(experts, probabilities.shape[1]).float().mean(dim=(0, 1))
            losses.append(probabilities.shape[1] * (share * probabilities.mean(dim=0)).sum())
        self.seen.clear()
        return torch.stack(losses).mean()


def losses(model: DiffusionGemma, watch: RouterWatch, batch: Batch) -> dict[str, Tensor]:
    """The parts of the loss for one batch."""
    size, length = batch.prompts.shape
    positions = torch.arange(length).expand(size, length)
    hidden, past = model.encode(batch.prompts, positions, batch.valid)
    next_logits = model.logits(hidden[:, :-1])
    next_loss = F.cross_entropy(
        next_logits.flatten(0, 1), batch.prompts[:, 1:].flatten(), reduction="none"
    )
    weights = batch.valid[:, 1:].flatten().float()
    prompt_lengths = batch.valid.sum(dim=1, keepdim=True)
    width = batch.canvases.shape[1]
    rows = prompt_lengths + torch.arange(width)
    all_rows = torch.ones_like(batch.canvases, dtype=torch.bool)
    soft = torch.zeros(size, width, model.config.hidden_size)
    half = size // 2
    if half:
        with torch.no_grad():
            kept = list(watch.seen)
            first = model.logits(
                model.denoise(
                    batch.canvases[:half],
                    rows[:half],
                    all_rows[:half],
                    [(k[:half], v[:half]) for k, v in past],
                    batch.valid[:half],
                )
            )
            temperature = 0.4 + 0.6 * torch.rand(half, 1, 1)
            soft[:half] = model.soft_embeddings(first / temperature).float()
            watch.seen = kept
    denoised = model.denoise(batch.canvases, rows, all_rows, past, batch.valid, soft)
    logits = model.logits(denoised)
    canvas_loss = F.cross_entropy(logits.flatten(0, 1), batch.answers.flatten())
    return {
        "canvas": canvas_loss,
        "prompt": (next_loss * weights).sum() / weights.sum(),
        "balance": watch.balance_loss(),
    }


def rate(progress: float) -> float:
    """Learning-rate factor: a short warm-up, flat, then linear to zero from 60 % on."""
    if progress < 0.01:
        return progress / 0.01
    return min(1.0, (1.0 - progress) / 0.4)


def train(arguments: argparse.Namespace) -> None:
    """Run until the time is up; write the checkpoint and the state as it goes."""
    torch.manual_seed(arguments.seed)
    rng = random.Random(arguments.seed)
    out: Path = arguments.out
    if not (out / "tokenizer.json").exists():
        tiny.save_tokenizer(tiny.train_tokenizer(), out)
    tokenizer = FastTokenizer.from_file(str(out / "tokenizer.json"))
    model = DiffusionGemma(ModelConfig.from_dict(CONFIG))
    initialise(model)
    optimisers = make_optimisers(model)
    base_rates = [optimiser.param_groups[0]["lr"] for optimiser in optimisers]
    watch = RouterWatch(model)
    used_s, step, examples = 0.0, 0, 0
    if arguments.resume and arguments.state.exists():
        state = torch.load(arguments.state, weights_only=True)
        model.load_state_dict(state["model"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        used_s, step, examples = state["used_s"], state["step"], state["examples"]
        rng.seed(arguments.seed + step)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    recent: deque[dict[str, float]] = deque(maxlen=50)
    last_save, started = time.monotonic(), time.monotonic()
    for batch in batches(rng, tokenizer):
        progress = used_s / (arguments.minutes * 60)
        if progress >= 1:
            break
        step_start = time.monotonic()
        with torch.autocast(arguments.device, torch.bfloat16):
            parts = losses(model, watch, batch)
        loss = parts["canvas"] + AUTOREGRESSIVE_WEIGHT * parts["prompt"]
        (loss + BALANCE_WEIGHT * parts["balance"]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, base in zip(optimisers, base_rates, strict=True):
            optimiser.param_groups[0]["lr"] = base * rate(progress)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        used_s += time.monotonic() - step_start
        step, examples = step + 1, examples + len(batch.prompts)
        recent.append({name: value.item() for name, value in parts.items()})
        if step % 50 == 0:
            means = {n: round(sum(r[n] for r in recent) / len(recent), 4) for n in recent[0]}
            speed = examples / max(used_s, 1e-9)
            line = {"step": step, "minutes": round(used_s / 60, 2), "examples": examples, **means}
            print(json.dumps(line | {"examples_per_s": round(speed, 1)}), flush=True)
        if math.isnan(loss.item()):
            raise SystemExit(f"the loss is not a number at step {step}")
        if time.monotonic() - last_save > 300:
            save_state(arguments.state, model, optimisers, used_s, step, examples)
            save_checkpoint(model, out)
            last_save = time.monotonic()
    save_checkpoint(model, out)
    print(f"done: {step} steps, {examples} examples, {time.monotonic() - started:.0f} s", flush=True)


def save_state(
    path: Path,
    model: DiffusionGemma,
    optimisers: list[torch.optim.Optimizer],
    used_s: float,
    step: int,
    examples: int,
) -> None:
    """Everything that --resume needs; written beside and moved, so that it is never torn."""
    beside = path.with_suffix(".new")
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "model": model.state_dict(),
        "optimisers": [optimiser.state_dict() for optimiser in optimisers],
        "used_s": used_s,
        "step": step,
        "examples": examples,
    }
    torch.save(state, beside)
    beside.replace(path)


def main() -> None:
    """Parse the command line."""
    root = Path(__file__).parents[1]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=100, help="time for the steps in all")
    parser.add_argument("--out", type=Path, default=root / "engine" / "dgq-tiny")
    parser.add_argument("--state", type=Path, default=root / "build" / "training-state.pt")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--resume", action="store_true", help="go on from --state")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
