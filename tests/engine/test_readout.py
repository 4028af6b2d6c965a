"""What a request is told of its last step, against a plain log-softmax."""

from dataclasses import replace

import pytest
import torch

from dgq.engine.canvas import EngineLimits, Generation
from dgq.engine.checkpoint import load_model
from dgq.engine.engine import Engine
from dgq.engine.readout import candidates_of, log_probabilities, scores_of
from dgq.engine.request import Request

from .conftest import CANVAS_LENGTH, EOS_IDS, SAMPLING, VOCAB_SIZE

LIMITS = EngineLimits(VOCAB_SIZE, CANVAS_LENGTH, 512, 4096, frozenset(EOS_IDS), 1, SAMPLING)
SCORED = ((0, (5, 6, 7)), (31, (199,)), (0, (8,)), (4, ()))
PINS = tuple((row, 9) for row in range(0, 32, 5))


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_model(checkpoint)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def generation(**fields):
    return Generation.begin(0, Request((5,), 32, seed=0, **fields), LIMITS)


@pytest.fixture
def hidden(model):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(CANVAS_LENGTH, model.config.hidden_size, generator=generator)


@pytest.mark.parametrize("count", [1, 3, 16, 20])
def test_log_probabilities_are_those_of_the_whole_vocabulary(model, count):
    generator = torch.Generator().manual_seed(count)
    hidden = torch.randn(count, model.config.hidden_size, generator=generator)
    wanted = model.logits(hidden).double().log_softmax(dim=-1)
    got = log_probabilities(model, hidden)
    torch.testing.assert_close(got.double(), wanted, atol=1e-5, rtol=1e-5)
    for row in range(count):
        assert torch.equal(log_probabilities(model, hidden[row : row + 1])[0], got[row])


def test_scores_are_log_probabilities_in_the_order_asked(model, hidden):
    plain = model.logits(hidden).double().log_softmax(dim=-1)
    scores = scores_of(model, hidden, generation(scored=SCORED))
    assert [len(row) for row in scores] == [3, 1, 1, 0]
    for (row, tokens), values in zip(SCORED, scores, strict=True):
        assert values == pytest.approx(plain[row, list(tokens)].tolist(), abs=1e-5)
    assert scores_of(model, hidden, generation()) == ()


@pytest.mark.parametrize("count", [1, 5, VOCAB_SIZE])
@pytest.mark.parametrize("pins", [(), PINS])
def test_candidates_are_the_most_probable_tokens(model, hidden, count, pins):
    plain = model.logits(hidden).double().log_softmax(dim=-1)
    told = candidates_of(model, hidden, generation(num_candidates=count, pins=pins))
    assert len(told) == CANVAS_LENGTH
    for row, candidates in enumerate(told):
        if row in dict(pins):
            assert candidates == ()
            continue
        values, tokens = plain[row].topk(count)
        assert [token for token, _ in candidates] == tokens.tolist()
        assert [value for _, value in candidates] == pytest.approx(values.tolist(), abs=1e-5)
    assert candidates_of(model, hidden, generation(pins=pins)) == ()


def test_an_engine_tells_of_the_last_step(calm_checkpoint):
    """The best candidate is the token of the answer, and its score is told alike."""
    pins = ((0, 50), (9, 51))
    request = Request((5, 6, 7), 32, seed=2, pins=pins, num_candidates=3, sampling=SAMPLING)
    with Engine.load(calm_checkpoint) as engine:
        result = engine.submit(request).result()
        assert len(result.token_ids) == len(result.candidates) == 32
        for row, (token, candidates) in enumerate(
            zip(result.token_ids, result.candidates, strict=True)
        ):
            assert candidates == () if row in dict(pins) else candidates[0][0] == token
        scored = tuple((row, (result.token_ids[row], 60)) for row in range(32))
        again = engine.submit(replace(request, scored=scored)).result()
        assert again.token_ids == result.token_ids and again.candidates == result.candidates
        for row, (score, other) in enumerate(again.scores):
            assert max(score, other) <= 0
            if again.candidates[row]:
                assert score == again.candidates[row][0][1]
