"""The stand-in: finite, of the preset's own form, and steps that only its requests decide."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dgq.engine.config import ModelConfig
from dgq.engine.engine_config import EngineConfig
from dgq.engine.errors import EngineError
from dgq.engine.memory_plan import MemoryCosts
from dgq.engine.nf4_weight import Nf4Weight
from dgq.engine.quantization import PRESETS, Quantization
from dgq.engine.quantized_weight import QuantizedWeight
from dgq.engine.request import Request, SamplingConfig
from dgq.engine.shapes import SHAPES
from dgq.engine.stand_in import stand_in_engine, stand_in_folder, stand_in_model
from dgq.engine.torch_operations import TORCH
from dgq.kernels import fp8
from dgq.kernels.nf4 import dequantize

FORMATS = [Quantization(preset) for preset in PRESETS] + [
    Quantization("nf4", double_quantization=True)
]
FIXED = SamplingConfig(
    max_denoising_steps=5,
    min_denoising_steps=5,
    stop_rule="mean_entropy",
    confidence_threshold=1e9,
)


@pytest.mark.parametrize("quantization", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_have_the_presets_form(quantization, dtype):
    """To the byte what a loaded model would take, and nothing on the meta device is left."""
    with stand_in_folder("micro") as folder:
        model = stand_in_model(folder, dtype, "cpu", quantization)
    held = sum(tensor.nbytes for tensor in model.state_dict().values())
    config = ModelConfig.from_dict(SHAPES["micro"])
    assert held == MemoryCosts.of(config, quantization, dtype, TORCH).weights
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}
    for module in model.modules():
        if isinstance(module, QuantizedWeight):
            decode = dequantize if isinstance(module, Nf4Weight) else fp8.dequantize
            weight = decode(module.tensor, torch.float32)
            assert weight.std() == pytest.approx(module.shape[-1] ** -0.5, rel=0.2)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_requests_decide_on_the_steps(preset, dtype):
    """Two canvases of five steps each, finite and unsure, and no token ends the text."""
    config = EngineConfig(max_canvases=4, max_rows=128, max_kv_tokens=1024)
    with stand_in_engine("micro", dtype=dtype, preset=preset, config=config) as engine:
        futures = [
            engine.submit(Request(tuple(range(40)), 64, seed, sampling=FIXED)) for seed in range(3)
        ]
        results = [future.result(timeout=60) for future in futures]
    for result in results:
        assert (result.num_canvases, result.num_steps, result.num_rerolls) == (2, 10, 0)
        assert len(result.token_ids) == 64
        assert result.finish_reason == "length"
        assert result.mean_entropy_nats > 0.9 * math.log(512)  # flat: nan is not, either


class Shapes(TorchDispatchMode):
    """The shapes of all floating-point tensors that are made inside."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and not tensor.is_meta:
                self.seen |= {tuple(tensor.shape)} if tensor.is_floating_point() else set()
        return made


@pytest.mark.parametrize(("preset", "is_kept"), [("bf16", True), ("nf4-experts", False)])
def test_no_expert_has_16_bits_that_the_preset_does_not_keep(preset, is_kept):
    """Not for a moment: neither layer's gates, nor one expert's."""
    sizes = SHAPES["micro"]["text_config"]
    experts, inner, hidden = (
        sizes[name] for name in ("num_experts", "moe_intermediate_size", "hidden_size")
    )
    with stand_in_folder("micro") as folder, Shapes() as shapes:
        stand_in_model(folder, torch.bfloat16, "cpu", Quantization(preset))
    assert ((experts, 2 * inner, hidden) in shapes.seen) == is_kept
    assert ((experts, hidden, inner) in shapes.seen) == is_kept
    assert (hidden, inner) not in shapes.seen


def test_the_same_seed_gives_the_same_weights():
    with stand_in_folder("micro") as folder:
        one, two, other = (
            stand_in_model(
                folder, torch.bfloat16, "cpu", Quantization("nf4"), seed=seed
            ).state_dict()
            for seed in (0, 0, 1)
        )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_shape_without_a_name_is_refused():
    with (
        pytest.raises(EngineError, match=r"no shape '27b'; there are 26b-a4b, micro"),
        stand_in_folder("27b"),
    ):
        pass
