"""Which weights are held in fewer bits: presets, and how a checkpoint says that it has one.

Experts take nine tenths of the published model's bytes and stand four bits well; attention and the
dense MLP may follow. What never does: the embeddings, which are the head too (eight bits there already
flatten the tail of the logits and stall convergence), the router (a changed choice of experts is a
changed model), norms, layer scalars, the self-conditioning block, and keys and values. Sources:
the ablations of mmastrac/diffgemma, and what the published FP8 and NVFP4 checkpoints leave alone.

Formats: NF4 (dgq.kernels.nf4), and for GPUs that multiply in eight bits and have the room, FP8 for the
experts (dgq.kernels.fp8_experts). How they are stored: weight_storage.py. No torch here.
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
_PATTERNS = {
    "bf16": (),
    "fp8-experts": (_EXPERTS,),
    "nf4-experts": (_EXPERTS,),
    "nf4": (_EXPERTS, _LINEARS),
}

PRESETS = tuple(_PATTERNS)
"""bf16: as stored. fp8-experts, nf4-experts: the experts. nf4: attention and the dense MLP too."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """A preset, and whether the scales of its blocks are quantized once more.

    EngineError for a preset that does not exist, or whose scales cannot be quantized.
    """

    preset: str = "bf16"
    double_quantization: bool = False

    def __post_init__(self) -> None:
        """Check the names."""
        if self.preset not in _PATTERNS:
            raise EngineError(f"preset must be one of {', '.join(PRESETS)}, not {self.preset!r}")
        if self.double_quantization and self.format == "fp8":
            raise EngineError(
                f"double quantization is for NF4; {self.preset} has one scale per row and needs none"
            )

    @property
    def is_none(self) -> bool:
        """Whether all weights stay as they are stored."""
        return not _PATTERNS[self.preset]

    @property
    def format(self) -> str:
        """Of the covered weights, with which a preset's name begins: bf16, fp8 or nf4."""
        return self.preset.partition("-")[0]

    def covers(self, name: str) -> bool:
        """Whether the model's weight of this name is held in fewer bits."""
        return any(pattern.fullmatch(name) for pattern in _PATTERNS[self.preset])

    def to_config(self) -> dict[str, Any]:
        """For config.json's ``quantization_config``."""
        config = {"quant_method": _METHOD, "preset": self.preset}
        if self.format == "fp8":
            return config | {"weight_dtype": "float8_e4m3fn", "weight_scale": "row"}
        return config | {
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": self.double_quantization,
        }


UNQUANTIZED = Quantization()

_WRITTEN = (
    Quantization("fp8-experts"),
    *(
        Quantization(preset, double)
        for preset in ("nf4-experts", "nf4")
        for double in (False, True)
    ),
)
"""What a checkpoint may say that it has."""


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
    known = [found for found in _WRITTEN if found.to_config().items() <= section.items()]
    if not known:
        raise CheckpointError(
            f"quantization_config is {section!r}, which this dgq does not know; quantize again"
        )
    return known[0]
