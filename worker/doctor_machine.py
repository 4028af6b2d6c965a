"""This machine's half of ``dgq doctor``: packages, GPU, kernels, model, disk."""

import importlib.util
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dgq.engine.errors import CheckpointError

from .finding import Finding, Level
from .guard import WORKER_PACKAGES
from .host import SHIPPED_MODEL_PATH, check_model_path
from .settings import Settings, misspelt_variables

GIB = 2**30
LITTLE_DISK_GIB = 2.0
NO_DISK_GIB = 0.1
COMPILERS = ("gcc", "clang")
POINTER = b"version https://git-lfs"


def examine_machine(settings: Settings) -> Iterator[Finding]:
    """Look at what a worker would need here. Imports torch, where it is installed."""
    yield from _settings()
    yield _packages()
    yield _gpu(settings)
    yield _kernels(settings)
    yield _model(settings)
    yield _disk(settings)


def _settings() -> Iterator[Finding]:
    for given, meant in misspelt_variables():
        what = f"the variable {given} is not a setting"
        yield Finding("settings", "warning", what, f"did you mean {meant}?")


def _packages() -> Finding:
    wanted = WORKER_PACKAGES - ({"bitsandbytes"} if sys.platform != "linux" else set())
    missing = sorted(name for name in wanted if importlib.util.find_spec(name) is None)
    if missing:
        what = f"{', '.join(missing)} not installed: this machine can submit, but run no worker"
        return Finding("packages", "warning", what, "pip install 'dgq[worker]'")
    names = ("dgq", "torch", "tokenizers", "celery", "redis")
    versions = ", ".join(f"{name} {_version(name)}" for name in names)
    return Finding("packages", "ok", f"Python {platform.python_version()}, {versions}")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"


def _gpu(settings: Settings) -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("gpu", "unknown", "torch is not installed, so it was not looked for")
    try:
        names = _find_gpus()
    except Exception as error:  # noqa: BLE001 - a broken driver raises what it likes
        what = f"torch cannot use what it finds: {type(error).__name__}: {error}"
        return Finding("gpu", "problem", what, "look at nvidia-smi and at torch's CUDA version")
    if names:
        return Finding("gpu", "ok", ", ".join(names))
    if _has_nvidia_device():
        what = f"there is an NVIDIA GPU, but torch {_version('torch')} cannot use it"
        mend = "install a torch for its driver: https://pytorch.org/get-started"
        return Finding("gpu", "problem", what, mend)
    if settings.model_path is None:
        return Finding("gpu", "ok", "none; dgq-tiny runs on the CPU")
    what = "none; a large model takes minutes for a job on a CPU"
    return Finding("gpu", "warning", what, "run the workers where there is a GPU")


def _kernels(settings: Settings) -> Finding:
    """Who will compute, and whether Triton has what it needs."""
    if settings.kernels == "torch":
        return Finding("kernels", "ok", "torch, as the setting kernels says")
    if settings.dtype == "float32" and settings.kernels == "auto":
        return Finding("kernels", "ok", "torch; Triton's are for bfloat16")
    if not _has_nvidia_device():
        if settings.kernels == "triton":
            what = "the setting kernels says triton, and there is no NVIDIA GPU"
            return Finding("kernels", "problem", what, "set DGQ_KERNELS=auto")
        return Finding("kernels", "ok", "torch; Triton's are for NVIDIA GPUs")
    instead = ", or set DGQ_KERNELS=torch, which is slower"
    if importlib.util.find_spec("triton") is None:
        level: Level = "problem" if settings.kernels == "triton" else "warning"
        what = "Triton is not installed, so torch computes on the GPU"
        return Finding("kernels", level, what, "pip install 'dgq[worker]'" + instead)
    if not any(map(shutil.which, COMPILERS)):
        what = f"Triton compiles its launchers, and there is neither {' nor '.join(COMPILERS)}"
        return Finding("kernels", "problem", what, "apt-get install gcc libc6-dev" + instead)
    return Finding("kernels", "ok", f"triton {_version('triton')}")


def _find_gpus() -> list[str]:
    """What torch can compute on, by name and memory; raises what torch raises."""
    import torch

    names = []
    for index in range(torch.cuda.device_count()):
        torch.ones(1, device=f"cuda:{index}").add_(1).cpu()
        properties = torch.cuda.get_device_properties(index)
        names.append(f"{properties.name} ({properties.total_memory / GIB:.0f} GiB)")
    return names


def _has_nvidia_device() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _model(settings: Settings) -> Finding:
    folder = settings.model_path or SHIPPED_MODEL_PATH
    again = "download or copy the checkpoint again"
    mend = again if settings.model_path else "install dgq again"
    try:
        check_model_path(settings.model_path)
        names = ["config.json", "tokenizer.json", *_weight_names(folder)]
        if missing := [name for name in names if not (folder / name).is_file()]:
            what = f"{folder} lacks {', '.join(missing[:3])}"
            return Finding("model", "problem", what, mend)
        if pointers := [name for name in names if _is_pointer(folder / name)]:
            what = f"{folder / pointers[0]} is a pointer of Git LFS, not the file"
            return Finding("model", "problem", what, "git lfs pull")
        json.loads((folder / "config.json").read_bytes())
    except CheckpointError as error:
        return Finding("model", "problem", str(error), "set DGQ_MODEL to a checkpoint's folder")
    except (OSError, ValueError) as error:
        return Finding("model", "problem", f"{folder} cannot be read: {error}", mend)
    size_gib = sum((folder / name).stat().st_size for name in names) / GIB
    name = "dgq-tiny, as shipped" if settings.model_path is None else str(folder)
    return Finding("model", "ok", f"{name} ({size_gib:.2f} GiB)")


def _weight_names(folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return ["model.safetensors"]
    weight_map = json.loads(index.read_bytes()).get("weight_map", {})
    return sorted(set(map(str, weight_map.values()))) or ["model.safetensors"]


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(POINTER)) == POINTER


def _disk(settings: Settings) -> Finding:
    """The data folder, or what is there of the way to it."""
    folder = settings.data_folder.expanduser().absolute()
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        what = f"the data folder {folder} cannot be written"
        level: Level = "problem" if settings.redis_url is None else "warning"
        return Finding("disk", level, what, "set DGQ_DATA_FOLDER to a folder of yours")
    free_gib = shutil.disk_usage(place).free / GIB
    what = f"{free_gib:.1f} GiB free for {folder}"
    if free_gib < LITTLE_DISK_GIB:
        level = "problem" if free_gib < NO_DISK_GIB else "warning"
        return Finding("disk", level, what, "make room, or set DGQ_DATA_FOLDER to another disk")
    return Finding("disk", "ok", what)
