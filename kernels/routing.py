"""Sorts the rows of a mixture-of-experts layer by expert, on the device.

Each of T rows has K choices; row t's choice k is the *slot* t * K + k. The result lists the slots
expert by expert, within an expert in ascending order, so it is the same at every run; a grouped
product then reads one expert's rows as one range. An expert number of num_experts or more means
"none": such a slot (of a padding row) is in no range and costs nothing.

Method: a counting sort in two launches, without atomics and without a word to the host. The first
counts each expert's slots within blocks of slots. In the second every block adds up the counts of
all blocks and of those before it, which tells where each expert's range and its own part of it
start, and places its slots there by their rank within the block.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .launch import check, check_inputs, tl, triton

MAX_EXPERTS = 256
"""A block's slots times the experts are counted in registers."""

_BLOCK_SLOTS = 128

_PART_SLOTS = 16
"""Slots whose ranks are found at a time: more would not fit in registers."""


@dataclass(frozen=True, slots=True)
class ExpertRows:
    """Slots sorted by expert.

    order int32 [T * K]: slots, expert by expert; what is past the last range is undefined.
    offsets int32 [num_experts + 1]: expert e has order[offsets[e] : offsets[e + 1]].
    """

    order: Tensor
    offsets: Tensor


def sort_by_expert_reference(experts: Tensor, num_experts: int) -> ExpertRows:
    """experts int [T, K] -> the slots of each expert."""
    flat = experts.flatten().clamp(max=num_experts)
    order = flat.argsort(stable=True)
    counts = torch.bincount(flat, minlength=num_experts + 1)[:num_experts]
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return ExpertRows(order.int(), offsets.int())


def sort_by_expert(experts: Tensor, num_experts: int) -> ExpertRows:
    """experts int32 or int64 [T, K] -> the slots of each expert.

    KernelError for more than 256 experts.
    """
    check_inputs("sort_by_expert", experts)
    check(
        0 < num_experts <= MAX_EXPERTS,
        f"sort_by_expert: {num_experts} experts; it serves 1 to {MAX_EXPERTS}",
    )
    num_slots = experts.numel()
    num_blocks = triton.cdiv(num_slots, _BLOCK_SLOTS)
    padded = triton.next_power_of_2(num_experts)
    counts = torch.empty(num_blocks, padded, dtype=torch.int32, device=experts.device)
    order = torch.empty(num_slots, dtype=torch.int32, device=experts.device)
    offsets = torch.empty(num_experts + 1, dtype=torch.int32, device=experts.device)
    _count_kernel[(num_blocks,)](
        experts, counts, num_slots, num_experts, padded, _BLOCK_SLOTS, num_warps=8
    )
    _place_kernel[(num_blocks,)](
        experts,
        counts,
        order,
        offsets,
        num_slots,
        num_blocks,
        num_experts,
        padded,
        _BLOCK_SLOTS,
        _PART_SLOTS,
        num_warps=8,
    )
    return ExpertRows(order, offsets)


@triton.jit
def _one_hot(experts_ptr, slots, num_slots, NUM_EXPERTS: tl.constexpr, PADDED: tl.constexpr):
    """int32 [slots, PADDED], 1 at a slot's expert."""
    experts = tl.load(experts_ptr + slots, mask=slots < num_slots, other=NUM_EXPERTS).to(tl.int32)
    chosen = (experts[:, None] == tl.arange(0, PADDED)[None, :]) & (experts < NUM_EXPERTS)[:, None]
    return chosen.to(tl.int32)


@triton.jit
def _count_kernel(
    experts_ptr,
    counts_ptr,
    num_slots,
    NUM_EXPERTS: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK_SLOTS: tl.constexpr,
):
    block = tl.program_id(0)
    slots = block * BLOCK_SLOTS + tl.arange(0, BLOCK_SLOTS)
    one_hot = _one_hot(experts_ptr, slots, num_slots, NUM_EXPERTS, PADDED)
    tl.store(counts_ptr + block * PADDED + tl.arange(0, PADDED), tl.sum(one_hot, axis=0))


@triton.jit
def _place_kernel(
    experts_ptr,
    counts_ptr,
    order_ptr,
    offsets_ptr,
    num_slots,
    num_blocks,
    NUM_EXPERTS: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK_SLOTS: tl.constexpr,
    PART_SLOTS: tl.constexpr,
):
    block = tl.program_id(0)
    experts = tl.arange(0, PADDED)
    total = tl.zeros((PADDED,), tl.int32)
    before = tl.zeros((PADDED,), tl.int32)
    for start in range(0, num_blocks, PART_SLOTS):
        others = start + tl.arange(0, PART_SLOTS)
        counts = tl.load(
            counts_ptr + others[:, None] * PADDED + experts[None, :],
            mask=(others < num_blocks)[:, None],
            other=0,
        )
        total += tl.sum(counts, axis=0)
        before += tl.sum(tl.where((others < block)[:, None], counts, 0), axis=0)
    ends = tl.cumsum(total, axis=0)
    places = ends - total + before
    for start in range(0, BLOCK_SLOTS, PART_SLOTS):
        slots = block * BLOCK_SLOTS + start + tl.arange(0, PART_SLOTS)
        one_hot = _one_hot(experts_ptr, slots, num_slots, NUM_EXPERTS, PADDED)
        ranks = tl.cumsum(one_hot, axis=0) - 1
        positions = tl.sum(one_hot * (ranks + places[None, :]), axis=1)
        tl.store(order_ptr + positions, slots, mask=tl.sum(one_hot, axis=1) > 0)
        places += tl.sum(one_hot, axis=0)
    if block == 0:
        tl.store(offsets_ptr + 1 + experts, ends, mask=experts < NUM_EXPERTS)
        tl.store(offsets_ptr, 0)
