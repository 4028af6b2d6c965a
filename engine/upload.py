"""From the host's numbers to tensors of the device, without waiting for either."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def upload(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array as a tensor of the device; on a CPU it shares the array's memory."""
    return staged(array, device).to(device, non_blocking=True)


def staged(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array on the host, from where a copy to the device takes its turn in the stream.

    For a GPU in pinned memory, which torch hands out again only after the copy: nobody has to wait.
    """
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if device.type == "cuda" else tensor
