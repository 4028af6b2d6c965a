"""Texts many windows long, in pools that hold a few windows: as if all of them had been kept."""

import pytest
import torch

from dgq.engine.canvas import Generation, Verdict
from dgq.engine.checkpoint import load_model
from dgq.engine.engine import Engine
from dgq.engine.engine_config import EngineConfig
from dgq.engine.kv_pages import PageCounts
from dgq.engine.kv_pool import KVPool
from dgq.engine.paged import PagedAttend
from dgq.engine.request import Request
from dgq.engine.scheduler import LEAST_READ_ROWS
from dgq.engine.sliding_pages import steady_pages
from dgq.kernels.page import PAGE_TOKENS

from .conftest import CANVAS_LENGTH, SAMPLING, SLIDING_WINDOW, VOCAB_SIZE, text_of
from .steps import LIMITS, Steps

INSTRUCTION = tuple(3 + (11 * i) % 190 for i in range(3 * SLIDING_WINDOW))
OF_A_TEXT = (steady_pages(SLIDING_WINDOW) + CANVAS_LENGTH // PAGE_TOKENS) * PAGE_TOKENS
"""Tokens of sliding layers that the engine keeps for one text: a window, rounded up, and a canvas."""


@pytest.fixture(scope="module", autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_model(checkpoint)


def plain(model, text, canvas):
    """The canvas's hidden states behind a text, by encode and denoise."""
    ids = torch.tensor([text])
    everything = torch.ones_like(ids).bool()
    _, kv = model.encode(ids, torch.arange(len(text))[None], everything)
    positions = len(text) + torch.arange(len(canvas))[None]
    return model.denoise(
        canvas[None], positions, torch.ones(1, len(canvas)).bool(), kv, everything
    )[0]


@pytest.mark.parametrize(
    ("share", "evicted"),
    [(False, False), (True, False), (True, True)],
    ids=["alone", "shared", "shared in part"],
)
@pytest.mark.parametrize("max_rows", [64, 512])
def test_canvases_behind_long_texts(model, max_rows, share, evicted):
    """Lengths about the borders of pages, up to 27 windows; each writes on for up to three canvases.

    evicted: sliding layers have lost the last page of the instruction when the next text looks for it,
    which is then read again, beside others that look at it in full layers.
    """
    num_sliding = 1 + (3 * OF_A_TEXT + LEAST_READ_ROWS) // PAGE_TOKENS
    steps = Steps([], SLIDING_WINDOW, max_rows, 4, share, num_sliding)
    for number, length in enumerate([430, 17, 271, 272, 273, 336, 5, 300]):
        own = tuple(3 + (number + 7 * i) % 190 for i in range(length))
        request = Request(INSTRUCTION + own, 80, seed=0, canvas_length=CANVAS_LENGTH)
        steps.scheduler.add(Generation.begin(number, request, LIMITS))
    pool = KVPool(model.config, PageCounts(2000, num_sliding), torch.float32, torch.device("cpu"))
    for keys, values in pool.layers:  # what others left behind must not matter
        keys.normal_(generator=torch.Generator().manual_seed(9))
        values.normal_(generator=torch.Generator().manual_seed(8))
    assert num_sliding * PAGE_TOKENS < len(INSTRUCTION) + 430
    generator, num_compared, num_shared = torch.Generator().manual_seed(1), 0, 0
    num_read_again = 0
    while not steps.scheduler.is_idle:
        plan, layout, _ = steps.next()
        steps.scheduler.check()
        if evicted:
            for generation in steps.scheduler.running:
                steps.pages.sliding.forget(generation.pages.full[2])
        canvas_ids = torch.randint(3, VOCAB_SIZE, (layout.num_canvas,), generator=generator)
        hidden = model.read_and_denoise(
            layout.read_ids,
            canvas_ids,
            torch.zeros(layout.num_canvas, model.config.hidden_size),
            layout.positions,
            [
                PagedAttend(pool, layer, layout, model.config.is_full(layer))
                for layer in range(len(model.config.layer_types))
            ],
        )
        num_read_again += sum(
            chunk.start < chunk.pages.num_found * PAGE_TOKENS for chunk in plan.chunks
        )
        start = 0
        for generation in plan.canvases:
            own = slice(start, start + generation.width)
            text = [*generation.request.prompt_ids, *generation._committed]
            wanted = plain(model, text, canvas_ids[own])
            torch.testing.assert_close(hidden[own], wanted, atol=1e-4, rtol=1e-4)
            num_compared += 1
            start = own.stop
        for generation in plan.canvases[::2]:
            num_shared += generation.num_shared_tokens > 0 and generation.canvas == 0
            verdict = steps.finish(generation)
            assert verdict in (Verdict.COMMIT, Verdict.FINISHED)
    assert num_compared >= 24
    assert num_shared == (7 if share else 0)
    assert num_read_again >= 6 if evicted else num_read_again == 0  # two may begin in one step


def test_a_small_pool_gives_the_same_results_as_a_large_one(calm_checkpoint):
    """Whole generations: sliding layers with room for two texts, and with room for all of all."""
    asked = [
        Request(
            INSTRUCTION[: 16 * (i % 4)] + tuple(3 + (i + 7 * k) % 190 for k in range(40 + 43 * i)),
            max_new_tokens=40,
            seed=i,
            sampling=SAMPLING,
        )
        for i in range(9)
    ]
    answers = []
    for room in (None, 2 * OF_A_TEXT, 1):
        config = EngineConfig(max_canvases=8, max_rows=256, max_sliding_tokens=room)
        with Engine.load(calm_checkpoint, config=config) as engine:
            answers.append({i: text_of(result) for i, result in engine.generate(asked)})
            engine._loop.check()
            sliding = engine._loop._runner._pool.layers[0][0]
            if room is not None:
                assert len(sliding) == max(room, OF_A_TEXT) + LEAST_READ_ROWS + PAGE_TOKENS
    assert answers[0] == answers[1] == answers[2]
