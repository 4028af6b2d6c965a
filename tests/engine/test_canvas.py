"""What becomes of a canvas: commits, stops, narrowing, drafts, pins and re-rolls. No torch."""

import subprocess
import sys
from dataclasses import replace

import pytest

from dgq.engine.canvas import EngineLimits, Generation, Outcome, Verdict, max_text_tokens
from dgq.engine.errors import RequestError
from dgq.engine.kv_pages import TextPages
from dgq.engine.request import Request, SamplingConfig

EOS, FILLER = 1, 1
SAMPLING = SamplingConfig(max_denoising_steps=4, max_rerolls=2, reroll_entropy_nats=0.2)
LIMITS = EngineLimits(
    vocab_size=100,
    canvas_length=64,
    max_position_embeddings=256,
    max_kv_tokens=4096,
    eos_ids=frozenset({EOS, 7}),
    filler_id=FILLER,
    sampling=SAMPLING,
)


def begin(prompt=(5, 6), max_new_tokens=64, **fields):
    return Generation.begin(0, Request(prompt, max_new_tokens, seed=0, **fields), LIMITS)


def finish(generation, ids, entropy=0.0, converged=True, steps=4):
    assert len(ids) == generation.width
    return generation.finish_canvas(Outcome(ids, steps, entropy, converged))


def read_all(generation):
    generation.read(len(generation.pending_ids))


def test_importing_plain_parts_does_not_import_torch():
    code = (
        "import sys, dgq.engine.canvas, dgq.engine.engine_config, dgq.engine.pages,"
        " dgq.engine.scheduler, dgq.engine.stats, dgq.engine.tokenizer;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_stop_token_ends_the_text():
    generation = begin()
    assert finish(generation, [9, 8, 7, 9] + [EOS] * 60) is Verdict.FINISHED
    assert generation.result.token_ids == (9, 8)
    assert generation.result.finish_reason == "stop"
    assert (generation.result.num_canvases, generation.result.num_steps) == (1, 4)
    assert generation.width == 0


def test_canvases_are_committed_until_the_stop_token():
    generation = begin(max_new_tokens=200)
    assert generation.pending_ids == (5, 6)
    read_all(generation)
    assert generation.prefix_length == 2
    generation.needs_start = False
    assert finish(generation, [9] * 64, entropy=0.01) is Verdict.COMMIT
    assert generation.pending_ids == (9,) * 64
    assert generation.needs_start and generation.canvas == 1
    read_all(generation)
    assert generation.prefix_length == 66
    assert finish(generation, [8] * 10 + [EOS] * 54, entropy=0.03) is Verdict.FINISHED
    assert generation.result.token_ids == (9,) * 64 + (8,) * 10
    assert generation.result.num_canvases == 2
    assert generation.result.mean_entropy_nats == pytest.approx(0.02)


def test_a_restart_reads_everything_again_and_keeps_what_is_decided():
    generation = begin(max_new_tokens=200)
    read_all(generation)
    generation.needs_start = False
    finish(generation, [9] * 64)
    read_all(generation)
    generation.needs_start = False
    assert finish(generation, [8] * 64, entropy=1.0, converged=False) is Verdict.REROLL
    generation.needs_start = False
    generation.restart()
    assert generation.pending_ids == (5, 6, *[9] * 64) and generation.prefix_length == 0
    assert generation.needs_start and generation.place == (0, 1, 1) and generation.width == 64
    read_all(generation)
    finish(generation, [EOS] * 64)
    assert generation.result.token_ids == (9,) * 64
    assert (generation.result.num_steps, generation.result.num_rerolls) == (12, 1)


def test_the_last_canvas_is_narrowed_and_the_text_cut():
    generation = begin(max_new_tokens=70)
    assert generation.width == 64
    finish(generation, [9] * 64)
    assert generation.width == 16
    assert finish(generation, [8] * 16) is Verdict.FINISHED
    assert generation.result.token_ids == (9,) * 64 + (8,) * 6
    assert generation.result.finish_reason == "length"


@pytest.mark.parametrize(
    ("end", "length", "reason"), [(5, 5, "stop"), (10, 10, "stop"), (11, 10, "length")]
)
def test_a_stop_token_counts_up_to_the_limit(end, length, reason):
    """A text of exactly max_new_tokens whose stop token follows is complete."""
    generation = begin(max_new_tokens=10)
    assert generation.width == 16
    finish(generation, [9] * end + [EOS] * (16 - end))
    assert len(generation.result.token_ids) == length
    assert generation.result.finish_reason == reason


def test_no_commit_when_the_limit_is_reached_exactly():
    generation = begin(max_new_tokens=64)
    assert finish(generation, [9] * 64) is Verdict.FINISHED
    assert generation.result.finish_reason == "length"
    assert generation.pending_ids == (5, 6)  # nothing new to encode


def test_reroll_until_exhausted():
    generation = begin(max_new_tokens=200)
    for attempt in (1, 2):
        generation.needs_start = False
        assert finish(generation, [9] * 64, 0.3, converged=False) is Verdict.REROLL
        assert generation.attempt == attempt and generation.needs_start
        assert generation.canvas == 0
    assert finish(generation, [9] * 20 + [EOS] * 44, 0.3, converged=False) is Verdict.FINISHED
    assert generation.result.finish_reason == "unconverged"
    assert generation.result.token_ids == (9,) * 20
    assert (generation.result.num_rerolls, generation.result.num_steps) == (2, 12)
    assert generation.result.mean_entropy_nats == pytest.approx(0.3)


def test_an_unconverged_canvas_is_never_committed():
    generation = begin(max_new_tokens=200)
    generation.attempt = SAMPLING.max_rerolls
    assert finish(generation, [9] * 64, 0.3, converged=False) is Verdict.FINISHED
    assert generation.result.finish_reason == "unconverged"


def test_attempts_start_anew_with_each_canvas():
    generation = begin(max_new_tokens=200)
    finish(generation, [9] * 64, 0.3, converged=False)
    finish(generation, [9] * 64)
    assert (generation.canvas, generation.attempt) == (1, 0)
    assert generation.place == (0, 1, 0)


@pytest.mark.parametrize(("entropy", "converged"), [(0.2, False), (0.5, True)])
def test_low_entropy_or_convergence_is_enough(entropy, converged):
    generation = begin()
    verdict = finish(generation, [9] * 64, entropy, converged)
    assert verdict is Verdict.FINISHED and generation.result.finish_reason == "length"


def test_a_draft_fills_the_first_canvas_and_noise_grows_with_rerolls():
    generation = begin(max_new_tokens=100, draft_ids=(11, 12, 13), draft_noise=0.25)
    assert generation.start_ids() == [11, 12, 13] + [FILLER] * 61
    assert generation.start_noise() == 0.25
    finish(generation, [9] * 64, 0.3, converged=False)
    assert generation.start_ids()[:3] == [11, 12, 13]
    assert generation.start_noise() == 0.25
    finish(generation, [9] * 64, 0.3, converged=False)
    assert generation.start_noise() == 1.0  # the last re-roll
    finish(generation, [9] * 64)
    assert generation.canvas == 1
    assert generation.start_noise() == 1.0 and generation.start_ids() == [FILLER] * 48


def test_without_a_draft_all_is_noise():
    assert begin().start_noise() == 1.0


def test_pins_are_in_place_and_all_rows_come_back():
    """A canvas with pins is a form: its rows are counted from its beginning, whatever they hold."""
    generation = begin(max_new_tokens=64, pins=((0, 50), (63, 51)))
    assert generation.start_ids()[0] == 50 and generation.start_ids()[63] == 51
    assert generation.pinned() == ((0, 50), (63, 51))
    ids = [50, 9, EOS, EOS, *[8] * 59, 51]
    assert finish(generation, ids) is Verdict.FINISHED
    assert generation.result.token_ids == tuple(ids)
    assert generation.result.finish_reason == "stop"


def test_pins_that_never_settle():
    generation = begin(
        max_new_tokens=64, pins=((0, 50),), sampling=replace(SAMPLING, max_rerolls=1)
    )
    ids = [50, EOS, *[8] * 62]
    assert finish(generation, ids, 0.3, converged=False) is Verdict.REROLL
    assert generation.pinned() == ((0, 50),)
    assert finish(generation, ids, 0.3, converged=False) is Verdict.FINISHED
    assert generation.result.token_ids == tuple(ids)
    assert generation.result.finish_reason == "unconverged"


def test_what_the_last_canvas_told_is_in_the_result():
    generation = begin(max_new_tokens=100)
    told = Outcome([9] * 64, 4, 0.0, True, scores=((-1.0,),), candidates=(((3, -0.5),),))
    assert generation.finish_canvas(told) is Verdict.COMMIT
    last = Outcome([EOS] * 48, 4, 0.0, True, scores=((-2.0,),), candidates=(((4, -0.25),),))
    assert generation.finish_canvas(last) is Verdict.FINISHED
    assert generation.result.scores == ((-2.0,),)
    assert generation.result.candidates == (((4, -0.25),),)


@pytest.mark.parametrize(
    ("prompt", "max_new_tokens", "num_tokens"),
    [
        (1, 64, 1),  # one canvas, never committed
        (16, 65, 16 + 64),  # the second canvas sees the first
        (30, 150, 30 + 128),
        (30, 7, 30),
    ],
)
def test_a_text_is_the_prompt_and_all_canvases_but_the_last(prompt, max_new_tokens, num_tokens):
    request = Request((5,) * prompt, max_new_tokens, seed=0)
    assert max_text_tokens(request, LIMITS) == num_tokens


def test_what_others_have_read_is_read():
    generation = begin(prompt=tuple(range(2, 42)), max_new_tokens=64)
    generation.find_read(32)
    assert generation.num_shared_tokens == generation.prefix_length == 32
    assert generation.pending_ids == tuple(range(34, 42))
    generation.pages = pages = TextPages(full=[11, 12, 13])
    assert generation.let_go() is pages
    assert not generation.pages.full


def test_the_draft_wears_away_only_as_much_as_it_may():
    draft = {"draft_ids": (11, 12), "draft_noise": 0.25, "draft_renoise": 0.5}
    generation = begin(max_new_tokens=100, **draft)
    assert generation.renoise_share() == 0.5
    finish(generation, [9] * 64)
    assert generation.renoise_share() == 1.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": (5, 100)}, r"prompt_ids holds token id 100; the vocabulary has 100"),
        ({"prompt": (-1, 5)}, r"prompt_ids holds token id -1"),
        ({"draft_ids": (3, 400)}, r"draft_ids holds token id 400"),
        ({"pins": ((3, 400),)}, r"pins holds token id 400"),
        ({"pins": ((64, 3),)}, r"different rows of the first canvas, 0 to 63"),
        ({"pins": ((3, 3), (3, 4))}, r"different rows"),
        ({"draft_ids": (3,) * 65}, r"65 tokens and the first canvas 64 rows"),
        ({"canvas_length": 128}, r"canvas_length 128 is above the checkpoint's 64"),
        ({"prompt": (5,) * 193}, r"need 257 positions; the checkpoint has 256"),
        ({"max_new_tokens": 250}, r"need 258 positions"),
        ({"pins": ((3, 3),), "max_new_tokens": 65}, r"pins has one canvas, here of 64 rows, but"),
        ({"scored": ((64, (3,)),)}, r"scored must name rows of the canvas, 0 to 63"),
        ({"scored": ((6, (3, 100)),)}, r"scored holds token id 100"),
        ({"num_candidates": 101}, r"num_candidates 101 is above the vocabulary's 100"),
    ],
)
def test_requests_that_cannot_be_served(fields, message):
    with pytest.raises(RequestError, match=message):
        begin(**fields)


def test_a_request_that_the_pool_has_no_room_for():
    limits = replace(LIMITS, max_kv_tokens=128)
    for prompt, fits in ((64, True), (65, False)):
        request = Request((5,) * prompt, 64, seed=0)
        if fits:
            assert Generation.begin(0, request, limits).width == 64
            continue
        with pytest.raises(RequestError, match="room for 144 tokens; the KV pool has 128: raise"):
            Generation.begin(0, request, limits)


def test_the_longest_request_that_fits():
    assert begin(prompt=(5,) * 192).width == 64
    assert begin(max_new_tokens=240).width == 64


def test_request_sampling_replaces_the_defaults():
    sampling = replace(SAMPLING, max_rerolls=0)
    generation = begin(sampling=sampling)
    assert finish(generation, [9] * 64, 0.3, converged=False) is Verdict.FINISHED


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stop_rule": "never"}, "stop_rule must be one of stable_and_confident, mean_entropy"),
        ({"min_denoising_steps": 0}, r"min_denoising_steps must lie in 1\.\.max.* \(48\), not 0"),
        ({"min_denoising_steps": 9, "max_denoising_steps": 8}, r"\(8\), not 9"),
        ({"max_rerolls": -1}, "must not be negative"),
    ],
)
def test_sampling_knobs_out_of_range_are_named(fields, message):
    with pytest.raises(RequestError, match=message):
        SamplingConfig(**fields)
