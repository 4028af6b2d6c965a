"""Rotary position embedding: turns the pairs (i, i + D/2) of a head by the row's angles.

    first'  = first cos - second sin
    second' = second cos + first sin

Cosines and sines come from a table that all layers of a kind share, made once a step. It may have fewer
angles than a head has pairs: the first pairs are turned then and the others stay, as in full-attention
layers, which turn a quarter. Computed in fp32 and rounded once.
Source: RoFormer (arXiv 2104.09864), in the half-split form of Gemma.
"""

import torch
from torch import Tensor

from .launch import check, check_inputs, tl, triton

_PROGRAM_ELEMENTS = 4096


def rotate_reference(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As ``rotate``."""
    cos, sin = cos.float()[:, None], sin.float()[:, None]
    pairs = x.float().view(*x.shape[:-1], 2, -1).clone()
    turned = pairs[..., : cos.shape[-1]]
    first, second = turned.unbind(-2)
    turned.copy_(torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-2))
    return pairs.flatten(-2).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [T, H, D]; cos, sin [T, A] of any float dtype, A <= D / 2 -> [T, H, D].

    KernelError for an odd D or tables of another shape.
    """
    check_inputs("rotate", x, cos, sin)
    num_rows, num_heads, head_size = x.shape
    num_angles = cos.shape[-1]
    check(
        head_size % 2 == 0
        and cos.shape == sin.shape == (num_rows, num_angles)
        and 2 * num_angles <= head_size,
        f"rotate: heads of {head_size} with tables {tuple(cos.shape)} and {tuple(sin.shape)}",
    )
    y = torch.empty_like(x)
    block_pairs = triton.next_power_of_2(head_size // 2)
    block_heads = max(1, min(triton.next_power_of_2(num_heads), _PROGRAM_ELEMENTS // block_pairs))
    _rotate_kernel[(num_rows, triton.cdiv(num_heads, block_heads))](
        x,
        cos,
        sin,
        y,
        num_heads,
        HEAD_SIZE=head_size,
        NUM_ANGLES=num_angles,
        BLOCK_HEADS=block_heads,
        BLOCK_PAIRS=block_pairs,
        num_warps=4,
    )
    return y


@triton.jit
def _rotate_kernel(
    x_ptr,
    cos_ptr,
    sin_ptr,
    y_ptr,
    num_heads,
    HEAD_SIZE: tl.constexpr,
    NUM_ANGLES: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    pairs = tl.arange(0, BLOCK_PAIRS)
    turned = pairs < NUM_ANGLES
    mask = (heads < num_heads)[:, None] & (pairs < HEAD_SIZE // 2)[None, :]
    places = (row * num_heads + heads)[:, None] * HEAD_SIZE + pairs[None, :]
    first = tl.load(x_ptr + places, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(x_ptr + places + HEAD_SIZE // 2, mask=mask, other=0.0).to(tl.float32)
    angles = row * NUM_ANGLES + pairs
    cos = tl.load(cos_ptr + angles, mask=turned, other=1.0).to(tl.float32)[None, :]
    sin = tl.load(sin_ptr + angles, mask=turned, other=0.0).to(tl.float32)[None, :]
    dtype = y_ptr.dtype.element_ty
    tl.store(y_ptr + places, (first * cos - second * sin).to(dtype), mask=mask)
    tl.store(y_ptr + places + HEAD_SIZE // 2, (second * cos + first * sin).to(dtype), mask=mask)
