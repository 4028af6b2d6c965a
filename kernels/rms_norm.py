"""Root-mean-square normalisation: y = x / sqrt(mean(x^2) + eps), times a weight, plus a residual.

Computed in fp32. The normalised row is rounded to the rows' dtype before the residual is added, as the
two steps apart would do, so that fusing them changes no bit. A program takes one long row, or several
short ones (heads of 256), each read once. Source: RMSNorm (arXiv 1910.07467).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .launch import check, check_inputs, tl, triton

MAX_SIZE = 16384
"""A row is held in registers."""

_PROGRAM_ELEMENTS = 2048


def rms_norm_reference(
    x: Tensor, weight: Tensor | None, eps: float, residual: Tensor | None = None
) -> Tensor:
    """As ``rms_norm``."""
    fp32_weight = None if weight is None else weight.float()
    normed = F.rms_norm(x.float(), x.shape[-1:], fp32_weight, eps).to(x.dtype)
    return normed if residual is None else residual + normed


def rms_norm(
    x: Tensor, weight: Tensor | None, eps: float, residual: Tensor | None = None
) -> Tensor:
    """x [.., d], weight [d] or None for ones, residual [.., d] or None -> [.., d] of x's dtype.

    KernelError for a d over 16,384.
    """
    size = x.shape[-1]
    check_inputs("rms_norm", *(tensor for tensor in (x, weight, residual) if tensor is not None))
    check(size <= MAX_SIZE, f"rms_norm: rows of {size} elements; it serves up to {MAX_SIZE}")
    check(
        (weight is None or weight.shape == (size,))
        and (residual is None or (residual.shape == x.shape and residual.dtype == x.dtype)),
        "rms_norm: a weight or a residual that does not go with the rows",
    )
    y = torch.empty_like(x)
    num_rows = x.numel() // size
    block_columns = triton.next_power_of_2(size)
    block_rows = max(1, _PROGRAM_ELEMENTS // block_columns)
    _rms_norm_kernel[(triton.cdiv(num_rows, block_rows),)](
        x,
        x if weight is None else weight,
        x if residual is None else residual,
        y,
        num_rows,
        eps,
        SIZE=size,
        HAS_WEIGHT=weight is not None,
        HAS_RESIDUAL=residual is not None,
        BLOCK_ROWS=block_rows,
        BLOCK_COLUMNS=block_columns,
        num_warps=4 if block_columns <= _PROGRAM_ELEMENTS else 8,
    )
    return y


@triton.jit
def _rms_norm_kernel(
    x_ptr,
    weight_ptr,
    residual_ptr,
    y_ptr,
    num_rows,
    eps,
    SIZE: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    columns = tl.arange(0, BLOCK_COLUMNS)
    places = rows[:, None] * SIZE + columns[None, :]
    mask = (rows < num_rows)[:, None] & (columns < SIZE)[None, :]
    x = tl.load(x_ptr + places, mask=mask, other=0.0).to(tl.float32)
    y = x * tl.rsqrt(tl.sum(x * x, axis=1) / SIZE + eps)[:, None]
    if HAS_WEIGHT:
        weight = tl.load(weight_ptr + columns, mask=columns < SIZE, other=0.0)
        y *= weight.to(tl.float32)[None, :]
    if HAS_RESIDUAL:
        residual = tl.load(residual_ptr + places, mask=mask, other=0.0).to(tl.float32)
        y = residual + y.to(y_ptr.dtype.element_ty).to(tl.float32)
    tl.store(y_ptr + places, y.to(y_ptr.dtype.element_ty), mask=mask)
