"""What a request asks to be told of the last step of its canvas, beside the tokens."""

import torch
from torch import Tensor

from .canvas import Generation
from .head import at_least
from .model import DiffusionGemma
from .request import Candidates

_ROWS_AT_ONCE = 16
"""Rows whose whole vocabulary is held at a time."""


def asks_more(generation: Generation) -> bool:
    """Whether scores_of or candidates_of of its canvas give anything."""
    return bool(generation.request.scored or generation.request.num_candidates)


def scores_of(
    model: DiffusionGemma, hidden: Tensor, generation: Generation
) -> tuple[tuple[float, ...], ...]:
    """hidden [W, d] of its canvas -> the log-probabilities that Request.scored asks for."""
    return tuple(
        tuple(log_probabilities(model, hidden[row : row + 1])[0, list(tokens)].tolist())
        for row, tokens in generation.request.scored
    )


def log_probabilities(model: DiffusionGemma, hidden: Tensor) -> Tensor:
    """hidden [R, d] -> log-softmax at temperature 1, fp32 [R, V]; for few rows at a time."""
    rows = at_least(torch.arange(len(hidden), device=hidden.device))
    return model.logits(hidden[rows]).log_softmax(dim=-1)[: len(hidden)]


def candidates_of(model: DiffusionGemma, hidden: Tensor, generation: Generation) -> Candidates:
    """hidden [W, d] of its canvas -> the most probable tokens of its free rows."""
    count = generation.request.num_candidates
    if not count:
        return ()
    pinned = {row for row, _ in generation.pinned()}
    free = [row for row in range(generation.width) if row not in pinned]
    told: list[tuple[tuple[int, float], ...]] = [()] * generation.width
    for start in range(0, len(free), _ROWS_AT_ONCE):
        rows = free[start : start + _ROWS_AT_ONCE]
        values, tokens = log_probabilities(model, hidden[rows]).topk(count, dim=-1)
        for row, row_values, row_tokens in zip(rows, values.tolist(), tokens.tolist(), strict=True):
            told[row] = tuple(zip(row_tokens, row_values, strict=True))
    return tuple(told)
