"""Reads a checkpoint folder in the Hugging Face layout into a model, tensor by tensor.

The model is built without memory (on torch's meta device) and each tensor is converted and put in
its place as it is read, so that loading needs the weights once plus one tensor. A weight that is to be
held in fewer bits is quantized on the device as soon as it is there, and its 16-bit form is gone
before the next one is read; one that is stored so is copied as it is.

Names. The decoder holds all weights; of the encoder, only ``layer_scalar`` is its own. Files may
hold the tied copies too (``lm_head.weight``, ``encoder.language_model.*``): these must equal the
decoder's. The vision part is skipped, on purpose: dgq reads text only.
"""

from collections.abc import Collection
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from .config import ModelConfig
from .errors import CheckpointError
from .generation_config import read_json
from .kernel_choice import check_format
from .model import DiffusionGemma
from .operations import Operations
from .quantization import UNQUANTIZED, Quantization, quantization_of
from .quantized_weight import QuantizedWeight, hold_quantized, quantized_weights
from .taker import Taker
from .torch_operations import TORCH
from .weight_files import FETCH, StoredTensor, stored_tensors
from .weight_storage import takers

_VISION_PREFIXES = ("encoder.vision_tower.", "encoder.embed_vision.")
_ENCODER_PREFIX = "encoder.language_model."
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def load_model(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    quantization: Quantization = UNQUANTIZED,
    operations: Operations = TORCH,
) -> DiffusionGemma:
    """The model of a checkpoint folder, its weights as ``dtype``, ready for inference.

    quantization: which weights to quantize on the way; a folder that is quantized keeps its own.
    operations: how the model is to compute.
    CheckpointError names the file or tensor that is missing, misshapen, unexpected or broken;
    EngineError says that the device cannot compute with weights quantized so.
    """
    stored = read_quantization(folder)
    if not stored.is_none and quantization not in (UNQUANTIZED, stored):
        raise CheckpointError(
            f"{folder} is quantized already, as {stored.preset}; load it as it is"
        )
    kept_in = quantization if stored.is_none else stored
    check_format(kept_in, operations, device)
    model = empty_model(folder, kept_in, operations)
    wanted = _takers(model, dtype, device, are_quantized=not stored.is_none)
    own, copies = sort_tensors(folder, wanted)
    for tensor in own:
        content = tensor.read()
        try:
            wanted[tensor.name](content)
        except CheckpointError as error:
            raise tensor.error(str(error)) from None
    check_copies(own, copies)
    return model.eval().requires_grad_(False)


def read_quantization(folder: Path) -> Quantization:
    """How a checkpoint folder is quantized. CheckpointError where that cannot be read."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give the folder that holds config.json")
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(f"{folder} is not a checkpoint: it has no config.json")
    try:
        return quantization_of(read_json(path))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def sort_tensors(
    folder: Path, wanted: Collection[str]
) -> tuple[list[StoredTensor], list[StoredTensor]]:
    """The tensors of a folder that a model wants, by its own names, and the tied copies of such.

    CheckpointError names one that is neither, vision aside, one that comes twice, and what is missing.
    """
    own: dict[str, StoredTensor] = {}
    copies: list[StoredTensor] = []
    for tensor in stored_tensors(folder):
        if tensor.name in own:
            raise CheckpointError(f"{tensor.path} holds {tensor.name} a second time; {FETCH}")
        if tensor.name in wanted:
            own[tensor.name] = tensor
        elif _original(tensor.name) in wanted:
            copies.append(tensor)
        elif not tensor.name.startswith(_VISION_PREFIXES):
            raise CheckpointError(
                f"{tensor.path} holds {tensor.name}, which a DiffusionGemma of this config.json "
                "does not have; check that config.json and the weights belong together"
            )
    if missing := sorted(set(wanted) - own.keys()):
        raise CheckpointError(f"{folder} lacks {_some(missing)}; {FETCH}")
    return list(own.values()), copies


def check_copies(own: list[StoredTensor], copies: list[StoredTensor]) -> None:
    """Tied weights that the files hold twice must be equal, else the text would be another."""
    originals = {tensor.name: tensor for tensor in own}
    for copy in copies:
        original = originals[_original(copy.name)]
        if not torch.equal(copy.read().float(), original.read().float()):
            raise copy.error(
                f"differs from {original.name}; dgq needs tied weights, "
                "so save the model with tie_word_embeddings true"
            )


def check_dense(tensor: Tensor, shape: torch.Size) -> None:
    """CheckpointError unless it is a tensor of floats of this shape."""
    if tensor.dtype not in _FLOATS:
        raise CheckpointError(
            f"is stored as {tensor.dtype}; dgq reads checkpoints in bfloat16, float16 or float32, "
            "so use the unquantized one"
        )
    if tensor.shape != shape:
        raise CheckpointError(
            f"has shape {list(tensor.shape)}, config.json asks for {list(shape)}; "
            "check that config.json and the weights belong together"
        )


def empty_model(
    folder: Path, quantization: Quantization, operations: Operations = TORCH
) -> DiffusionGemma:
    """The model of a folder's config.json, without memory. CheckpointError for a wrong config.json."""
    config = ModelConfig.from_file(folder / "config.json")
    with torch.device("meta"):
        model = DiffusionGemma(config, operations)
        hold_quantized(model, quantization, operations)
    return model


def place(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Make a tensor the parameter or the buffer of this name."""
    parent, _, leaf = name.rpartition(".")
    module = model.get_submodule(parent)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[leaf] = tensor


def _takers(
    model: DiffusionGemma, dtype: torch.dtype, device: torch.device | str, *, are_quantized: bool
) -> dict[str, Taker]:
    """For each tensor that the files must hold: what takes it. are_quantized: the files' weights."""
    found: dict[str, Taker] = {}
    quantized = quantized_weights(model)
    for name, weight in quantized.items():
        if are_quantized:
            found |= takers(name, weight, device)
        else:
            found[name] = partial(_quantize, weight, device)
    for name, tensor in model.state_dict().items():
        if name.rpartition(".")[0] not in quantized:
            found[name] = partial(_put, model, name, tensor.shape, dtype, device)
    return found


def _quantize(weight: QuantizedWeight, device: torch.device | str, tensor: Tensor) -> None:
    check_dense(tensor, weight.shape)
    weight.quantize_and_hold(tensor.to(device))


def _put(
    model: DiffusionGemma,
    name: str,
    shape: torch.Size,
    dtype: torch.dtype,
    device: torch.device | str,
    tensor: Tensor,
) -> None:
    check_dense(tensor, shape)
    place(model, name, tensor.to(device=device, dtype=dtype, copy=True))


def _original(name: str) -> str:
    """The decoder's name of a tied copy; other names come back as they are."""
    if name == "lm_head.weight":
        return "decoder.embed_tokens.weight"
    if name.startswith(_ENCODER_PREFIX):
        return "decoder." + name.removeprefix(_ENCODER_PREFIX)
    return name


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more tensors" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
