"""The one engine of this process."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import dgq.engine
from dgq.engine.engine_config import DEFAULT_ENGINE_CONFIG
from dgq.engine.errors import CheckpointError
from dgq.engine.trace import NO_TRACE, Trace

from .errors import CommandError
from .guard import one_line, say

if TYPE_CHECKING:
    from dgq.engine.engine import Engine

SHIPPED_MODEL_PATH = Path(dgq.engine.__path__[0]) / "dgq-tiny"
"""Where dgq-tiny lies, known without importing torch."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Where and how a checkpoint is run.

    dtype, kernels: see dgq.engine.engine_config. preset: see dgq.engine.quantization.
    max_memory_bytes: what the engine may take of the device's memory.
    """

    device: str = "cpu"
    dtype: str = "auto"
    kernels: str = "auto"
    preset: str = "bf16"
    max_memory_bytes: int | None = None


DEFAULT_ENGINE_OPTIONS = EngineOptions()


def load_engine(
    model_path: Path | None,
    *,
    options: EngineOptions = DEFAULT_ENGINE_OPTIONS,
    trace: Trace = NO_TRACE,
) -> "Engine":
    """Load a checkpoint; None is the shipped dgq-tiny. Imports torch. trace: see Engine.load.

    How a bounded memory is spent is said on stderr.
    Raises CheckpointError where the folder is missing or is not a checkpoint, CommandError where the
    device is none, or none that torch can use here, and EngineError where the engine does not fit or
    the kernels do not run on the device.
    """
    check_model_path(model_path)
    _check_device(options.device)
    from dgq.engine.engine import Engine

    config = DEFAULT_ENGINE_CONFIG
    if options.max_memory_bytes is not None:
        plan = Engine.plan(
            model_path,
            device=options.device,
            dtype=options.dtype,
            kernels=options.kernels,
            preset=options.preset,
            max_memory_bytes=options.max_memory_bytes,
        )
        say(str(plan))
        config = plan.engine_config
    return Engine.load(
        model_path,
        device=options.device,
        dtype=options.dtype,
        kernels=options.kernels,
        preset=options.preset,
        config=config,
        trace=trace,
    )


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(1, device=device)
    except (
        AssertionError,
        RuntimeError,
    ) as error:  # the former: a torch that is built without CUDA
        why = one_line(str(error).partition("\n")[0], 250)
        raise CommandError(
            f"the device {device!r} cannot be used: {why} (dgq doctor shows the GPUs that can)"
        ) from error


def check_model_path(model_path: Path | None) -> None:
    """Raise CheckpointError for a folder that cannot be a checkpoint, before torch is imported."""
    if model_path is None:
        return
    if not model_path.exists():
        raise CheckpointError(f"the model folder {model_path} does not exist")
    if not model_path.is_dir():
        raise CheckpointError(f"{model_path} is a file; --model needs a checkpoint's folder")
    if not (model_path / "config.json").is_file():
        raise CheckpointError(f"{model_path} is not a checkpoint: it has no config.json")
