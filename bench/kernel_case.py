"""What a case of a kernel is, and how its result is judged.

A case has three ways to compute the same: the kernel; its reference, which the engine runs on a CPU; and
the plain formulation, as one would write the definition down, which shares no code with either.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dgq.kernels.fp8 import Fp8Tensor
from dgq.kernels.launch import HAS_TRITON, IS_INTERPRETED, multiplies_fp8
from dgq.kernels.nf4 import Nf4Tensor, quantize

from .section import Settings
from .work import Work

Outputs = tuple[Tensor, ...]

Compute = Callable[[], Outputs]

WORST_ERROR = {torch.float32: 5e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
RMS_ERROR = {torch.float32: 1e-3, torch.float16: 3e-3, torch.bfloat16: 1.5e-2}
"""Of an output's root mean square. fp32 products may be of shorter numbers (TF32) on a GPU."""

_UNEQUAL_SHARE = 0.02
"""Of whole numbers (tokens, experts), where equal or nearly equal values may be ordered otherwise."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A case with its tensors on a device. work: what the kernel takes at least, activations included."""

    kernel: Compute
    reference: Compute
    plain: Compute
    work: Work


@dataclass(frozen=True, slots=True)
class Inputs:
    """Makes the tensors of a case: random, of one dtype, on one device."""

    device: torch.device
    dtype: torch.dtype
    generator: torch.Generator

    @classmethod
    def on(cls, device: str, dtype: torch.dtype) -> "Inputs":
        """Of a fixed seed."""
        place = torch.device(device)
        return cls(place, dtype, torch.Generator(place).manual_seed(1))

    def normal(self, *shape: int, spread: float = 1.0, dtype: torch.dtype | None = None) -> Tensor:
        """Normal numbers."""
        tensor = torch.empty(shape, dtype=dtype or self.dtype, device=self.device)
        return tensor.normal_(0.0, spread, generator=self.generator)

    def uniform(self, *shape: int) -> Tensor:
        """fp32 in [0, 1)."""
        return torch.rand(shape, device=self.device, generator=self.generator)

    def whole(self, end: int, *shape: int) -> Tensor:
        """int64 from 0 up to the end."""
        return torch.randint(0, end, shape, device=self.device, generator=self.generator)

    def ints(self, values: list[int]) -> Tensor:
        """int32."""
        return torch.tensor(values, dtype=torch.int32, device=self.device)

    def nf4(self, *shape: int, double_quantization: bool = False) -> Nf4Tensor:
        """A weight of rows whose length is about 1, quantized part by part."""
        parts = shape[0] if len(shape) == 3 and not double_quantization else 1
        drawn = (
            quantize(
                self.normal(shape[0] // parts, *shape[1:], spread=shape[-1] ** -0.5),
                double_quantization,
            )
            for _ in range(parts)
        )
        weights = list(drawn)
        if parts == 1:
            return weights[0]
        return Nf4Tensor(
            torch.cat([weight.packed for weight in weights]),
            torch.cat([weight.absmax for weight in weights]),
        )

    @property
    def bytes_per_number(self) -> int:
        """Of the dtype."""
        return self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class KernelCase:
    """One kernel at one size. kernel: its file in kernels/; is_fp8: whether it multiplies FP8 numbers."""

    kernel: str
    name: str
    prepare: Callable[[Inputs], Prepared]
    is_fp8: bool = False

    def runs(self, settings: Settings) -> bool:
        """Whether the kernel itself can run here; its reference can anywhere.

        Triton's interpreter loses carries where it rounds to FP8, so there nothing would be checked.
        """
        if not HAS_TRITON or (self.is_fp8 and not settings.on_gpu):
            return False
        if self.is_fp8:
            return multiplies_fp8(settings.device)
        return settings.on_gpu or IS_INTERPRETED


def bytes_of(*tensors: Tensor | Nf4Tensor | Fp8Tensor) -> int:
    """What they take in memory."""
    return sum(map(_bytes_of, tensors))


def _bytes_of(tensor: Tensor | Nf4Tensor | Fp8Tensor) -> int:
    if isinstance(tensor, Nf4Tensor):
        return tensor.packed.nbytes + tensor.absmax.nbytes
    if isinstance(tensor, Fp8Tensor):
        return tensor.values.nbytes + tensor.scales.nbytes
    return tensor.nbytes


def judge(ours: Outputs, wanted: Outputs, dtype: torch.dtype) -> tuple[float, str | None]:
    """The worst error relative to an output's root mean square; and what is wrong, if anything is.

    Outputs of whole numbers must be equal, but for a few.
    """
    worst = 0.0
    if len(ours) != len(wanted):
        return worst, f"{len(ours)} outputs, not {len(wanted)}"
    for number, (own, right) in enumerate(zip(ours, wanted, strict=True)):
        if own.shape != right.shape:
            return worst, f"output {number} has shape {list(own.shape)}, not {list(right.shape)}"
        if not own.dtype.is_floating_point:
            unequal = int((own != right).sum())
            if unequal > max(1, _UNEQUAL_SHARE * own.numel()):
                return worst, f"{unequal} of {own.numel()} numbers of output {number} differ"
            continue
        if not own.isfinite().all():
            return worst, f"output {number} is not finite"
        scale = right.double().square().mean().sqrt().clamp(min=1e-30)
        error = (own.double() - right.double()).abs() / scale
        largest, rms = float(error.max()), float(error.square().mean().sqrt())
        worst = max(worst, largest)
        if largest > WORST_ERROR[dtype] or rms > RMS_ERROR[dtype]:
            return worst, f"output {number} is off by {largest:.2g} at worst, {rms:.2g} on average"
    return worst, None
