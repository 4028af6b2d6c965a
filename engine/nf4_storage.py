"""How an NF4 weight lies in a safetensors file: the tensors, names and facts of bitsandbytes.

For a weight W, as transformers' ``save_pretrained`` writes a Linear4bit:

    W                                  uint8 [n / 2, 1]    two elements a byte
    W.absmax                           fp32 [n / 64], or uint8 where it is quantized itself
    W.quant_map                        fp32 [16]           the codebook
    W.nested_absmax, W.nested_quant_map                    with double quantization only
    W.quant_state.bitsandbytes__nf4    uint8: JSON of the block sizes, shape, dtype, nested_offset

bitsandbytes' ``QuantState.from_dict`` takes the tensors beside W as they are. Experts, which
bitsandbytes has no layer for, are written in the same way with their three dimensions.
"""

import json
from typing import Any

import torch
from torch import Tensor

from dgq.kernels.nf4 import (
    BLOCK_SIZE,
    NESTED_BLOCK_SIZE,
    Nf4Tensor,
    codebook,
    nested_codebook,
)

from .errors import CheckpointError
from .nf4_weight import Nf4Weight
from .taker import Taker, check_kind, dtype_name, into_buffer

_STATE = "quant_state.bitsandbytes__nf4"
_CPU = torch.device("cpu")


def to_stored(name: str, weight: Nf4Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """A weight's tensors by their names. dtype: of what was quantized."""
    state: dict[str, Any] = {
        "quant_type": "nf4",
        "blocksize": BLOCK_SIZE,
        "dtype": dtype_name(dtype),
        "shape": list(weight.shape),
    }
    tensors = {
        name: weight.packed.reshape(-1, 1),
        f"{name}.absmax": weight.absmax.flatten(),
        f"{name}.quant_map": codebook(_CPU).clone(),  # a file must not hold one memory twice
    }
    if weight.nested is not None:
        tensors[f"{name}.nested_absmax"] = weight.nested.absmax
        tensors[f"{name}.nested_quant_map"] = weight.nested.code.clone()
        state |= {
            "nested_blocksize": NESTED_BLOCK_SIZE,
            "nested_dtype": "float32",
            "nested_offset": weight.nested.offset.item(),
        }
    text = json.dumps(state).encode()
    tensors[f"{name}.{_STATE}"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return {stored: tensor.cpu().contiguous() for stored, tensor in tensors.items()}


def takers(name: str, weight: Nf4Weight, device: torch.device | str) -> dict[str, Taker]:
    """For each tensor that a file must hold of a weight: what takes it."""

    def take(leaf: str) -> Taker:
        size = getattr(weight, leaf).numel()
        return into_buffer(weight, leaf, device, [size, 1] if leaf == "packed" else [size])

    def take_state(tensor: Tensor) -> None:
        offset = _nested_offset(tensor, weight)
        if offset is not None:
            weight.nested_offset = torch.tensor(offset, device=device)

    found = {
        name: take("packed"),
        f"{name}.absmax": take("absmax"),
        f"{name}.quant_map": _equal_to(codebook(_CPU)),
        f"{name}.{_STATE}": take_state,
    }
    if weight.double_quantization:
        found[f"{name}.nested_absmax"] = take("nested_absmax")
        found[f"{name}.nested_quant_map"] = _equal_to(nested_codebook(_CPU))
    return found


def _nested_offset(tensor: Tensor, weight: Nf4Weight) -> float | None:
    """The one number that the state holds; all else in it must be what this weight has."""
    if tensor.dtype != torch.uint8:
        raise CheckpointError(f"is stored as {tensor.dtype}, not as the bytes of a JSON object")
    try:
        state = json.loads(bytes(tensor.flatten().tolist()))
    except ValueError:
        raise CheckpointError("does not hold a JSON object") from None
    wanted: dict[str, Any] = {
        "quant_type": "nf4",
        "blocksize": BLOCK_SIZE,
        "shape": list(weight.shape),
    }
    if weight.double_quantization:
        wanted |= {"nested_blocksize": NESTED_BLOCK_SIZE, "nested_dtype": "float32"}
    for field, value in wanted.items():
        found = state.get(field) if isinstance(state, dict) else None
        if found != value:
            raise CheckpointError(f"says that {field} is {found!r}; this weight needs {value!r}")
    if not weight.double_quantization:
        return None
    offset = state.get("nested_offset")
    if not isinstance(offset, float):
        raise CheckpointError(f"says that nested_offset is {offset!r}, which is no number")
    return offset


def _equal_to(table: Tensor) -> Taker:
    def check(tensor: Tensor) -> None:
        check_kind(tensor, table.dtype, list(table.shape))
        if not torch.equal(tensor, table):
            raise CheckpointError("is another code than NF4's, so the weight means something else")

    return check
