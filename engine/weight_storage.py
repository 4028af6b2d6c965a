"""How a quantized weight lies in a safetensors file, whichever its format.

NF4 as bitsandbytes has it, see nf4_storage.py. FP8 as compressed-tensors has it, for a weight W:

    W          float8_e4m3fn, of the weight's own shape [.., N, K]
    W_scale    fp32 [.., N, 1]
"""

import torch
from torch import Tensor

from dgq.kernels.fp8 import Fp8Tensor
from dgq.kernels.nf4 import Nf4Tensor

from . import nf4_storage
from .nf4_weight import Nf4Weight
from .quantized_weight import QuantizedWeight
from .taker import Taker, into_buffer


def to_stored(name: str, weight: Nf4Tensor | Fp8Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """A weight's tensors by their names. dtype: of what was quantized."""
    if isinstance(weight, Nf4Tensor):
        return nf4_storage.to_stored(name, weight, dtype)
    return {name: weight.values.cpu(), f"{name}_scale": weight.scales.cpu()}


def takers(name: str, weight: QuantizedWeight, device: torch.device | str) -> dict[str, Taker]:
    """For each tensor that a file must hold of a weight: what takes it."""
    if isinstance(weight, Nf4Weight):
        return nf4_storage.takers(name, weight, device)
    return {
        name: into_buffer(weight, "values", device, weight.values.shape),
        f"{name}_scale": into_buffer(weight, "scales", device, weight.scales.shape),
    }
