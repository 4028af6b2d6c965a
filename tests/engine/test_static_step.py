"""Padded steps by the kernels, in Triton's interpreter, against ragged ones by torch.

And that nothing in them asks the host: such a step can be captured.
"""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dgq.engine.canvas_table import CanvasTable
from dgq.engine.checkpoint import empty_model, load_model, place
from dgq.engine.engine import Engine
from dgq.engine.engine_config import EngineConfig
from dgq.engine.kv_pages import PageCounts
from dgq.engine.kv_pool import KVPool
from dgq.engine.quantization import PRESETS, UNQUANTIZED, Quantization
from dgq.engine.quantized_weight import quantized_weights
from dgq.engine.request import Request
from dgq.engine.runner import Runner
from dgq.engine.stand_in import stand_in_folder
from dgq.engine.static_step import StaticStep
from dgq.engine.step_inputs import StepShape
from dgq.engine.triton_operations import TRITON

from .conftest import EOS_IDS, SAMPLING, text_of
from .same_draws import SameDraws

CONFIG = EngineConfig(
    max_canvases=4, max_rows=80, max_kv_tokens=1024, sparse_self_conditioning=False
)
THREE_STEPS = replace(SAMPLING, max_denoising_steps=3, stability_threshold=9)


def mixed():
    """A text that takes several steps to read, two canvases, pins, scores, a draft, a re-roll."""
    reroll = replace(THREE_STEPS, max_denoising_steps=2, max_rerolls=1, reroll_entropy_nats=1e-30)
    pins = tuple((row, 9) for row in range(0, 16, 3))
    return [
        Request(tuple(3 + (7 * i) % 190 for i in range(150)), 16, seed=0, sampling=THREE_STEPS),
        Request((5, 6, 7), 48, seed=1, sampling=THREE_STEPS),
        Request(
            (8, 9), 16, seed=2, sampling=THREE_STEPS, pins=pins,
            scored=((1, (5, 6, 7)), (15, (8,))), num_candidates=2,
        ),
        Request((3,) * 20, 32, seed=3, sampling=THREE_STEPS, draft_ids=tuple(range(20, 50)),
                draft_noise=0.5, draft_renoise=0.5),
        Request((11, 12), 16, seed=4, sampling=reroll),
        Request((13,), 16, seed=5, sampling=THREE_STEPS, pins=tuple((row, 7) for row in range(16))),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def by_torch(micro):
    with Engine(load_model(micro, operations=SameDraws()), micro, CONFIG) as engine:
        return {i: text_of(result) for i, result in engine.generate(mixed())}


def test_padded_steps_give_what_ragged_ones_give(micro, by_torch, monkeypatch):
    """Read while the next one is in flight, as on a GPU: in the buffers of all of them."""
    monkeypatch.setattr(Runner, "is_asynchronous", True)
    with Engine(load_model(micro, operations=TRITON), micro, CONFIG) as engine:
        path, shapes = engine._loop._runner._path, []
        run = path.run

        def note(layout):
            shapes.append(StepShape.of(layout, CONFIG.max_canvases))
            return run(layout)

        path.run = note
        by_triton = {i: text_of(result) for i, result in engine.generate(mixed())}
        engine._loop.check()
    assert any(shape.num_canvases == 0 for shape in shapes)  # one that only reads
    assert any(0 < shape.num_canvas_rows < shape.num_rows for shape in shapes)
    assert any(shape.num_head_rows < shape.num_canvas_rows for shape in shapes)
    assert any(result.num_rerolls for result in by_torch.values())
    assert any(result.num_canvases == 2 for result in by_torch.values())
    for i, reference in by_torch.items():
        ours = by_triton[i]
        assert ours.token_ids == reference.token_ids, i
        assert (ours.num_steps, ours.num_rerolls) == (reference.num_steps, reference.num_rerolls)
        assert ours.mean_entropy_nats == pytest.approx(reference.mean_entropy_nats, abs=1e-4)
        for row, wanted in zip(ours.scores, reference.scores, strict=True):
            assert row == pytest.approx(wanted, abs=1e-3)
        assert [[token for token, _ in row] for row in ours.candidates] == [
            [token for token, _ in row] for row in reference.candidates
        ]


class Watched(TorchDispatchMode):
    """Notes what is called, on which shapes; fails where a shape or the host would need a value, or
    where numbers of the host are copied to tensors without memory.
    """

    ASKING = ("item", "_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount")

    def __init__(self):
        super().__init__()
        self.called = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.partition(".")[0]
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        assert not any(asking in name for asking in self.ASKING), f"{function} asks for a value"
        if name in ("index", "index_put", "index_put_"):
            places = [leaf for leaf in tree_leaves(args[1]) if isinstance(leaf, torch.Tensor)]
            assert all(place.dtype == torch.int64 for place in places), f"{function} by a mask"
        self.called.append((str(function), [tuple(tensor.shape) for tensor in tensors]))
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.is_meta:
            is_made = name in ("detach_", "lift_fresh")  # by torch.tensor
            copies = name in ("to", "_to_copy", "copy_")  # other mixtures fail in torch
            is_sent = copies and not all(tensor.is_meta for tensor in tensors)
            assert not is_made and not is_sent, f"{function} copies from the host"
        return result


@pytest.fixture
def launched(monkeypatch):
    """Kernels that are launched do nothing but be named here, with the grid."""
    from triton.runtime.interpreter import InterpretedFunction

    names = []
    monkeypatch.setattr(
        InterpretedFunction, "run", lambda self, *_, grid, **__: names.append((self.fn, grid))
    )
    return names


def static_step(model, device):
    config, weight = model.config, model.decoder.embed_tokens.weight
    device = torch.device(device)
    table = CanvasTable(config, 8, EOS_IDS, weight.dtype, device)
    pool = KVPool(config, PageCounts(40, 40), weight.dtype, device)
    engine_config = EngineConfig(max_canvases=8, max_rows=8 * config.canvas_length)
    return StaticStep(model, table, pool, engine_config)


def without_memory(shape, quantization):
    """A model of a named shape as it would be on a GPU: in bfloat16, the weights in their format."""
    with stand_in_folder(shape) as folder:
        model = empty_model(folder, quantization, TRITON)
    quantized = quantized_weights(model)
    for name, tensor in model.state_dict().items():
        if name.rpartition(".")[0] not in quantized:
            place(model, name, tensor.to(torch.bfloat16))
    return model


SHAPES = [StepShape(64, 32, 16, 8, 4), StepShape(32, 32, 0, 8, 1), StepShape(128, 0, 0, 0, 2)]
FORMATS = [Quantization(preset) for preset in PRESETS] + [
    Quantization("nf4", double_quantization=True)
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("quantization", FORMATS, ids=str)
def test_a_step_asks_the_host_for_nothing(launched, quantization, shape):
    """On tensors without memory, whatever asks for a value fails of itself, too; and dtypes must go
    together. Nor does the host send anything, but for what is made in the first step.
    """
    step = static_step(without_memory("micro", quantization), "meta")
    with torch.inference_mode():
        step.compute(shape)
        launched.clear()
        with Watched() as watched:
            step.compute(shape)
    assert len(watched.called) > 50 and len(launched) > 10


@pytest.mark.parametrize("quantization", FORMATS, ids=str)
def test_the_published_model_takes_a_step(launched, quantization):
    """Every launcher accepts its shapes: eight canvases, of which one is pinned, beside a text."""
    step = static_step(without_memory("26b-a4b", quantization), "meta")
    with torch.inference_mode():
        step.compute(StepShape(2560, 2048, 1792, 8, 16))
    assert len(launched) > 600  # 21 in each layer


def test_one_that_asks_is_caught():
    step = static_step(without_memory("micro", UNQUANTIZED), "meta")
    table = step._table
    with torch.inference_mode(), Watched():
        for ask in (
            lambda: table.ids[table.free],
            lambda: table.steps.max().item(),
            lambda: table.free.nonzero(),
            lambda: bool(table.free.any()),
        ):
            with pytest.raises(AssertionError, match=r"asks for a value|by a mask"):
                ask()
        for send in (
            lambda: torch.tensor([1, 2], device="meta"),
            lambda: torch.zeros(2).to("meta"),
            lambda: table.steps.copy_(torch.ones(())),
        ):
            with pytest.raises(AssertionError, match="copies from the host"):
                send()


def test_steps_of_one_shape_launch_the_same_on_the_same_memory(micro):
    """Whatever they hold, inputs and results stay where they are. But for the first step of all, in
    which codebooks and the like are made.
    """
    two_steps = replace(THREE_STEPS, max_denoising_steps=2)
    traces = {}
    with Engine(load_model(micro, operations=TRITON), micro, CONFIG) as engine:
        path = engine._loop._runner._path
        compute = path.compute

        def note(shape):
            with Watched() as watched:
                compute(shape)
            traces.setdefault(shape, []).append(watched.called)

        engine.submit(Request((5, 6), 16, 9, sampling=two_steps)).result()
        path.compute = note
        places = [t.data_ptr() for t in (path._numbers, path._hidden, path._argmax, path._facts)]
        for seed in range(3):
            engine.submit(Request((5,) * (1 + seed), 16, seed, sampling=two_steps)).result()
        assert places == [
            t.data_ptr() for t in (path._numbers, path._hidden, path._argmax, path._facts)
        ]
    assert list(map(len, traces.values())) == [3, 3]
    for called in traces.values():
        assert all(other == called[0] for other in called)


def test_a_step_that_holds_what_the_last_one_held_copies_nothing(micro, monkeypatch):
    with Engine(load_model(micro, operations=TRITON), micro, CONFIG) as engine:
        path, filled = engine._loop._runner._path, []
        fill = path._fill

        def note(layout, shape):
            filled.append(shape)
            fill(layout, shape)

        path._fill = note
        result = engine.submit(
            Request((5,), 16, 0, sampling=replace(THREE_STEPS, max_denoising_steps=5))
        ).result()
    assert result.num_steps == 5 and len(filled) == 2  # with the prompt, and without


def test_memory_that_runs_out_in_a_padded_step(micro, by_torch):
    """After it has written what it could: all begins anew, in the buffers that are there."""
    with Engine(load_model(micro, operations=TRITON), micro, CONFIG) as engine:
        path, calls = engine._loop._runner._path, 0
        compute = path.compute

        def fail_once(shape):
            nonlocal calls
            calls += 1
            compute(shape)
            if calls == 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")

        path.compute = fail_once
        futures = {i: engine.submit(mixed()[i]) for i in (2, 4)}
        results = {i: future.result(timeout=120) for i, future in futures.items()}
        assert engine.stats.out_of_memory_total == 1
    for i, result in results.items():
        assert result.token_ids == by_torch[i].token_ids
        assert result.num_steps == by_torch[i].num_steps
