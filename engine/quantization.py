"""Which weights are held in four bits: presets, and how a checkpoint says that it has one.

Experts take nine tenths of the published model's bytes and stand four bits well; attention and the
dense MLP may follow. What never does: the embeddings, which are the head too (eight bits there already
flatten the tail of the logits and stall convergence), the router (a changed choice of experts is a
changed model), norms, layer scalars, the self-conditioning block, and keys and values. Sources:
the ablations of mmastrac/diffgemma, and what the published FP8 and NVFP4 checkpoints leave alone.

The format is NF4 as bitsandbytes stores it; see dgq.kernels.nf4 and nf4_storage.py. No torch here.
"""

import re
from dataclasses import dataclass
from typing import Any

from .errors import CheckpointError, EngineError

_METHOD = "dgq"
"""Not bitsandbytes: other loaders that know that one would leave the experts random, or fail late."""

_EXPERTS = re.compile(r"decoder\.layers\.\d+\.experts\.(gate_up|down)_proj")
_LINEARS = re.compile(
    r"decoder\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.weight"
)
_PATTERNS = {"bf16": (), "nf4-experts": (_EXPERTS,), "nf4": (_EXPERTS, _LINEARS)}

PRESETS = tuple(_PATTERNS)
"""bf16: as stored. nf4-experts: the experts. nf4: attention and the dense MLP too."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """A preset, and whether the scales of its blocks are quantized once more.

    EngineError for a preset that does not exist.
    """

    preset: str = "bf16"
    double_quantization: bool = False

    def __post_init__(self) -> None:
        """Check the name."""
        if self.preset not in _PATTERNS:
            raise EngineError(f"preset must be one of {', '.join(PRESETS)}, not {self.preset!r}")

    @property
    def is_none(self) -> bool:
        """Whether all weights stay as they are stored."""
        return not _PATTERNS[self.preset]

    def covers(self, name: str) -> bool:
        """Whether the model's weight of this name is held in four bits."""
        return any(pattern.fullmatch(name) for pattern in _PATTERNS[self.preset])

    def to_config(self) -> dict[str, Any]:
        """For config.json's ``quantization_config``."""
        return {
            "quant_method": _METHOD,
            "preset": self.preset,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": self.double_quantization,
        }


UNQUANTIZED = Quantization()


def quantization_of(config: dict[str, Any]) -> Quantization:
    """What a parsed config.json says. CheckpointError where another program has quantized it."""
    section = config.get("quantization_config")
    if section is None:
        return UNQUANTIZED
    if not isinstance(section, dict) or section.get("quant_method") != _METHOD:
        method = section.get("quant_method") if isinstance(section, dict) else section
        raise CheckpointError(
            f"quantization_config.quant_method is {method!r}; dgq reads what dgq quantize has "
            "written, so give that the unquantized checkpoint"
        )
    preset, double = section.get("preset"), section.get("bnb_4bit_use_double_quant")
    known = isinstance(preset, str) and _PATTERNS.get(preset) and isinstance(double, bool)
    if not known or section.get("bnb_4bit_quant_type") != "nf4":
        raise CheckpointError(
            f"quantization_config is {section!r}, which this dgq does not know; quantize again"
        )
    return Quantization(str(preset), bool(double))
