"""The training loss, in its three parts."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgq.engine.model import DiffusionGemma

from .examples import Batch


class RouterWatch:
    """Collects the routers' probabilities for the balance loss."""

    def __init__(self, model: DiffusionGemma) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []
        for layer in model.decoder.layers:
            layer.router.register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: object, output: tuple[Tensor, ...]) -> None:
        scores, _, experts = output
        self.seen.append((scores.softmax(dim=-1, dtype=torch.float32), experts))

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
    size, length = batch.texts.shape
    device = batch.texts.device
    positions = torch.arange(length, device=device).expand(size, length)
    hidden, text_kv = model.encode(batch.texts, positions, batch.text_valid)
    known = batch.text_valid[:, 1:]
    next_logits = model.logits(hidden[:, :-1][known])
    longest_prompt = int(batch.prompt_lengths.max())
    copies = batch.canvases.shape[1]

    def prompt_kv(tensor: Tensor) -> Tensor:
        return tensor[:, :, :longest_prompt].repeat_interleave(copies, dim=0)

    past = [(prompt_kv(k), prompt_kv(v)) for k, v in text_kv]
    prompt_lengths = batch.prompt_lengths.repeat_interleave(copies)[:, None]
    past_valid = torch.arange(longest_prompt, device=device) < prompt_lengths
    canvases = batch.canvases.flatten(0, 1)
    free = batch.free.repeat_interleave(copies, dim=0)
    answers = batch.answers.repeat_interleave(copies, dim=0)
    num_canvases, width = canvases.shape
    rows = prompt_lengths + torch.arange(width, device=device)
    all_rows = torch.ones_like(canvases, dtype=torch.bool)
    soft = torch.zeros(num_canvases, width, model.config.hidden_size, device=device)
    half = torch.arange(num_canvases, device=device) % 2 == 1
    if half.any():
        with torch.no_grad():
            kept = list(watch.seen)
            first = model.logits(
                model.denoise(
                    canvases[half],
                    rows[half],
                    all_rows[half],
                    [(k[half], v[half]) for k, v in past],
                    past_valid[half],
                )
            )
            temperature = 0.4 + 0.6 * torch.rand(len(first), 1, 1, device=device)
            believed = model.soft_embeddings(first / temperature).float()
            is_certain = (
                torch.rand(len(first), 1, 1, device=device) < 0.5
            )  # as an engine may have it
            # What is pinned may be believed as it stands, as the engine has it, or as the model says.
            given = ~free[half][:, :, None] & is_certain
            soft[half] = torch.where(given, model.embed(canvases[half]).float(), believed)
            watch.seen = kept
    denoised = model.denoise(canvases, rows, all_rows, past, past_valid, soft)
    canvas_loss = F.cross_entropy(model.logits(denoised[free]), answers[free])
    return {
        "canvas": canvas_loss,
        "next_token": F.cross_entropy(next_logits, batch.texts[:, 1:][known]),
        "balance": watch.balance_loss(),
    }
