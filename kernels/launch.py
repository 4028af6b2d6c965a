"""What every kernel needs around it: Triton, where there is one, and checks before a launch.

Kernels import ``triton`` and ``tl`` from here. Where Triton is not installed (it exists for Linux
only) the modules still import, because each holds a plain PyTorch reference too; only a launch
fails, with a KernelError.
"""

from typing import Any

import torch
from torch import Tensor

from .errors import KernelError

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError:

    class _Absent:
        """Takes any use as a decorator or an annotation."""

        def __getattr__(self, name: str) -> "_Absent":
            return self

        def __call__(self, *args: Any, **kwargs: Any) -> "_Absent":
            return self

    triton = tl = _Absent()
    HAS_TRITON = IS_INTERPRETED = False
else:
    HAS_TRITON = True
    IS_INTERPRETED = bool(triton.knobs.runtime.interpret)
    """Whether kernels run in Triton's interpreter, on tensors of the CPU: TRITON_INTERPRET=1."""

__all__ = [
    "FP8_CAPABILITY",
    "HAS_TRITON",
    "IS_INTERPRETED",
    "check",
    "check_inputs",
    "has_large_tiles",
    "largest_divisor",
    "multiplies_fp8",
    "tl",
    "triton",
]

LARGE_TILE_ARCHITECTURES = (9, 10)
"""Compute capabilities with 227 KB of shared memory for a block; the others have 99 to 163 KB."""

FP8_CAPABILITY = (8, 9)
"""The first compute capability with matrix instructions for FP8."""


def check(holds: bool, message: str) -> None:
    """Raise KernelError(message) unless the condition holds."""
    if not holds:
        raise KernelError(message)


def check_inputs(name: str, *tensors: Tensor) -> None:
    """The tensors must be contiguous and on one device, and Triton must be there to serve them."""
    check(HAS_TRITON, f"{name}: Triton is not installed; use the torch kernels")
    check(all(tensor.is_contiguous() for tensor in tensors), f"{name}: a tensor is not contiguous")
    devices = {tensor.device for tensor in tensors}
    check(len(devices) == 1, f"{name}: tensors on {sorted(map(str, devices))}, not on one device")


def has_large_tiles(tensor: Tensor) -> bool:
    """Whether the tensor's device has the shared memory for the large tiles."""
    if tensor.device.type != "cuda":
        return False
    return torch.cuda.get_device_capability(tensor.device)[0] in LARGE_TILE_ARCHITECTURES


def multiplies_fp8(device: torch.device | str) -> bool:
    """Whether a CUDA device has matrix instructions for e4m3."""
    return torch.cuda.get_device_capability(device) >= FP8_CAPABILITY


def largest_divisor(name: str, size: int, *candidates: int) -> int:
    """The first of the falling candidates that divides the size. KernelError if none does."""
    for candidate in candidates:
        if size % candidate == 0:
            return candidate
    raise KernelError(f"{name}: a size of {size}; it serves multiples of {candidates[-1]}")
