"""The safetensors files of a checkpoint folder: which there are, what they hold, reading one tensor.

Only safetensors is read: nothing in a checkpoint is ever unpickled or executed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import CheckpointError
from .generation_config import read_json

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
FETCH = "download or copy the checkpoint again"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies. name: the model's, without the leading ``model.`` that the file may have."""

    path: Path
    name: str

    def read(self) -> Tensor:
        """Its content; the file is not held open."""
        try:
            with safe_open(self.path, framework="pt") as file:
                inside = file.keys()
                tensor: Tensor = file.get_tensor(
                    self.name if self.name in inside else f"model.{self.name}"
                )
        except (SafetensorError, OSError) as error:
            raise self.error(f"cannot be read ({error}); {FETCH}") from None
        return tensor

    def error(self, complaint: str) -> CheckpointError:
        """What is wrong with it, with its file and its name."""
        return CheckpointError(f"{self.path}: {self.name} {complaint}")


def stored_tensors(folder: Path) -> Iterator[StoredTensor]:
    """All tensors, file by file. CheckpointError names a file that is missing or broken."""
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is cut off or broken ({error}); {FETCH}") from None
        for name in names:
            yield StoredTensor(path, name.removeprefix("model."))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint. CheckpointError names one that is missing."""
    if (folder / INDEX_NAME).exists():
        weight_map = read_json(folder / INDEX_NAME).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{folder / INDEX_NAME} has no weight_map; {FETCH}")
        names = sorted(set(map(str, weight_map.values())))
    else:
        names = [WEIGHTS_NAME]
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{INDEX_NAME} points outside of its folder: {name!r}; {FETCH}")
        if not (folder / name).is_file():
            raise CheckpointError(_missing_file(folder, name))
    return [folder / name for name in names]


def _missing_file(folder: Path, name: str) -> str:
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        return (
            f"{folder} has no {name}, only pickled weights, which dgq never reads; "
            "save them with transformers' save_pretrained, which writes safetensors"
        )
    return f"{folder} has no {name}; {FETCH}"
