"""The planner: exact on weights and pools, an upper bound on a step, at the published shape too."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from dgq.engine.canvas import EngineLimits, Generation, Outcome
from dgq.engine.checkpoint import load_model
from dgq.engine.config import ModelConfig
from dgq.engine.engine import DEFAULT_MODEL_PATH, Engine
from dgq.engine.engine_config import EngineConfig
from dgq.engine.errors import EngineError
from dgq.engine.kv_pages import KVPages, PageCounts
from dgq.engine.loop import Loop
from dgq.engine.memory_plan import MemoryCosts, plan_memory
from dgq.engine.quantization import Quantization
from dgq.engine.request import Request, SamplingConfig
from dgq.engine.scheduler import Scheduler
from dgq.engine.torch_operations import TORCH
from dgq.engine.trace import NO_TRACE
from dgq.engine.triton_operations import TRITON

from .published import PUBLISHED
from .tally import Tally

GB = 10**9
BF16, FP8, EXPERTS, NF4 = map(Quantization, ("bf16", "fp8-experts", "nf4-experts", "nf4"))
DOUBLE = Quantization("nf4", double_quantization=True)


@pytest.fixture(scope="module")
def published():
    return ModelConfig.from_dict(PUBLISHED)


def plan(config, quantization, budget_bytes, operations=TORCH, **wanted):
    bounds = {"max_rows": 2048, "max_canvases": 32, "max_kv_tokens": 32768}
    engine_config = EngineConfig(**{**bounds, **wanted})
    return plan_memory(
        config, quantization, torch.bfloat16, budget_bytes, engine_config, operations
    )


def test_the_published_models_weights(published):
    """51.65 GB on disk with 1.1 GB of vision; experts 45.68, attention 2.22, dense MLP 1.07."""
    gb = {
        quantization: MemoryCosts.of(published, quantization, torch.bfloat16, TORCH).weights / GB
        for quantization in (BF16, FP8, EXPERTS, NF4, DOUBLE)
    }
    assert gb[BF16] == pytest.approx(50.50, abs=0.01)
    assert gb[FP8] == pytest.approx(50.50 - 45.68 / 2 + 0.06, abs=0.02)
    assert gb[EXPERTS] == pytest.approx(50.50 - 45.68 * (1 - 4.5 / 16), abs=0.02)
    assert gb[NF4] == pytest.approx(gb[EXPERTS] - 3.29 * (1 - 4.5 / 16), abs=0.02)
    assert gb[DOUBLE] == pytest.approx(gb[NF4] - 48.97 / 2 * 0.3730 / 8, abs=0.02)


def test_the_published_models_keys_and_values(published):
    costs = MemoryCosts.of(published, NF4, torch.bfloat16, TORCH)
    assert costs.per_full_token == 5 * 2 * 2 * 512 * 2 == 20_480
    assert costs.per_sliding_token == 25 * 2 * 8 * 256 * 2 == 204_800


@pytest.mark.parametrize(
    ("quantization", "budget_gb", "blocks_long", "blocks_short"),
    [
        (DOUBLE, 16, 3, 3),
        (DOUBLE, 18, 8, 8),
        (NF4, 18, 5, 6),
        (EXPERTS, 24, 8, 8),
        (DOUBLE, 24, 8, 8),
        (BF16, 80, 8, 8),
    ],
)
def test_blocks_in_flight_at_the_published_shape(
    published, quantization, budget_gb, blocks_long, blocks_short
):
    made = plan(published, quantization, budget_gb * GB)
    assert made.total_bytes <= budget_gb * GB
    assert made.blocks_in_flight(4096) == blocks_long
    assert made.blocks_in_flight(512) == blocks_short
    assert made.engine_config.max_kv_tokens >= blocks_long * (4096 + 256)
    assert made.engine_config.max_sliding_tokens >= blocks_long * (65 * 16 + 256)


@pytest.mark.parametrize("operations", [TORCH, TRITON])
def test_eight_long_blocks_are_in_flight_at_once_in_18_gb(published, operations):
    """Admitted, read in parts and denoised together, in pools of the planned size. A canvas behind
    them starts as soon as one of them has ended.
    """
    config = plan(published, DOUBLE, 18 * GB, operations).engine_config
    counts = PageCounts.of(config, published.sliding_window, published.canvas_length)
    pages = KVPages(counts, published.sliding_window)
    scheduler = Scheduler(config.max_canvases, config.max_rows, pages)
    limits = EngineLimits(
        vocab_size=published.vocab_size,
        canvas_length=256,
        max_position_embeddings=published.max_position_embeddings,
        max_kv_tokens=config.max_kv_tokens,
        eos_ids=frozenset([1]),
        filler_id=1,
        sampling=SamplingConfig(),
    )
    for number in range(9):
        prompt = tuple(range(2 + number, 2 + number + 4096))
        request = Request(prompt, max_new_tokens=256, seed=0)
        scheduler.add(Generation.begin(number, request, limits))
    canvases = []
    while len(canvases) < 8:
        before, canvases = len(canvases), scheduler.schedule().canvases
        assert before <= len(canvases)
        scheduler.check()
        for generation in canvases:
            generation.needs_start = False
    canvases[3].finish_canvas(Outcome([1] * 256, 1, 0.0, True))
    scheduler.resize(canvases[3])
    assert scheduler.schedule().chunks[0].start == 0


def test_the_kernels_decode_in_registers_and_hold_512_rows_logits(published):
    """torch's head has tiles of a MiB, but decodes an expert's weight with 20 bytes an element."""
    by_torch, by_triton = (
        MemoryCosts.of(published, NF4, torch.bfloat16, operations).step
        for operations in (TORCH, TRITON)
    )
    assert by_torch.per_step > 20 * 8192 * 2816  # a query projection of the full-attention layers
    assert by_triton.per_step == 2 * 8192 * 2816
    assert by_triton.of(512) - by_triton.of(511) > 2 * 262_144
    assert by_triton.of(513) - by_triton.of(512) == by_triton.per_row < by_torch.per_row
    made = plan(published, NF4, 18 * GB, TRITON)
    assert made.total_bytes <= 18 * GB and made.blocks_in_flight(512) >= 1


@pytest.mark.parametrize(("budget_gb", "preset"), [(18, "nf4"), (24, "nf4-experts")])
def test_bf16_is_refused_with_the_arithmetic(published, budget_gb, preset):
    with pytest.raises(EngineError) as refused:
        plan(published, BF16, budget_gb * GB)
    assert str(refused.value) == (
        f"{budget_gb}.00 GB is too little: weights 50.50 GB (bf16) + a step of 256 rows 86.3 MB "
        "+ canvases 24.6 MB + keys and values of 512 tokens 171.4 MB = 50.78 GB; "
        f"the preset {preset} would fit"
    )


def test_what_no_preset_fits_has_no_advice(published):
    with pytest.raises(EngineError, match=r"= 16\.\d\d GB$"):
        plan(published, NF4, 12 * GB)


def test_more_memory_never_means_less(published):
    found = [plan(published, DOUBLE, int(gb * GB)) for gb in (15, 15.5, 16, 18, 20, 24, 40, 80)]
    for smaller, larger in pairwise(found):
        assert larger.blocks_in_flight(4096) >= smaller.blocks_in_flight(4096)
        assert larger.engine_config.max_rows >= smaller.engine_config.max_rows


def test_the_wanted_bounds_hold(published):
    made = plan(published, DOUBLE, 80 * GB, max_rows=512, max_canvases=4, max_kv_tokens=4096)
    assert made.engine_config.max_rows == 512
    assert made.engine_config.max_canvases == 4
    assert made.engine_config.max_kv_tokens == 4 * (4096 + 256)
    assert made.engine_config.max_sliding_tokens == 4 * (65 * 16 + 256)
    assert made.total_bytes < 30 * GB
    assert "max_rows 512" in str(made) and "2 with 4096 tokens of context" in str(made)


@pytest.mark.parametrize("quantization", [BF16, FP8, EXPERTS, NF4, DOUBLE], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_counted_to_the_byte(quantization, dtype):
    model = load_model(DEFAULT_MODEL_PATH, dtype, quantization=quantization)
    held = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert MemoryCosts.of(model.config, quantization, dtype, TORCH).weights == held


@pytest.mark.parametrize("quantization", [BF16, FP8, DOUBLE], ids=str)
def test_a_real_engine_stays_within_its_plan(quantization):
    """Pools and steps of 1,024 rows, measured; the text's keys that torch gathers are small here."""
    model = load_model(DEFAULT_MODEL_PATH, quantization=quantization)
    wanted = EngineConfig(max_rows=1024, max_canvases=8, max_kv_tokens=4096)
    costs = MemoryCosts.of(model.config, quantization, torch.float32, TORCH)
    budget = costs.weights + 200_000_000
    made = plan_memory(model.config, quantization, torch.float32, budget, wanted, TORCH)
    limits = EngineLimits(
        vocab_size=model.config.vocab_size,
        canvas_length=256,
        max_position_embeddings=model.config.max_position_embeddings,
        max_kv_tokens=made.engine_config.max_kv_tokens,
        eos_ids=frozenset([1]),
        filler_id=1,
        sampling=replace(SamplingConfig(), max_denoising_steps=3),
    )
    with torch.inference_mode(), Tally() as tally:
        loop = Loop(model, made.engine_config, {1}, lambda generation: True, NO_TRACE)
        pools = tally.now
        for seed in range(6):
            request = Request(tuple(range(2, 100 + seed)), max_new_tokens=256, seed=seed)
            loop.add(Generation.begin(seed, request, limits))
        while not loop.is_idle:
            loop.step()
    assert pools <= made.kv_bytes + made.canvas_bytes <= 1.02 * pools
    step = tally.peak - pools
    assert 0.4 * made.step_bytes < step <= made.step_bytes


def test_the_engine_takes_the_plan():
    wanted = EngineConfig(max_canvases=4)
    made = Engine.plan(preset="nf4", max_memory_bytes=60_000_000, config=wanted)
    assert made.total_bytes <= 60_000_000
    with Engine.load(preset="nf4", max_memory_bytes=60_000_000, config=wanted) as engine:
        assert engine.stats.row_budget == made.engine_config.max_rows
        result = engine.submit(Request((2, 5, 6), max_new_tokens=16, seed=1)).result()
    with Engine.load(preset="nf4") as engine:
        assert engine.submit(Request((2, 5, 6), max_new_tokens=16, seed=1)).result().token_ids == (
            result.token_ids
        )
    with pytest.raises(EngineError, match=r"5\.0 MB is too little: weights 15\.3 MB"):
        Engine.load(max_memory_bytes=5_000_000)
