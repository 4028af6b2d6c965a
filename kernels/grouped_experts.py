"""The experts of a mixture-of-experts layer: gated MLPs, each on the rows that chose it.

For row x, with weight w_k for its k-th expert e:

    inner = gelu_tanh(gate_e x) * (up_e x)        gate_up_proj[e] = [gate_e; up_e], [2 I, H]
    y     = sum over k of w_k * (down_e inner)    down_proj[e], [H, I]

Three launches on rows sorted by expert (routing.py). The first reads its rows through the sorted
order and computes gate and up of a tile together, so that only ``inner`` [slots, I] is written. The
second multiplies by the routing weights and writes each slot's output to the slot's own place. The
third adds the K outputs of a row in fp32 in their order. Nothing is added atomically, so results
are equal at every run; and a row's bits do not depend on the rows beside it as long as the tile
height is the same.

A product is computed transposed, weights [outputs, depth] times rows [depth, rows], because the
matrix unit takes its tall operand (64 or more) from the weights and its wide one (8 or more) from
the rows: a tile may then be 16 rows high and still run at full width.

Weights are NF4, decoded in the loop, or of the rows' dtype. Decoding is repeated for every tile of
an expert's rows, so a tile is as tall as an expert has rows on average, from 16 up to 128, above
which decoding is a small part and the accumulators no longer fit.

Sources: the grouped Triton kernels of vLLM (fused_moe) and triton_kernels for reading rows through
a sorted order; SonicMoE (arXiv 2512.14080) for writing outputs once per slot and adding later.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from . import fp8
from .fp8 import Fp8Tensor
from .launch import check, check_inputs, largest_divisor, tl, triton
from .nf4 import Nf4Tensor, codebook, dequantize, kernel_arguments, load_weight_tile
from .routing import sort_by_expert
from .row_tiles import find_row_tile, max_row_tiles

ExpertWeight = Tensor | Nf4Tensor | Fp8Tensor
"""[E, outputs, depth], of the rows' dtype, NF4, or FP8, whose product is fp8_experts.py's."""

_LARGEST_BLOCK_ROWS = 128


def dense_expert(weight: ExpertWeight, expert: int, dtype: torch.dtype) -> Tensor:
    """One expert's weight [outputs, depth], decoded into the dtype if it is quantized."""
    if isinstance(weight, Nf4Tensor):
        return dequantize(weight.part(expert), dtype)
    if isinstance(weight, Fp8Tensor):
        return fp8.dequantize(weight.part(expert), dtype)
    return weight[expert]


def grouped_experts_reference(
    x: Tensor,
    gate_up_proj: Tensor | Nf4Tensor,
    down_proj: Tensor | Nf4Tensor,
    weights: Tensor,
    experts: Tensor,
) -> Tensor:
    """As ``grouped_experts``, from the experts int [T, K] themselves."""
    output = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for expert in range(gate_up_proj.shape[0]):
        rows, choices = (experts == expert).nonzero(as_tuple=True)
        if not len(rows):
            continue
        gate, up = F.linear(x[rows], dense_expert(gate_up_proj, expert, x.dtype)).chunk(2, dim=-1)
        inner = F.gelu(gate, approximate="tanh") * up
        result = F.linear(inner, dense_expert(down_proj, expert, x.dtype)).float()
        output.index_add_(0, rows, result * weights[rows, choices, None])
    return output.to(x.dtype)


def grouped_experts(
    x: Tensor,
    gate_up_proj: Tensor | Nf4Tensor,
    down_proj: Tensor | Nf4Tensor,
    weights: Tensor,
    experts: Tensor,
    block_rows: int | None = None,
) -> Tensor:
    """Rows through their experts.

    x [T, H] of a 16-bit or fp32 dtype; gate_up_proj [E, 2 I, H] and down_proj [E, H, I], NF4 or of
    x's dtype; weights fp32 [T, K]; experts int [T, K], E or more meaning none -> [T, H].
    block_rows: the tile height, else chosen by the mean number of rows per expert.
    KernelError for an H or I that is no multiple of 16.
    """
    num_rows, hidden_size = x.shape
    num_experts, _, inner_size = down_proj.shape
    top_k = experts.shape[1]
    gate_up_pointers, gate_up_flags = kernel_arguments(gate_up_proj)
    down_pointers, down_flags = kernel_arguments(down_proj)
    check_inputs("grouped_experts", x, weights, experts, *gate_up_pointers, *down_pointers)
    check(
        gate_up_proj.shape == (num_experts, 2 * inner_size, hidden_size),
        f"grouped_experts: gate_up_proj {tuple(gate_up_proj.shape)} does not go with"
        f" down_proj {tuple(down_proj.shape)} and rows of {hidden_size}",
    )
    block_hidden = largest_divisor("grouped_experts", hidden_size, 64, 32, 16)
    block_inner = largest_divisor("grouped_experts", inner_size, 64, 32, 16)
    block_outputs = largest_divisor("grouped_experts", hidden_size, 128, 64, 32, 16)
    num_slots = num_rows * top_k
    block_rows = block_rows or tile_height(num_slots, num_experts)
    rows = sort_by_expert(experts, num_experts)
    num_tiles = max_row_tiles(num_slots, num_experts, block_rows)
    padded = triton.next_power_of_2(num_experts)
    inner = x.new_empty(num_slots, inner_size)
    _gate_up_kernel[(num_tiles * (inner_size // block_inner),)](
        x,
        *gate_up_pointers,
        codebook(x.device),
        rows.order,
        rows.offsets,
        inner,
        hidden_size,
        TOP_K=top_k,
        NUM_EXPERTS=num_experts,
        PADDED=padded,
        HIDDEN=hidden_size,
        INNER=inner_size,
        BLOCK_ROWS=block_rows,
        BLOCK_OUTPUTS=block_inner,
        BLOCK_DEPTH=block_hidden,
        **gate_up_flags,
        **launch_options(block_rows),
    )
    outputs = x.new_empty(num_slots, hidden_size)
    _down_kernel[(num_tiles * (hidden_size // block_outputs),)](
        inner,
        *down_pointers,
        codebook(x.device),
        rows.order,
        rows.offsets,
        weights,
        outputs,
        inner_size,
        NUM_EXPERTS=num_experts,
        PADDED=padded,
        HIDDEN=hidden_size,
        INNER=inner_size,
        BLOCK_ROWS=block_rows,
        BLOCK_OUTPUTS=block_outputs,
        BLOCK_DEPTH=block_inner,
        **down_flags,
        **launch_options(block_rows),
    )
    return add_choices(outputs, experts, num_experts)


def add_choices(outputs: Tensor, experts: Tensor, num_experts: int) -> Tensor:
    """Each row's outputs [T * K, H], added in fp32 in their order -> [T, H].

    experts int [T, K]: the output of a choice of num_experts or more is not read.
    """
    num_rows, top_k = experts.shape
    hidden_size = outputs.shape[1]
    result = outputs.new_empty(num_rows, hidden_size)
    _add_choices_kernel[(num_rows,)](
        outputs,
        experts,
        result,
        TOP_K=top_k,
        NUM_EXPERTS=num_experts,
        HIDDEN=hidden_size,
        BLOCK_HIDDEN=triton.next_power_of_2(hidden_size),
        num_warps=8,
    )
    return result


def tile_height(num_slots: int, num_experts: int) -> int:
    """Rows of a tile: the power of two that holds an expert's mean rows, half of them more."""
    mean = num_slots / num_experts
    wanted: int = triton.next_power_of_2(math.ceil(1.5 * mean))
    return min(max(16, wanted), _LARGEST_BLOCK_ROWS)


def launch_options(block_rows: int) -> dict[str, int]:
    """Warps and pipeline stages; and all registers, else ptxas may aim at 128 and spill."""
    return {"num_warps": 8 if block_rows >= 128 else 4, "num_stages": 3, "maxnreg": 255}


@triton.jit
def gelu_tanh(x):
    """Inside a kernel: GELU in its tanh approximation."""
    # 0.5 x (1 + tanh(y)) = x sigmoid(2 y), with y = sqrt(2 / pi) (x + 0.044715 x^3)
    return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


@triton.jit
def _gate_up_kernel(
    x_ptr,
    weight_ptr,
    absmax_ptr,
    nested_code_ptr,
    nested_absmax_ptr,
    nested_offset_ptr,
    codebook_ptr,
    order_ptr,
    offsets_ptr,
    inner_ptr,
    depth,
    TOP_K: tl.constexpr,
    NUM_EXPERTS: tl.constexpr,
    PADDED: tl.constexpr,
    HIDDEN: tl.constexpr,
    INNER: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    QUANTIZED: tl.constexpr,
    NESTED: tl.constexpr,
):
    # The output blocks of one row tile are neighbours, so that its rows stay in the L2 cache.
    tile = tl.program_id(0) // (INNER // BLOCK_OUTPUTS)
    first_output = tl.program_id(0) % (INNER // BLOCK_OUTPUTS) * BLOCK_OUTPUTS
    expert, first, end = find_row_tile(offsets_ptr, tile, NUM_EXPERTS, PADDED, BLOCK_ROWS)
    if expert == NUM_EXPERTS:
        return
    positions = first + tl.arange(0, BLOCK_ROWS)
    slots = tl.load(order_ptr + positions, mask=positions < end, other=0)
    x_rows = x_ptr + (slots // TOP_K).to(tl.int64) * HIDDEN
    outputs = first_output + tl.arange(0, BLOCK_OUTPUTS)
    gate_rows = expert.to(tl.int64) * (2 * INNER) + outputs
    depths = tl.arange(0, BLOCK_DEPTH)
    gate = tl.zeros((BLOCK_OUTPUTS, BLOCK_ROWS), tl.float32)
    up = tl.zeros((BLOCK_OUTPUTS, BLOCK_ROWS), tl.float32)
    code = tl.load(codebook_ptr + tl.arange(0, 16))
    for start in range(0, depth, BLOCK_DEPTH):  # a run-time bound: else the loop is unrolled
        x = tl.trans(tl.load(x_rows[:, None] + (start + depths)[None, :]))
        gate_weight = load_weight_tile(
            weight_ptr,
            absmax_ptr,
            nested_code_ptr,
            nested_absmax_ptr,
            nested_offset_ptr,
            code,
            gate_rows,
            start,
            x.dtype,
            HIDDEN,
            BLOCK_DEPTH,
            QUANTIZED,
            NESTED,
        )
        gate = tl.dot(gate_weight, x, gate)
        up_weight = load_weight_tile(
            weight_ptr,
            absmax_ptr,
            nested_code_ptr,
            nested_absmax_ptr,
            nested_offset_ptr,
            code,
            gate_rows + INNER,
            start,
            x.dtype,
            HIDDEN,
            BLOCK_DEPTH,
            QUANTIZED,
            NESTED,
        )
        up = tl.dot(up_weight, x, up)
    inner = gelu_tanh(gate) * up
    inner_rows = inner_ptr + positions.to(tl.int64) * INNER
    tl.store(
        inner_rows[None, :] + outputs[:, None],
        inner.to(inner_ptr.dtype.element_ty),
        mask=(positions < end)[None, :],
    )


@triton.jit
def _down_kernel(
    inner_ptr,
    weight_ptr,
    absmax_ptr,
    nested_code_ptr,
    nested_absmax_ptr,
    nested_offset_ptr,
    codebook_ptr,
    order_ptr,
    offsets_ptr,
    weights_ptr,
    outputs_ptr,
    depth,
    NUM_EXPERTS: tl.constexpr,
    PADDED: tl.constexpr,
    HIDDEN: tl.constexpr,
    INNER: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    QUANTIZED: tl.constexpr,
    NESTED: tl.constexpr,
):
    tile = tl.program_id(0) // (HIDDEN // BLOCK_OUTPUTS)
    first_output = tl.program_id(0) % (HIDDEN // BLOCK_OUTPUTS) * BLOCK_OUTPUTS
    expert, first, end = find_row_tile(offsets_ptr, tile, NUM_EXPERTS, PADDED, BLOCK_ROWS)
    if expert == NUM_EXPERTS:
        return
    positions = first + tl.arange(0, BLOCK_ROWS)
    held = positions < end
    inner_rows = inner_ptr + tl.where(held, positions, first).to(tl.int64) * INNER
    outputs = first_output + tl.arange(0, BLOCK_OUTPUTS)
    weight_rows = expert.to(tl.int64) * HIDDEN + outputs
    depths = tl.arange(0, BLOCK_DEPTH)
    result = tl.zeros((BLOCK_OUTPUTS, BLOCK_ROWS), tl.float32)
    code = tl.load(codebook_ptr + tl.arange(0, 16))
    for start in range(0, depth, BLOCK_DEPTH):
        inner = tl.trans(tl.load(inner_rows[:, None] + (start + depths)[None, :]))
        weight = load_weight_tile(
            weight_ptr,
            absmax_ptr,
            nested_code_ptr,
            nested_absmax_ptr,
            nested_offset_ptr,
            code,
            weight_rows,
            start,
            inner.dtype,
            INNER,
            BLOCK_DEPTH,
            QUANTIZED,
            NESTED,
        )
        result = tl.dot(weight, inner, result)
    slots = tl.load(order_ptr + positions, mask=held, other=0)
    result *= tl.load(weights_ptr + slots)[None, :]
    tl.store(
        outputs_ptr + slots.to(tl.int64)[None, :] * HIDDEN + outputs[:, None],
        result.to(outputs_ptr.dtype.element_ty),
        mask=held[None, :],
    )


@triton.jit
def _add_choices_kernel(
    outputs_ptr,
    experts_ptr,
    result_ptr,
    TOP_K: tl.constexpr,
    NUM_EXPERTS: tl.constexpr,
    HIDDEN: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_HIDDEN)
    total = tl.zeros((BLOCK_HIDDEN,), tl.float32)
    for choice in range(TOP_K):
        slot = row * TOP_K + choice
        chosen = tl.load(experts_ptr + slot) < NUM_EXPERTS  # else the output was never written
        mask = (columns < HIDDEN) & chosen
        total += tl.load(outputs_ptr + slot * HIDDEN + columns, mask=mask, other=0.0).to(tl.float32)
    tl.store(
        result_ptr + row * HIDDEN + columns,
        total.to(result_ptr.dtype.element_ty),
        mask=columns < HIDDEN,
    )
