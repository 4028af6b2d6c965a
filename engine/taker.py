"""What becomes of a tensor that a checkpoint's file holds: it is checked, and put where it belongs."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .errors import CheckpointError

Taker = Callable[[Tensor], None]
"""Checks a stored tensor and puts it where it belongs. CheckpointError says what is wrong with it."""


def into_buffer(
    module: nn.Module, leaf: str, device: torch.device | str, stored_shape: Sequence[int]
) -> Taker:
    """For a module's buffer that is yet to be filled: a tensor of its dtype and of the stored shape."""
    place: Tensor = getattr(module, leaf)

    def check_and_put(tensor: Tensor) -> None:
        check_kind(tensor, place.dtype, stored_shape)
        setattr(module, leaf, tensor.view(place.shape).to(device=device, copy=True))

    return check_and_put


def check_kind(tensor: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> None:
    """CheckpointError unless it is a tensor of this dtype and shape."""
    if tensor.dtype != dtype or list(tensor.shape) != list(shape):
        raise CheckpointError(
            f"is {dtype_name(tensor.dtype)} {list(tensor.shape)}, but config.json asks for "
            f"{dtype_name(dtype)} {list(shape)}; check that config.json and the weights belong "
            "together"
        )


def dtype_name(dtype: torch.dtype) -> str:
    """bfloat16, say."""
    return str(dtype).removeprefix("torch.")
