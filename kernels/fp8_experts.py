"""The experts of a mixture-of-experts layer over FP8 weights, on rows that are FP8 too.

The method is that of grouped_experts.py: rows sorted by expert, gate and up of a tile together,
products computed transposed, one place for each slot's output, a row's choices added in order. What
differs is the numbers. From about eight canvases on, an expert has so many rows that arithmetic
bounds the product, not the weights' bytes; decoding weights in registers would halve the bytes and
gain no rate. So rows are quantized as well, while the model runs, and the matrix unit multiplies e4m3
by e4m3 at twice its 16-bit rate:

- *x* gets one scale per row, in a launch of its own that reads each row once (not once per choice);
- *inner* is quantized where it is computed. One scale per row would need all of a row, which is spread
  over I / 64 programs, so another launch between the two products and another trip to memory. Instead
  each program quantizes its own 64 columns under a scale of their own, and the second product, whose
  steps are 64 deep, multiplies each partial sum by that scale before it adds it.

Hopper's matrix unit adds FP8 products in some 14 bits; partial sums are therefore moved to fp32
accumulators at every step (64 or 128 deep), which the second product does anyway. A row's scales are
its own, so its bits do not depend on the rows beside it as long as the tile height is the same.

Sources: FP8-dynamic of compressed-tensors (a scale per weight output and per row) for x; DeepSeek-V3
(arXiv 2412.19437, section 3.3.2) for blocks along the depth and for leaving the narrow accumulator.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import KernelError
from .fp8 import DTYPE, Fp8Tensor, quantize_rows, rounded, scale_of, to_fp8
from .grouped_experts import (
    ExpertWeight,
    add_choices,
    dense_expert,
    gelu_tanh,
    launch_options,
    tile_height,
)
from .launch import check, check_inputs, largest_divisor, tl, triton
from .routing import sort_by_expert
from .row_tiles import find_row_tile, max_row_tiles

INNER_BLOCK = 64
"""Columns of ``inner`` that share a scale, and the depth of the second product's steps."""

OUTPUT_BLOCK = 64
"""Outputs of a tile of the second product: twice as many spill registers on sm_90."""


def fp8_experts_reference(
    x: Tensor, gate_up_proj: Fp8Tensor, down_proj: Fp8Tensor, weights: Tensor, experts: Tensor
) -> Tensor:
    """As ``fp8_experts``, from the experts int [T, K] themselves. All but the numbers is fp32."""
    output = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for expert in range(gate_up_proj.shape[0]):
        rows, choices = (experts == expert).nonzero(as_tuple=True)
        if not len(rows):
            continue
        gate_up, down = (
            dense_expert(weight, expert, torch.float32) for weight in (gate_up_proj, down_proj)
        )
        gate, up = F.linear(rounded(x[rows].float()), gate_up).chunk(2, dim=-1)
        inner = rounded(F.gelu(gate, approximate="tanh") * up, INNER_BLOCK)
        output.index_add_(0, rows, F.linear(inner, down) * weights[rows, choices, None])
    return output.to(x.dtype)


def fp8_experts(
    x: Tensor,
    gate_up_proj: ExpertWeight,
    down_proj: ExpertWeight,
    weights: Tensor,
    experts: Tensor,
    block_rows: int | None = None,
) -> Tensor:
    """Rows through their experts.

    x [T, H] of a 16-bit or fp32 dtype; gate_up_proj [E, 2 I, H] and down_proj [E, H, I], FP8 with one
    scale per output; weights fp32 [T, K]; experts int [T, K], E or more meaning none -> [T, H].
    block_rows: the tile height, else chosen by the mean number of rows per expert.
    KernelError where only one weight is FP8, or for an H or I that is no multiple of 64.
    """
    if not (isinstance(gate_up_proj, Fp8Tensor) and isinstance(down_proj, Fp8Tensor)):
        raise KernelError("fp8_experts: both weights must be FP8")
    num_rows, hidden_size = x.shape
    num_experts, _, inner_size = down_proj.shape
    top_k = experts.shape[1]
    gate_up, down = (gate_up_proj.values, gate_up_proj.scales), (down_proj.values, down_proj.scales)
    check_inputs("fp8_experts", x, weights, experts, *gate_up, *down)
    check(
        gate_up_proj.shape == (num_experts, 2 * inner_size, hidden_size),
        f"fp8_experts: gate_up_proj {tuple(gate_up_proj.shape)} does not go with"
        f" down_proj {tuple(down_proj.shape)} and rows of {hidden_size}",
    )
    check(
        gate_up_proj.scales.shape[-1] == down_proj.scales.shape[-1] == 1,
        "fp8_experts: a weight has more scales than one per output",
    )
    num_inner_blocks = inner_size // largest_divisor("fp8_experts", inner_size, INNER_BLOCK)
    block_hidden = largest_divisor("fp8_experts", hidden_size, 128, 64)
    num_slots = num_rows * top_k
    block_rows = block_rows or tile_height(num_slots, num_experts)
    rows = sort_by_expert(experts, num_experts)
    num_tiles = max_row_tiles(num_slots, num_experts, block_rows)
    padded = triton.next_power_of_2(num_experts)
    quantized = quantize_rows(x)
    inner = torch.empty(num_slots, inner_size, dtype=DTYPE, device=x.device)
    inner_scales = torch.empty(num_inner_blocks, num_slots, dtype=torch.float32, device=x.device)
    _fp8_gate_up_kernel[(num_tiles * num_inner_blocks,)](
        quantized.values,
        quantized.scales,
        *gate_up,
        rows.order,
        rows.offsets,
        inner,
        inner_scales,
        hidden_size,
        num_slots,
        TOP_K=top_k,
        NUM_EXPERTS=num_experts,
        PADDED=padded,
        HIDDEN=hidden_size,
        INNER=inner_size,
        BLOCK_ROWS=block_rows,
        BLOCK_OUTPUTS=INNER_BLOCK,
        BLOCK_DEPTH=block_hidden,
        **launch_options(block_rows),
    )
    outputs = x.new_empty(num_slots, hidden_size)
    _fp8_down_kernel[(num_tiles * (hidden_size // OUTPUT_BLOCK),)](
        inner,
        inner_scales,
        *down,
        rows.order,
        rows.offsets,
        weights,
        outputs,
        inner_size,
        num_slots,
        NUM_EXPERTS=num_experts,
        PADDED=padded,
        HIDDEN=hidden_size,
        INNER=inner_size,
        BLOCK_ROWS=block_rows,
        BLOCK_OUTPUTS=OUTPUT_BLOCK,
        BLOCK_DEPTH=INNER_BLOCK,
        **launch_options(block_rows),
    )
    return add_choices(outputs, experts, num_experts)


@triton.jit
def _fp8_gate_up_kernel(
    x_ptr,
    x_scales_ptr,
    weight_ptr,
    weight_scales_ptr,
    order_ptr,
    offsets_ptr,
    inner_ptr,
    inner_scales_ptr,
    depth,
    num_slots,
    TOP_K: tl.constexpr,
    NUM_EXPERTS: tl.constexpr,
    PADDED: tl.constexpr,
    HIDDEN: tl.constexpr,
    INNER: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
):
    # The output blocks of one row tile are neighbours, so that its rows stay in the L2 cache.
    tile = tl.program_id(0) // (INNER // BLOCK_OUTPUTS)
    block = tl.program_id(0) % (INNER // BLOCK_OUTPUTS)
    expert, first, end = find_row_tile(offsets_ptr, tile, NUM_EXPERTS, PADDED, BLOCK_ROWS)
    if expert == NUM_EXPERTS:
        return
    positions = first + tl.arange(0, BLOCK_ROWS)
    held = positions < end
    x_rows = tl.load(order_ptr + positions, mask=held, other=0) // TOP_K
    x_starts = x_ptr + x_rows.to(tl.int64) * HIDDEN
    outputs = block * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    gate_rows = expert.to(tl.int64) * (2 * INNER) + outputs
    gate_starts = weight_ptr + gate_rows * HIDDEN
    up_starts = gate_starts + INNER * HIDDEN
    depths = tl.arange(0, BLOCK_DEPTH)
    gate = tl.zeros((BLOCK_OUTPUTS, BLOCK_ROWS), tl.float32)
    up = tl.zeros((BLOCK_OUTPUTS, BLOCK_ROWS), tl.float32)
    for start in range(0, depth, BLOCK_DEPTH):  # a run-time bound: else the loop is unrolled
        columns = (start + depths)[None, :]
        x = tl.trans(tl.load(x_starts[:, None] + columns))
        gate_weight = tl.load(gate_starts[:, None] + columns)
        # Not by max_num_imprecise_acc: Triton 3.7 then adds partial sums before it waits for them.
        gate += tl.dot(gate_weight, x)
        up_weight = tl.load(up_starts[:, None] + columns)
        up += tl.dot(up_weight, x)
    x_scales = tl.load(x_scales_ptr + x_rows)[None, :]
    gate *= tl.load(weight_scales_ptr + gate_rows)[:, None] * x_scales
    up *= tl.load(weight_scales_ptr + gate_rows + INNER)[:, None] * x_scales
    inner = gelu_tanh(gate) * up
    absmax = tl.max(tl.abs(inner), axis=0)
    tl.store(
        inner_ptr + positions.to(tl.int64)[None, :] * INNER + outputs[:, None],
        to_fp8(inner, absmax[None, :]),
        mask=held[None, :],
    )
    tl.store(inner_scales_ptr + block * num_slots + positions, scale_of(absmax), mask=held)


@triton.jit
def _fp8_down_kernel(
    inner_ptr,
    inner_scales_ptr,
    weight_ptr,
    weight_scales_ptr,
    order_ptr,
    offsets_ptr,
    weights_ptr,
    outputs_ptr,
    depth,
    num_slots,
    NUM_EXPERTS: tl.constexpr,
    PADDED: tl.constexpr,
    HIDDEN: tl.constexpr,
    INNER: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
):
    tile = tl.program_id(0) // (HIDDEN // BLOCK_OUTPUTS)
    first_output = tl.program_id(0) % (HIDDEN // BLOCK_OUTPUTS) * BLOCK_OUTPUTS
    expert, first, end = find_row_tile(offsets_ptr, tile, NUM_EXPERTS, PADDED, BLOCK_ROWS)
    if expert == NUM_EXPERTS:
        return
    positions = first + tl.arange(0, BLOCK_ROWS)
    held = positions < end
    inner_rows = tl.where(held, positions, first)
    inner_starts = inner_ptr + inner_rows.to(tl.int64) * INNER
    inner_scales = inner_scales_ptr + inner_rows
    outputs = first_output + tl.arange(0, BLOCK_OUTPUTS)
    weight_rows = expert.to(tl.int64) * HIDDEN + outputs
    weight_starts = weight_ptr + weight_rows * INNER
    depths = tl.arange(0, BLOCK_DEPTH)
    result = tl.zeros((BLOCK_OUTPUTS, BLOCK_ROWS), tl.float32)
    for start in range(0, depth, BLOCK_DEPTH):
        columns = (start + depths)[None, :]
        inner = tl.trans(tl.load(inner_starts[:, None] + columns))
        weight = tl.load(weight_starts[:, None] + columns)
        scales = tl.load(inner_scales + start // BLOCK_DEPTH * num_slots)
        result += tl.dot(weight, inner) * scales[None, :]
    slots = tl.load(order_ptr + positions, mask=held, other=0)
    row_weights = tl.load(weights_ptr + slots)[None, :]
    result *= tl.load(weight_scales_ptr + weight_rows)[:, None] * row_weights
    tl.store(
        outputs_ptr + slots.to(tl.int64)[None, :] * HIDDEN + outputs[:, None],
        result.to(outputs_ptr.dtype.element_ty),
        mask=held[None, :],
    )
