"""From a router's scores to each row's experts and their weights.

    probabilities = softmax(scores)          in fp32, over all experts
    experts       = the K most probable ones; of equal ones the lowest first
    weights       = their probabilities, scaled to sum to 1, times each expert's own scale

The softmax's denominator cancels in the weights, so only the K exponentials are summed. The K largest
are found one after the other; a program holds several rows of scores in registers.
Source: transformers 5.23, ``DiffusionGemmaTextRouter``.
"""

import torch
from torch import Tensor

from .launch import check, check_inputs, tl, triton

MAX_EXPERTS = 1024

_PROGRAM_ELEMENTS = 1024


def route_reference(scores: Tensor, expert_scale: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """As ``route``."""
    probabilities = scores.softmax(dim=-1, dtype=torch.float32)
    # A stable sort, not topk: that one orders equal experts as it likes.
    ordered, experts = probabilities.sort(dim=-1, descending=True, stable=True)
    weights, experts = ordered[:, :top_k], experts[:, :top_k]
    weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights * expert_scale.float()[experts], experts


def route(scores: Tensor, expert_scale: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """scores [T, E] and expert_scale [E] of any float dtype -> weights fp32, experts int64 [T, K].

    KernelError for more than 1,024 experts, or a K that is not between 1 and their number.
    """
    check_inputs("route", scores, expert_scale)
    num_rows, num_experts = scores.shape
    check(
        num_experts <= MAX_EXPERTS and 1 <= top_k <= num_experts,
        f"route: {top_k} of {num_experts} experts; it serves up to {MAX_EXPERTS}",
    )
    check(
        expert_scale.shape == (num_experts,),
        f"route: {tuple(expert_scale.shape)} scales for {num_experts} experts",
    )
    weights = torch.empty(num_rows, top_k, dtype=torch.float32, device=scores.device)
    experts = torch.empty(num_rows, top_k, dtype=torch.int64, device=scores.device)
    padded = triton.next_power_of_2(num_experts)
    block_rows = max(1, _PROGRAM_ELEMENTS // padded)
    _route_kernel[(triton.cdiv(num_rows, block_rows),)](
        scores,
        expert_scale,
        weights,
        experts,
        num_rows,
        NUM_EXPERTS=num_experts,
        PADDED=padded,
        TOP_K=top_k,
        PADDED_TOP_K=triton.next_power_of_2(top_k),
        BLOCK_ROWS=block_rows,
        num_warps=4,
    )
    return weights, experts


@triton.jit
def _route_kernel(
    scores_ptr,
    expert_scale_ptr,
    weights_ptr,
    experts_ptr,
    num_rows,
    NUM_EXPERTS: tl.constexpr,
    PADDED: tl.constexpr,
    TOP_K: tl.constexpr,
    PADDED_TOP_K: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    columns = tl.arange(0, PADDED)
    choices = tl.arange(0, PADDED_TOP_K)
    scores = tl.load(
        scores_ptr + rows[:, None] * NUM_EXPERTS + columns[None, :],
        mask=(rows < num_rows)[:, None] & (columns < NUM_EXPERTS)[None, :],
        other=float("-inf"),
    ).to(tl.float32)
    scores = tl.where((rows < num_rows)[:, None], scores, -columns[None, :].to(tl.float32))
    largest = tl.max(scores, axis=1)
    experts = tl.zeros((BLOCK_ROWS, PADDED_TOP_K), tl.int32)
    weights = tl.zeros((BLOCK_ROWS, PADDED_TOP_K), tl.float32)
    for choice in range(TOP_K):
        score = tl.max(scores, axis=1)
        at = tl.where(scores == score[:, None], columns[None, :], PADDED)
        expert = tl.min(at, axis=1)
        here = (choices == choice)[None, :]
        experts = tl.where(here, expert[:, None], experts)
        weights = tl.where(here, tl.exp(score - largest)[:, None], weights)
        scores = tl.where(columns[None, :] == expert[:, None], float("-inf"), scores)
    scale = tl.load(expert_scale_ptr + experts).to(tl.float32)
    weights = weights / tl.sum(weights, axis=1)[:, None] * scale
    places = rows[:, None] * TOP_K + choices[None, :]
    mask = (rows < num_rows)[:, None] & (choices < TOP_K)[None, :]
    tl.store(weights_ptr + places, weights, mask=mask)
    tl.store(experts_ptr + places, experts.to(tl.int64), mask=mask)
