"""Reads a checkpoint folder in the Hugging Face layout into a model, tensor by tensor.

The model is built without memory (on torch's meta device) and each tensor is converted and put in
its place as it is read, so that loading needs the weights once plus one tensor. Only safetensors
is read: nothing in a checkpoint is ever unpickled or executed.

Names. The decoder holds all weights; of the encoder, only ``layer_scalar`` is its own. Files may
hold the tied copies too (``lm_head.weight``, ``encoder.language_model.*``): these must equal the
decoder's. The vision part is skipped, on purpose: dgq reads text only.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .config import ModelConfig
from .errors import CheckpointError
from .generation_config import read_json
from .model import DiffusionGemma

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

_VISION_PREFIXES = ("encoder.vision_tower.", "encoder.embed_vision.")
_ENCODER_PREFIX = "encoder.language_model."
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_FETCH = "download or copy the checkpoint again"


def load_model(
    folder: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> DiffusionGemma:
    """The model of a checkpoint folder, its weights as ``dtype``, ready for inference.

    CheckpointError names the file or tensor that is missing, misshapen, unexpected or broken.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give the folder that holds config.json")
    config = ModelConfig.from_file(folder / "config.json")
    with torch.device("meta"):
        model = DiffusionGemma(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    loaded: set[str] = set()
    for path, name in _tensor_places(folder, shapes):
        if name in loaded:
            raise CheckpointError(f"{path} holds {name} a second time; {_FETCH}")
        tensor = _read(path, name, shapes[name])
        _put(model, name, tensor.to(device=device, dtype=dtype, copy=True))
        loaded.add(name)
    if missing := sorted(shapes.keys() - loaded):
        raise CheckpointError(f"{folder} lacks {_some(missing)}; {_FETCH}")
    _check_copies(folder, model, shapes)
    return model.eval().requires_grad_(False)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint. CheckpointError names one that is missing."""
    if (folder / INDEX_NAME).exists():
        weight_map = read_json(folder / INDEX_NAME).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{folder / INDEX_NAME} has no weight_map; {_FETCH}")
        names = sorted(set(map(str, weight_map.values())))
    else:
        names = [WEIGHTS_NAME]
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{INDEX_NAME} points outside of its folder: {name!r}; {_FETCH}")
        if not (folder / name).is_file():
            raise CheckpointError(_missing_file(folder, name))
    return [folder / name for name in names]


def _missing_file(folder: Path, name: str) -> str:
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        return (
            f"{folder} has no {name}, only pickled weights, which dgq never reads; "
            "save them with transformers' save_pretrained, which writes safetensors"
        )
    return f"{folder} has no {name}; {_FETCH}"


def _tensor_places(folder: Path, shapes: dict[str, torch.Size]) -> Iterator[tuple[Path, str]]:
    """(file, our name) of each tensor that the model takes, file by file."""
    for path, name in _names(folder):
        if name in shapes:
            yield path, name
        elif not name.startswith(_VISION_PREFIXES) and _original(name) not in shapes:
            raise CheckpointError(
                f"{path} holds {name}, which a DiffusionGemma of this config.json does not have; "
                "check that config.json and the weights belong together"
            )


def _check_copies(folder: Path, model: DiffusionGemma, shapes: dict[str, torch.Size]) -> None:
    """Tied weights that the files hold twice must be equal, else the text would be another."""
    weights = model.state_dict()
    for path, name in _names(folder):
        original = _original(name)
        if name in shapes or original not in shapes:
            continue
        kept = weights[original]
        copy = _read(path, name, shapes[original]).to(device=kept.device, dtype=kept.dtype)
        if not torch.equal(copy, kept):
            raise CheckpointError(
                f"{path}: {name} differs from {original}; dgq needs tied weights, "
                "so save the model with tie_word_embeddings true"
            )


def _original(name: str) -> str:
    """The decoder's name of a tied copy; other names come back as they are."""
    if name == "lm_head.weight":
        return "decoder.embed_tokens.weight"
    if name.startswith(_ENCODER_PREFIX):
        return "decoder." + name.removeprefix(_ENCODER_PREFIX)
    return name


def _names(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is cut off or broken ({error}); {_FETCH}") from None
        for name in names:
            yield path, name.removeprefix("model.")


def _read(path: Path, name: str, shape: torch.Size) -> Tensor:
    """One tensor, checked. The name in the file may or may not begin with ``model.``."""
    try:
        with safe_open(path, framework="pt") as file:
            stored = name if name in file.keys() else f"model.{name}"  # noqa: SIM118
            tensor: Tensor = file.get_tensor(stored)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot read {name} ({error}); {_FETCH}") from None
    if tensor.dtype not in _FLOATS:
        raise CheckpointError(
            f"{path}: {name} is stored as {tensor.dtype}; dgq reads checkpoints in "
            "bfloat16, float16 or float32, so use the unquantized one"
        )
    if tensor.shape != shape:
        raise CheckpointError(
            f"{path}: {name} has shape {list(tensor.shape)}, config.json asks for {list(shape)}; "
            "check that config.json and the weights belong together"
        )
    return tensor


def _put(model: DiffusionGemma, name: str, tensor: Tensor) -> None:
    parent, _, leaf = name.rpartition(".")
    module = model.get_submodule(parent)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[leaf] = tensor


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more tensors" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
