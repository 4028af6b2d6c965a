"""The canvases in flight as tensors: what a slot holds when a canvas starts, and whose it is."""

import pytest
import torch

from dgq.engine.canvas import EngineLimits, Generation
from dgq.engine.canvas_table import CanvasTable
from dgq.engine.checkpoint import load_model
from dgq.engine.draws import Purpose, canvas_key, draw_bits, to_tokens, to_uniforms
from dgq.engine.request import Request
from dgq.engine.sampler import StopState

from .conftest import CANVAS_LENGTH, SAMPLING, VOCAB_SIZE

EOS = 1
LIMITS = EngineLimits(VOCAB_SIZE, CANVAS_LENGTH, 512, 4096, frozenset({EOS}), EOS, SAMPLING)


@pytest.fixture(scope="module")
def config(checkpoint):
    return load_model(checkpoint).config


@pytest.fixture
def table(config):
    return CanvasTable(config, 4, {EOS}, torch.float32, torch.device("cpu"))


def generation(number, width=CANVAS_LENGTH, seed=0, **fields):
    return Generation.begin(number, Request((5,), width, seed, **fields), LIMITS)


def noise_of(seed, attempt=0, canvas=0):
    key = torch.tensor([canvas_key(seed, attempt, canvas)])
    zero = torch.zeros(1, dtype=torch.int64)
    bits = draw_bits(key, Purpose.START_TOKEN, zero, CANVAS_LENGTH)
    uniforms = to_uniforms(draw_bits(key, Purpose.START_NOISE, zero, CANVAS_LENGTH))
    return to_tokens(bits, VOCAB_SIZE)[0], uniforms[0]


def test_noise_is_keyed_by_the_request_and_not_by_its_slot(table):
    canvases = [generation(i, seed=i) for i in range(3)]
    table.start(canvases)
    for seed, one in enumerate(canvases):
        assert torch.equal(table.ids[table.slot(one)], noise_of(seed)[0])
        assert not one.needs_start
    table.release(canvases[0])
    again = generation(7, seed=2)
    table.start([again])
    assert torch.equal(table.ids[table.slot(again)], noise_of(2)[0])


def test_a_draft_is_noised_in_its_share_and_pins_hold(table):
    draft = tuple(range(20, 40))
    pins = ((0, 99), (25, 98))
    one = generation(0, seed=3, draft_ids=draft, draft_noise=0.5, pins=pins)
    table.start([one])
    noise, uniforms = noise_of(3)
    wanted = torch.tensor([*draft, *[EOS] * 12])
    wanted = torch.where(uniforms < 0.5, noise, wanted)
    wanted[0], wanted[25] = 99, 98
    assert torch.equal(table.ids[table.slot(one)], wanted)
    free = table.free[table.slot(one)]
    assert free.sum() == 30 and not free[0] and not free[25]


def test_rows_beyond_the_width_are_never_free(table):
    wide, narrow = generation(0), generation(1, width=16)
    table.start([wide, narrow])
    assert table.free[table.slot(wide)].all()
    assert table.free[table.slot(narrow)].tolist() == [True] * 16 + [False] * 16
    assert table.ids[table.slot(narrow), 16:].eq(0).all()


def test_a_slot_is_as_new_when_it_is_taken_again(table):
    first = generation(0)
    table.start([first])
    slot = table.slot(first)
    table.steps[slot] = 5
    table.soft_embeddings.fill_(7.0)
    used = torch.ones(1, CANVAS_LENGTH, dtype=torch.int64)
    three, four = torch.tensor([3]), torch.tensor([4])
    table.put_stop_state(torch.tensor([slot]), StopState(used, used.bool(), three, four))
    table.release(first)
    second = generation(1, width=16)
    table.start([second])
    assert table.slot(second) == slot
    assert table.steps[slot] == 0
    rows = table.soft_embeddings.view(5, CANVAS_LENGTH, -1)
    assert rows[slot].eq(0).all()
    assert rows[[i for i in range(4) if i != slot]].eq(7.0).all()
    state = table.get_stop_state(torch.tensor([slot]))
    assert state.argmax.eq(-1).all() and not state.accepted.any()
    assert state.num_argmax_unchanged == state.num_accepted_unchanged == 0


def test_a_canvas_that_starts_anew_keeps_its_slot_and_gets_other_noise(table):
    one = generation(0)
    table.start([one])
    slot, before = table.slot(one), table.ids[table.slot(one)].clone()
    one.attempt, one.needs_start = 1, True
    table.start([one])
    assert table.slot(one) == slot and table.num_held == 1
    assert torch.equal(table.ids[slot], noise_of(0, attempt=1)[0])
    assert not torch.equal(table.ids[slot], before)


def test_what_the_stop_test_remembers_is_kept_apart(table):
    """Two counts of two canvases each; no write changes another."""
    table.start([generation(i) for i in range(4)])
    slots = torch.tensor([2, 0])
    generator = torch.Generator().manual_seed(0)
    state = StopState(
        torch.randint(VOCAB_SIZE, (2, CANVAS_LENGTH), generator=generator),
        torch.rand(2, CANVAS_LENGTH, generator=generator) < 0.5,
        torch.tensor([3, 4]),
        torch.tensor([5, 6]),
    )
    table.put_stop_state(slots, state)
    got = table.get_stop_state(slots)
    assert torch.equal(got.argmax, state.argmax) and torch.equal(got.accepted, state.accepted)
    assert got.num_argmax_unchanged.tolist() == [3, 4]
    assert got.num_accepted_unchanged.tolist() == [5, 6]
    others = table.get_stop_state(torch.tensor([1, 3]))
    assert others.num_argmax_unchanged.tolist() == others.num_accepted_unchanged.tolist() == [0, 0]


def test_slots_are_given_back(table):
    canvases = [generation(i) for i in range(4)]
    table.start(canvases)
    assert table.num_held == 4 and len({table.slot(one) for one in canvases}) == 4
    table.release(canvases[1])
    table.release(canvases[1])  # twice is once
    assert table.num_held == 3
    table.release_all()
    assert table.num_held == 0
    table.start([generation(i) for i in range(4, 8)])
    assert table.num_held == 4
    table.start([])
    assert table.num_held == 4
