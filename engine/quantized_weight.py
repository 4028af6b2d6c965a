"""Puts quantized weights into a model in place of its own, by the names that a preset covers."""

from torch import Tensor, nn

from dgq.kernels.fp8_experts import INNER_BLOCK
from dgq.kernels.nf4 import BLOCK_SIZE

from .errors import CheckpointError
from .fp8_weight import Fp8Weight
from .nf4_weight import Nf4Linear, Nf4Weight
from .operations import Operations, Weight
from .quantization import Quantization

QuantizedWeight = Nf4Weight | Fp8Weight
"""What holds a weight of one format. How a product decodes it is the operations' business."""

_ROW_MULTIPLES = {"nf4": BLOCK_SIZE, "fp8": INNER_BLOCK}


def held(weight: Tensor | QuantizedWeight) -> Weight:
    """A weight as the operations take it."""
    return weight if isinstance(weight, Tensor) else weight.tensor


def quantized_weights(model: nn.Module) -> dict[str, QuantizedWeight]:
    """A model's weights that are held quantized, by their names."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, QuantizedWeight)
    }


def hold_quantized(model: nn.Module, quantization: Quantization, operations: Operations) -> None:
    """Make the covered weights of a model quantized ones, yet to be filled; what they held is gone.

    CheckpointError names a weight whose rows cannot be cut into blocks.
    """
    for name, weight in list(model.named_parameters()):
        if not quantization.covers(name):
            continue
        multiple = _ROW_MULTIPLES[quantization.format]
        if weight.shape[-1] % multiple:
            raise CheckpointError(
                f"{name} has rows of {weight.shape[-1]} elements, no multiple of {multiple}; "
                f"the preset {quantization.preset} cannot hold it"
            )
        parent, _, leaf = name.rpartition(".")
        holder = model.get_submodule(parent)
        if isinstance(holder, nn.Linear):
            above, _, own = parent.rpartition(".")
            linear = Nf4Linear(weight.shape, quantization.double_quantization, operations)
            setattr(model.get_submodule(above), own, linear)
            continue
        delattr(holder, leaf)
        if quantization.format == "fp8":
            setattr(holder, leaf, Fp8Weight(weight.shape))
        else:
            setattr(holder, leaf, Nf4Weight(weight.shape, quantization.double_quantization))
