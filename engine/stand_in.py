"""A model of random weights at a named shape, so that speed and memory can be measured without a checkpoint.

Every weight is drawn on the device in the form in which the preset holds it: codes of four or
eight bits and scales, or 16-bit numbers. So a 16-bit expert exists only where the preset keeps it, and nothing is read or sent.

Spreads are those of a freshly initialised network: a product keeps the size of what it is given, norms
are near 1, and so all activations stay finite. The router's scores spread by 1, so that rows choose
about all experts. Predictions are flat, as an untrained model's are: every row's soft embedding needs
the whole vocabulary, in each step, which is the dearest case. How many steps a canvas takes must be
fixed by its request; the stand-in has no stop tokens.
"""

import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from dgq.kernels import fp8
from dgq.kernels.fp8 import Fp8Tensor
from dgq.kernels.nf4 import (
    BLOCK_SIZE,
    NESTED_BLOCK_SIZE,
    NestedScales,
    Nf4Tensor,
    codebook,
    nested_codebook,
)

from .checkpoint import empty_model, place
from .engine import Engine
from .engine_config import DEFAULT_ENGINE_CONFIG, EngineConfig
from .errors import EngineError
from .kernel_choice import choose_dtype, choose_operations
from .model import DiffusionGemma
from .nf4_weight import Nf4Weight
from .operations import Operations
from .quantization import UNQUANTIZED, Quantization
from .quantized_weight import quantized_weights
from .shapes import SHAPES
from .torch_operations import TORCH
from .trace import NO_TRACE, Trace

_NEAR_ONE = 0.1
"""How far norms' weights spread around 1."""

_FLATNESS = 0.25
"""Of the embeddings: a row knows its own token, which the tied head must not take for an answer."""

_NAN_CODE = 127
"""The first of e4m3's two codes for no number."""


@contextmanager
def stand_in_folder(shape: str) -> Iterator[Path]:
    """A folder with a config.json of a shape's and a generation_config.json without stop tokens.

    EngineError for a shape that has no name.
    """
    if shape not in SHAPES:
        raise EngineError(f"there is no shape {shape!r}; there are {', '.join(SHAPES)}")
    with tempfile.TemporaryDirectory(prefix="dgq-") as parent:
        folder = Path(parent) / shape
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(SHAPES[shape]), encoding="utf-8")
        ids = {"eos_token_id": [], "pad_token_id": 0}
        (folder / "generation_config.json").write_text(json.dumps(ids), encoding="utf-8")
        yield folder


@contextmanager
def stand_in_engine(
    shape: str,
    *,
    dtype: str = "auto",
    device: str = "cpu",
    kernels: str = "auto",
    preset: str = UNQUANTIZED.preset,
    double_quantization: bool = False,
    config: EngineConfig = DEFAULT_ENGINE_CONFIG,
    trace: Trace = NO_TRACE,
) -> Iterator[Engine]:
    """An engine on a stand-in, closed at the end; arguments as Engine.load's."""
    chosen_dtype = choose_dtype(dtype, device)
    wanted = chosen_dtype, device, Quantization(preset, double_quantization)
    operations = choose_operations(kernels, device, chosen_dtype)
    with stand_in_folder(shape) as folder:
        # In a thread of its own as in Engine.load: its team of OpenMP threads shall not live on.
        with ThreadPoolExecutor(1) as executor:
            model = executor.submit(stand_in_model, folder, *wanted, operations).result()
        with Engine(model, folder, config, trace) as engine:
            yield engine


def stand_in_model(
    folder: Path,
    dtype: torch.dtype,
    device: torch.device | str,
    quantization: Quantization,
    operations: Operations = TORCH,
    seed: int = 0,
) -> DiffusionGemma:
    """The model of a folder's config.json with random weights, ready for inference."""
    model = empty_model(folder, quantization, operations)
    draws = _Draws(torch.device(device), dtype, seed)
    quantized = quantized_weights(model)
    for weight in quantized.values():
        if isinstance(weight, Nf4Weight):
            weight.fill(draws.nf4(weight.shape, weight.double_quantization))
        else:
            weight.fill(draws.fp8(weight.shape))
    for name, tensor in model.state_dict().items():
        if name.rpartition(".")[0] not in quantized:
            place(model, name, draws.dense(name, tensor.shape))
    return model.eval().requires_grad_(False)


def draw_dense(tensor: Tensor, name: str, generator: torch.Generator) -> Tensor:
    """Fill a tensor as a weight of this name is drawn, and return it."""
    if name.endswith("layer_scalar"):
        return tensor.fill_(1.0)
    if tensor.dim() == 1:  # norms, and the router's scales
        return tensor.normal_(1.0, _NEAR_ONE, generator=generator)
    spread = tensor.shape[-1] ** -0.5
    if name.endswith("router.proj.weight"):
        spread = 1.0
    elif name.endswith("embed_tokens.weight"):
        spread *= _FLATNESS
    return tensor.normal_(0.0, spread, generator=generator)


class _Draws:
    """Random weights of one seed on one device."""

    def __init__(self, device: torch.device, dtype: torch.dtype, seed: int) -> None:
        self._device, self._dtype = device, dtype
        self._generator = torch.Generator(device).manual_seed(seed)

    def dense(self, name: str, shape: torch.Size) -> Tensor:
        """A tensor of the model, by its name."""
        tensor = torch.empty(shape, dtype=self._dtype, device=self._device)
        return draw_dense(tensor, name, self._generator)

    def nf4(self, shape: torch.Size, double_quantization: bool) -> Nf4Tensor:
        """Codes that are equally likely, under scales that give rows of length 1 or so."""
        packed = torch.empty(
            *shape[:-1], shape[-1] // 2, dtype=torch.uint8, device=self._device
        ).random_(0, 256, generator=self._generator)
        scales = (*shape[:-1], shape[-1] // BLOCK_SIZE)
        code = codebook(self._device)
        mean = float((shape[-1] * code.square().mean()).rsqrt())
        if not double_quantization:
            absmax = torch.empty(scales, dtype=torch.float32, device=self._device)
            return Nf4Tensor(
                packed, absmax.uniform_(0.5 * mean, 1.5 * mean, generator=self._generator)
            )
        indices = torch.empty(scales, dtype=torch.uint8, device=self._device)
        indices.random_(0, 256, generator=self._generator)
        num_nested = -(-indices.numel() // NESTED_BLOCK_SIZE)
        nested = NestedScales(
            nested_codebook(self._device),
            torch.full((num_nested,), 0.5 * mean, device=self._device),
            torch.tensor(mean, device=self._device),
        )
        return Nf4Tensor(packed, indices, nested)

    def fp8(self, shape: torch.Size) -> Fp8Tensor:
        """Numbers whose codes are equally likely, under scales that give rows of length 1 or so."""
        codes = torch.empty(shape, dtype=torch.uint8, device=self._device)
        codes.random_(0, 254, generator=self._generator)
        codes += codes >= _NAN_CODE  # the other one is 255
        every = torch.arange(256, dtype=torch.uint8, device=self._device).view(fp8.DTYPE).float()
        mean = float((shape[-1] * every[every.isfinite()].square().mean()).rsqrt())
        scales = torch.empty(*shape[:-1], 1, dtype=torch.float32, device=self._device)
        scales.uniform_(0.5 * mean, 1.5 * mean, generator=self._generator)
        return Fp8Tensor(codes.view(fp8.DTYPE), scales)
