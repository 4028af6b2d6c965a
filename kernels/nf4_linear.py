"""A linear layer with NF4 weights: y = x W^T.

Up to a number of rows, the *crossover*, one kernel decodes each weight tile in its loop and multiplies;
it reads 4.5 bits per weight and nothing else of size. Above it the weight is decoded once into the
rows' dtype and the vendor's product takes over: the fused kernel decodes a tile anew for every tile of
rows, and the vendor's has no decoding to hide. Both compute the same products of the same rounded
weights, in another order of addition.

The product is computed transposed, as in grouped_experts.py and for the same reason.
Source for the crossover's place: bitsandbytes 0.50 switches between 16 and 64 rows on sm_90.
"""

from torch import Tensor
from torch.nn import functional as F

from .launch import check, check_inputs, largest_divisor, tl, triton
from .nf4 import BLOCK_SIZE, Nf4Tensor, codebook, dequantize, kernel_arguments, load_weight_tile

CROSSOVER_ROWS = 64
"""Rows up to which the fused kernel is used. Not measured yet."""


def nf4_linear_reference(x: Tensor, weight: Nf4Tensor) -> Tensor:
    """x [R, K], weight [N, K] -> [R, N]."""
    return F.linear(x, dequantize(weight, x.dtype))


def nf4_linear(x: Tensor, weight: Nf4Tensor, crossover_rows: int = CROSSOVER_ROWS) -> Tensor:
    """x [R, K] of a 16-bit or fp32 dtype, weight [N, K] -> [R, N].

    KernelError for an N that is no multiple of 16, or sizes that do not match.
    """
    num_rows, depth = x.shape
    pointers, flags = kernel_arguments(weight)
    check_inputs("nf4_linear", x, *pointers)
    check(
        len(weight.shape) == 2 and weight.shape[1] == depth,
        f"nf4_linear: a weight of shape {tuple(weight.shape)} for rows of {depth}",
    )
    num_outputs = weight.shape[0]
    block_outputs = largest_divisor("nf4_linear", num_outputs, 64, 32, 16)
    if num_rows > crossover_rows:
        dense = x.new_empty(num_outputs, depth)
        _dequantize_kernel[(num_outputs // block_outputs, depth // BLOCK_SIZE)](
            *pointers,
            codebook(x.device),
            dense,
            DEPTH=depth,
            BLOCK_OUTPUTS=block_outputs,
            BLOCK_DEPTH=BLOCK_SIZE,
            **flags,
        )
        return F.linear(x, dense)
    y = x.new_empty(num_rows, num_outputs)
    block_rows = min(max(16, triton.next_power_of_2(num_rows)), 64)
    _nf4_linear_kernel[(num_outputs // block_outputs, triton.cdiv(num_rows, block_rows))](
        x,
        *pointers,
        codebook(x.device),
        y,
        num_rows,
        num_outputs,
        depth,
        DEPTH=depth,
        BLOCK_ROWS=block_rows,
        BLOCK_OUTPUTS=block_outputs,
        BLOCK_DEPTH=BLOCK_SIZE,
        **flags,
        num_warps=4,
        num_stages=4,
    )
    return y


@triton.jit
def _nf4_linear_kernel(
    x_ptr,
    weight_ptr,
    absmax_ptr,
    nested_code_ptr,
    nested_absmax_ptr,
    nested_offset_ptr,
    codebook_ptr,
    y_ptr,
    num_rows,
    num_outputs,
    depth,
    DEPTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    QUANTIZED: tl.constexpr,
    NESTED: tl.constexpr,
):
    outputs = tl.program_id(0).to(tl.int64) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    rows = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    x_rows = x_ptr + tl.minimum(rows, num_rows - 1).to(tl.int64) * DEPTH
    depths = tl.arange(0, BLOCK_DEPTH)
    code = tl.load(codebook_ptr + tl.arange(0, 16))
    y = tl.zeros((BLOCK_OUTPUTS, BLOCK_ROWS), tl.float32)
    for start in range(0, depth, BLOCK_DEPTH):
        x = tl.trans(tl.load(x_rows[:, None] + (start + depths)[None, :]))
        weight = load_weight_tile(
            weight_ptr,
            absmax_ptr,
            nested_code_ptr,
            nested_absmax_ptr,
            nested_offset_ptr,
            code,
            outputs,
            start,
            x.dtype,
            DEPTH,
            BLOCK_DEPTH,
            QUANTIZED,
            NESTED,
        )
        y = tl.dot(weight, x, y)
    tl.store(
        y_ptr + rows.to(tl.int64)[None, :] * num_outputs + outputs[:, None],
        y.to(y_ptr.dtype.element_ty),
        mask=(rows < num_rows)[None, :],
    )


@triton.jit
def _dequantize_kernel(
    weight_ptr,
    absmax_ptr,
    nested_code_ptr,
    nested_absmax_ptr,
    nested_offset_ptr,
    codebook_ptr,
    dense_ptr,
    DEPTH: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    QUANTIZED: tl.constexpr,
    NESTED: tl.constexpr,
):
    outputs = tl.program_id(0).to(tl.int64) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    start = tl.program_id(1) * BLOCK_DEPTH
    tile = load_weight_tile(
        weight_ptr,
        absmax_ptr,
        nested_code_ptr,
        nested_absmax_ptr,
        nested_offset_ptr,
        tl.load(codebook_ptr + tl.arange(0, 16)),
        outputs,
        start,
        dense_ptr.dtype.element_ty,
        DEPTH,
        BLOCK_DEPTH,
        QUANTIZED,
        NESTED,
    )
    columns = start + tl.arange(0, BLOCK_DEPTH)
    tl.store(dense_ptr + outputs[:, None] * DEPTH + columns[None, :], tile)
