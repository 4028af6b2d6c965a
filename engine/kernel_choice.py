"""Which operations an engine computes with, and in which dtype."""

import torch

from dgq.kernels.launch import FP8_CAPABILITY, HAS_TRITON, IS_INTERPRETED, multiplies_fp8

from .engine_config import DTYPES, KERNELS
from .errors import EngineError
from .operations import Operations
from .quantization import Quantization
from .torch_operations import TORCH
from .triton_operations import TRITON


def choose_operations(kernels: str, device: str, dtype: torch.dtype) -> Operations:
    """kernels: one of KERNELS. EngineError for another, or for one that cannot run there.

    The kernels are made for 16 bits: their products of fp32 numbers would be rounded to TF32, and their
    tiles would not fit into the shared memory of most GPUs.
    """
    if kernels not in KERNELS:
        raise EngineError(f"kernels must be one of {', '.join(KERNELS)}, not {kernels!r}")
    serves = _is_gpu(device) and dtype == torch.bfloat16
    if kernels == "auto":
        return TRITON if serves and HAS_TRITON else TORCH
    if kernels == "torch":
        return TORCH
    if not HAS_TRITON:
        raise EngineError(
            "the triton kernels need the package triton (Linux); choose auto or torch"
        )
    if not serves and not IS_INTERPRETED:
        raise EngineError(
            f"the triton kernels need a CUDA device and bfloat16, not {device} and "
            f"{str(dtype).removeprefix('torch.')}; choose auto or torch"
        )
    return TRITON


def check_format(
    quantization: Quantization, operations: Operations, device: torch.device | str
) -> None:
    """EngineError where the operations cannot multiply numbers of this format on the device."""
    if quantization.format != "fp8" or operations is not TRITON or not _is_gpu(device):
        return
    if not multiplies_fp8(device):
        least = ".".join(map(str, FP8_CAPABILITY))
        raise EngineError(
            f"{quantization.preset} needs a GPU that multiplies FP8 numbers, of compute capability "
            f"{least} or later, which {device} is not; choose the preset nf4-experts"
        )


def choose_dtype(dtype: str, device: str) -> torch.dtype:
    """dtype: one of DTYPES. EngineError for another."""
    if dtype not in DTYPES:
        raise EngineError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    if dtype == "auto":
        return torch.bfloat16 if _is_gpu(device) else torch.float32
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


def _is_gpu(device: torch.device | str) -> bool:
    return torch.device(device).type == "cuda"
