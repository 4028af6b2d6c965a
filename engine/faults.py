"""Tells what went wrong on the device: memory that ran out, or a device that is broken."""

import re

import torch

from dgq.kernels.errors import KernelError

from .errors import DeviceError, EngineError

# Libraries report these through plain RuntimeErrors; only torch's own allocator has a class for it.
_OUT_OF_MEMORY = re.compile(
    r"(CUDA|HIP) error: (out of memory|\w+_STATUS_ALLOC_FAILED)"
    r"|Triton Error \[\w+\]: out of memory"
)
_DEVICE = re.compile(r"(CUDA|HIP|cuDNN|NCCL) error|Triton Error \[(CUDA|HIP)\]")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the same work in smaller parts may succeed."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def error_for(error: BaseException) -> EngineError:
    """What callers are told when this error has ended the engine; DeviceError if it was the device."""
    first_line = str(error).partition("\n")[0]  # CUDA adds advice on debugging it
    reason = f"the engine stopped: {type(error).__name__}: {first_line}"
    if _is_of_a_kernel(error):
        reason += "; DGQ_KERNELS=torch (--kernels torch) does without Triton's kernels"
    is_device = isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and _DEVICE.search(str(error)) is not None
    )
    return DeviceError(reason) if is_device or is_out_of_memory(error) else EngineError(reason)


def _is_of_a_kernel(error: BaseException) -> bool:
    """Whether a Triton kernel refused its input, or could not be compiled or loaded."""
    is_tritons = type(error).__module__.partition(".")[0] == "triton"
    return is_tritons or isinstance(error, KernelError) or "C compiler" in str(error)
