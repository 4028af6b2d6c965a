"""Writes a checkpoint's weights quantized: from one folder to another, tensor by tensor.

What is read, quantized and written at a time is one tensor, and a shard of up to MAX_SHARD_BYTES waits
to be written; so the host needs a few gigabytes whatever the model. The new folder is made beside its
place under another name and moved there once all of it is on the disk, config.json last of all: a
half-written one is never taken for a whole one.

What is left out: the vision part, which dgq does not read, and copies of tied weights.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .checkpoint import check_copies, check_dense, empty_model, read_quantization, sort_tensors
from .errors import CheckpointError
from .generation_config import read_json
from .quantization import UNQUANTIZED, Quantization
from .quantized_weight import QuantizedWeight, quantized_weights
from .weight_files import INDEX_NAME, StoredTensor
from .weight_storage import to_stored

MAX_SHARD_BYTES = 1 << 30
"""Of one file; a larger tensor gets a file of its own."""

_COPIED = ("*.jinja", "*.json", "*.model", "*.txt", "*.md", "LICENSE*")
"""Tokenizer, chat template, generation_config.json, dgq.json, and what a licence asks to go along."""

_NOT_COPIED = ("config.json", INDEX_NAME)

Progress = Callable[[int, int], None]
"""Told the bytes that were read and all that there are to read."""


def quantize_checkpoint(
    source: Path, target: Path, quantization: Quantization, progress: Progress | None = None
) -> int:
    """Write ``target``, which must not exist; gives the bytes of its weights.

    CheckpointError says why it cannot be: a preset that changes nothing, a source that is broken or
    quantized already, a target that exists, no room for it.
    """
    if quantization.is_none:
        raise CheckpointError(f"{quantization.preset} is how {source} is stored: nothing to do")
    if not read_quantization(source).is_none:
        raise CheckpointError(f"{source} is quantized already; give the unquantized checkpoint")
    if target.exists() or target.is_symlink():
        raise CheckpointError(f"{target} exists; give the name of a folder that is yet to be made")
    if not target.parent.is_dir():
        raise CheckpointError(f"{target.parent} is not a folder, so {target.name} cannot go there")
    shapes = _shapes(source)
    weights = quantized_weights(empty_model(source, quantization))
    own, copies = sort_tensors(source, shapes)
    check_copies(own, copies)
    _check_room(target, shapes, weights)
    beside = target.with_name(f".{target.name}.incomplete-{os.getpid()}")
    try:
        beside.mkdir()
        quantized = _quantized(own, shapes, weights, progress)
        num_bytes = _write_weights(quantized, beside)
        _write_rest(source, beside, quantization)
        os.rename(beside, target)
        _sync(target.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {target}: {error}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return num_bytes


def _shapes(source: Path) -> dict[str, torch.Size]:
    model = empty_model(source, UNQUANTIZED)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _check_room(
    target: Path, shapes: dict[str, torch.Size], weights: dict[str, QuantizedWeight]
) -> None:
    """Bytes as they will be written, other tensors in 16 bits."""
    needed = sum(buffer.nbytes for weight in weights.values() for buffer in weight.buffers())
    needed += sum(2 * shape.numel() for name, shape in shapes.items() if name not in weights)
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise CheckpointError(
            f"{target} would take {needed / 1e6:,.0f} MB and {target.parent} has "
            f"{free / 1e6:,.0f} MB free; make room or write elsewhere"
        )


def _quantized(
    own: list[StoredTensor],
    shapes: dict[str, torch.Size],
    weights: dict[str, QuantizedWeight],
    progress: Progress | None,
) -> Iterator[dict[str, Tensor]]:
    """What each tensor of the source becomes, by the names in the files."""
    total = sum(2 * shape.numel() for shape in shapes.values())
    done = 0
    for stored in own:
        tensor = stored.read()
        try:
            check_dense(tensor, shapes[stored.name])
        except CheckpointError as error:
            raise stored.error(str(error)) from None
        name = f"model.{stored.name}"
        if stored.name in weights:
            yield to_stored(name, weights[stored.name].quantize(tensor), tensor.dtype)
        else:
            yield {name: tensor.clone()}  # the file is not to be held open
        done += 2 * tensor.numel()
        if progress is not None:
            progress(done, total)


def _write_weights(groups: Iterator[dict[str, Tensor]], folder: Path) -> int:
    """Shards and their index; all tensors of one weight lie in one shard. Gives the bytes."""
    shards: list[list[str]] = []
    waiting: dict[str, Tensor] = {}
    num_bytes = num_waiting = 0

    def write() -> None:
        path = folder / _part(len(shards))
        save_file(waiting, path, metadata={"format": "pt"})
        _sync(path)
        shards.append(list(waiting))
        waiting.clear()

    for group in groups:
        size = sum(tensor.nbytes for tensor in group.values())
        if waiting and num_waiting + size > MAX_SHARD_BYTES:
            write()
            num_waiting = 0
        waiting |= group
        num_waiting += size
        num_bytes += size
        del group
    write()
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards):
        final = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        (folder / _part(number)).rename(folder / final)
        weight_map |= dict.fromkeys(names, final)
    index = {"metadata": {"total_size": num_bytes}, "weight_map": weight_map}
    _write_json(folder / INDEX_NAME, index)
    return num_bytes


def _part(number: int) -> str:
    return f"part-{number}.safetensors"


def _write_rest(source: Path, folder: Path, quantization: Quantization) -> None:
    for pattern in _COPIED:
        for path in source.glob(pattern):
            if path.name not in _NOT_COPIED and path.is_file():
                shutil.copyfile(path, folder / path.name)
                _sync(folder / path.name)
    config = read_json(source / "config.json")
    _write_json(folder / "config.json", config | {"quantization_config": quantization.to_config()})
    _sync(folder)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    """See to it that a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
