"""From the host's numbers to tensors of the device, without waiting for either."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def upload(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array as a tensor of the device; on a CPU it shares the array's memory.

    To a GPU it goes through pinned memory, as a copy that takes its turn in the stream while the host
    goes on. torch hands that memory out again only after the copy, so nobody has to wait for it.
    """
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
