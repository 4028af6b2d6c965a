"""The engine as a whole: one text in any batch, the loop's specification, and its life cycle."""

import itertools
import threading
from concurrent.futures import CancelledError, wait
from dataclasses import replace

import pytest
import torch

from dgq.engine.checkpoint import load_model
from dgq.engine.draws import Purpose, canvas_key, draw_bits, to_tokens, to_uniforms
from dgq.engine.engine import Engine
from dgq.engine.engine_config import EngineConfig
from dgq.engine.errors import CheckpointError, EngineError, RequestError
from dgq.engine.request import Request
from dgq.engine.sampler import InverseCdf
from dgq.engine.scheduler import LEAST_READ_ROWS
from dgq.kernels.page import PAGE_TOKENS

from .conftest import (
    CANVAS_LENGTH,
    EOS_IDS,
    SAMPLING,
    VOCAB_SIZE,
    requests,
    save_checkpoint,
    text_of,
)


def load(checkpoint, max_canvases, max_rows, **config):
    return Engine.load(
        checkpoint, config=EngineConfig(max_canvases=max_canvases, max_rows=max_rows, **config)
    )


@pytest.fixture(scope="module")
def engine(calm_checkpoint):
    with load(calm_checkpoint, 8, 160) as engine:
        yield engine


def plain_generate(model, request):
    """The specification: one request, one canvas at a time, one row at a time, no batches."""
    sampling, past, num_steps = request.sampling, None, 0
    committed: list[int] = []
    pending = list(request.prompt_ids)
    for canvas_number in itertools.count():
        past = plain_encode(model, pending, past)
        room = request.max_new_tokens - len(committed)
        width = min(request.canvas_length or CANVAS_LENGTH, -(-room // 16) * 16)
        key = torch.tensor([canvas_key(request.seed, 0, canvas_number)])

        def draw(purpose, step, width=width, key=key):
            return draw_bits(key, purpose, torch.tensor([step]), width)[0]

        canvas = to_tokens(draw(Purpose.START_TOKEN, 0), VOCAB_SIZE)
        soft, history = None, []
        for step in range(sampling.max_denoising_steps):
            num_steps += 1
            length = past[0][0].shape[2]
            hidden = model.denoise(
                canvas[None],
                torch.arange(length, length + width)[None],
                torch.ones(1, width).bool(),
                past,
                torch.ones(1, length).bool(),
                soft,
            )
            share = (sampling.max_denoising_steps - step) / sampling.max_denoising_steps
            temperature = sampling.t_min + (sampling.t_max - sampling.t_min) * share
            logits = model.logits(hidden) / temperature
            soft = model.soft_embeddings(logits)
            probabilities = logits[0].softmax(dim=-1)
            entropy = -(probabilities * probabilities.clamp(min=1e-38).log()).sum(dim=-1)
            argmax = logits[0].argmax(dim=-1)
            uniforms = to_uniforms(draw(Purpose.SAMPLE, step))
            noise = to_tokens(draw(Purpose.RENOISE, step), VOCAB_SIZE)
            next_canvas, spent = noise.clone(), 0.0
            for row in entropy.argsort().tolist():
                if spent > sampling.entropy_bound:
                    break
                next_canvas[row] = InverseCdf().sample(
                    probabilities[row : row + 1], uniforms[row : row + 1]
                )[0]
                spent += float(entropy[row])
            canvas = next_canvas
            last = history[len(history) - sampling.stability_threshold :]
            stable = len(history) >= sampling.stability_threshold and all(
                torch.equal(argmax, before) for before in last
            )
            if stable and float(entropy.mean()) < sampling.confidence_threshold:
                break
            history.append(argmax)
        for token in argmax.tolist():
            if token in EOS_IDS:
                return tuple(committed), "stop", num_steps
            if len(committed) == request.max_new_tokens:
                return tuple(committed), "length", num_steps
            committed.append(token)
        if len(committed) == request.max_new_tokens:
            return tuple(committed), "length", num_steps
        pending = argmax.tolist()


def test_canvases_with_different_stop_rules_share_a_batch(engine):
    """Each stops where it would alone, and the rules differ in how many steps they take."""
    rules = [
        replace(SAMPLING, stop_rule="stable_and_confident"),
        replace(SAMPLING, stop_rule="stable_and_confident", stop_to_end=True),
        replace(SAMPLING, stop_rule="mean_entropy", min_denoising_steps=2),
        replace(SAMPLING, stop_rule="plateau", confidence_threshold=50.0),
        replace(SAMPLING, max_denoising_steps=5),
    ]
    mixed = [
        replace(request, sampling=rules[i % len(rules)])
        for i, request in enumerate(requests() + requests())
    ]
    together = dict(engine.generate(mixed))
    for i, request in enumerate(mixed):
        alone = engine.submit(request).result()
        assert (text_of(alone), alone.num_steps) == (text_of(together[i]), together[i].num_steps)
    one = requests()[0]
    steps = {engine.submit(replace(one, sampling=rule)).result().num_steps for rule in rules}
    assert len(steps) > 1


def plain_encode(model, ids, past):
    start = past[0][0].shape[2] if past else 0
    _, new = model.encode(
        torch.tensor([ids]),
        torch.arange(start, start + len(ids))[None],
        torch.ones(1, len(ids)).bool(),
        past,
        torch.ones(1, start).bool() if past else None,
    )
    if past is None:
        return new
    return [
        tuple(torch.cat(kv, 2) for kv in zip(*both, strict=True))
        for both in zip(past, new, strict=True)
    ]


def test_the_engine_equals_a_plain_loop(engine, calm_checkpoint):
    model = load_model(calm_checkpoint)
    results = dict(engine.generate(requests()))
    with torch.inference_mode():
        for i, request in enumerate(requests()):
            wanted = plain_generate(model, request)
            got = results[i]
            assert (got.token_ids, got.finish_reason, got.num_steps) == wanted, f"request {i}"
    assert {result.finish_reason for result in results.values()} == {"stop", "length"}
    assert {result.num_canvases for result in results.values()} == {1, 2, 3}


def test_alone_or_in_any_batch_the_text_is_the_same(engine, calm_checkpoint):
    together = {i: text_of(result) for i, result in engine.generate(requests())}
    for i, request in enumerate(requests()):
        assert text_of(engine.submit(request).result()) == together[i], f"request {i}"
    backwards = dict(engine.generate(reversed(requests())))
    for i, result in backwards.items():
        assert text_of(result) == together[len(backwards) - 1 - i]
    with load(calm_checkpoint, 3, 64) as narrow:
        for i, result in narrow.generate(requests()):
            assert text_of(result) == together[i]


def test_the_seed_decides(engine):
    request = requests()[1]
    texts = {
        engine.submit(replace(request, seed=seed)).result().token_ids for seed in (1, 1, 2, 3, -4)
    }
    assert len(texts) == 4


def test_nothing_is_held_when_idle(engine):
    list(engine.generate(requests()))
    assert engine._loop._scheduler.rows_in_use == 0 and engine._loop._scheduler.is_idle
    assert engine._loop._runner.num_held == 0 and engine._futures == {}


def watch(engine, monkeypatch):
    """Record the canvases that the model is shown: a list of [rows] of a single request."""
    model = engine._loop._runner._model
    seen, forward = [], model.read_and_denoise

    def record(read_ids, canvas_ids, *rest):
        if len(canvas_ids):
            seen.append(canvas_ids.tolist())
        return forward(read_ids, canvas_ids, *rest)

    monkeypatch.setattr(model, "read_and_denoise", record)
    return seen


def test_pins_are_held_in_every_step(engine, monkeypatch):
    seen = watch(engine, monkeypatch)
    pins = tuple((row, 3 + row) for row in range(0, 16, 3))
    request = Request((5, 6, 7), 16, seed=3, canvas_length=16, pins=pins, sampling=SAMPLING)
    result = engine.submit(request).result()
    assert len(seen) == result.num_steps > 1
    for canvas in seen:
        assert all(canvas[row] == token for row, token in pins)
    assert len({tuple(canvas) for canvas in seen}) > 1  # the free rows moved
    kept = result.token_ids
    assert len(kept) == 16 and all(kept[row] == token for row, token in pins)


def test_a_canvas_that_is_all_pins_comes_back(engine):
    pins = tuple((row, 10 + row) for row in range(16))
    request = Request((5, 6), 16, seed=3, canvas_length=16, pins=pins, sampling=SAMPLING)
    result = engine.submit(request).result()
    assert result.token_ids == tuple(range(10, 26)) and result.mean_entropy_nats == 0.0


@pytest.mark.parametrize(("noise", "low", "high"), [(0.0, 0, 0), (0.5, 8, 24), (1.0, 30, 32)])
def test_warm_start(engine, monkeypatch, noise, low, high):
    seen = watch(engine, monkeypatch)
    draft, filler = tuple(range(20, 40)), engine._limits.filler_id
    assert filler == EOS_IDS[0]
    request = Request(
        (5, 6), 32, seed=1, draft_ids=draft, draft_noise=noise, pins=((0, 99),), sampling=SAMPLING
    )
    engine.submit(request).result()
    wanted = [99, *draft[1:]] + [filler] * 12
    assert seen[0][0] == 99
    changed = sum(a != b for a, b in zip(seen[0], wanted, strict=True))
    assert low <= changed <= high


def test_reroll_starts_from_other_noise_until_exhausted(engine, monkeypatch):
    seen = watch(engine, monkeypatch)
    sampling = replace(
        SAMPLING,
        max_denoising_steps=3,
        confidence_threshold=1e-9,
        reroll_entropy_nats=1e-9,
        max_rerolls=2,
    )
    draft = tuple(range(20, 52))
    request = Request((5, 6), 32, seed=1, draft_ids=draft, draft_noise=0.25, sampling=sampling)
    result = engine.submit(request).result()
    assert result.finish_reason == "unconverged"
    assert (result.num_steps, result.num_rerolls, result.num_canvases) == (9, 2, 1)
    starts = [seen[0], seen[3], seen[6]]
    kept = [sum(a == b for a, b in zip(start, draft, strict=True)) for start in starts]
    assert kept[0] >= 16 and kept[1] >= 16 and kept[2] <= 2  # the last from noise alone
    assert len({tuple(start) for start in starts}) == 3
    assert engine._loop._scheduler.rows_in_use == 0

    monkeypatch.undo()
    patient = replace(sampling, reroll_entropy_nats=float("inf"))
    result = engine.submit(replace(request, sampling=patient)).result()
    assert result.num_rerolls == 0 and result.num_steps % 3 == 0
    assert result.finish_reason in ("stop", "length")


def test_a_bad_request_stops_nothing_else(engine):
    good, bad = requests()[0], Request((VOCAB_SIZE,), 16, seed=0)
    futures = [engine.submit(request) for request in (good, bad, good)]
    with pytest.raises(RequestError, match=f"token id {VOCAB_SIZE}"):
        futures[1].result()
    assert futures[0].result().token_ids == futures[2].result().token_ids
    with pytest.raises(RequestError, match="positions"):
        list(engine.generate([good, Request((3,), 1000, seed=0)]))


def test_generate_pulls_its_input_only_as_needed(engine):
    pulled = 0

    def endless():
        nonlocal pulled
        for request in itertools.cycle(requests()):
            pulled += 1
            yield request

    results = engine.generate(endless())
    for done in range(1, 30):
        next(results)
        assert pulled <= done + 2 * 8
    results.close()
    assert list(engine.generate([])) == []


def test_submit_from_many_threads(engine):
    wanted = {i: text_of(result) for i, result in engine.generate(requests())}
    got = {}

    def work(indices):
        futures = {i: engine.submit(requests()[i]) for i in indices}
        got.update({i: text_of(future.result()) for i, future in futures.items()})

    threads = [threading.Thread(target=work, args=(range(k, 24, 4),)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == wanted


def test_cancelling_what_waits(calm_checkpoint):
    with load(calm_checkpoint, 1, 32) as engine:
        futures = [engine.submit(request) for request in requests()]
        cancelled = [future for future in futures[10:] if future.cancel()]
        assert cancelled
        wait(futures)
        assert all(future.result() for future in futures if future not in cancelled)
        with pytest.raises(CancelledError):
            cancelled[0].result()


def test_close_fails_what_is_pending_and_refuses_more(calm_checkpoint):
    engine = load(calm_checkpoint, 1, 32)
    futures = [engine.submit(request) for request in requests()]
    engine.close()
    engine.close()
    assert all(future.done() for future in futures)
    with pytest.raises(EngineError, match="the engine is closed"):
        futures[-1].result()
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.submit(requests()[0])


def test_a_failing_step_reaches_every_future(calm_checkpoint, monkeypatch):
    engine = load(calm_checkpoint, 2, 64)

    def broken(*arguments):
        raise RuntimeError("device lost")

    monkeypatch.setattr(engine._loop._runner._model, "read_and_denoise", broken)
    futures = []
    with pytest.raises(EngineError, match="RuntimeError: device lost"):
        for request in requests():
            futures.append(engine.submit(request))
        futures[0].result(timeout=60)
    for future in futures:
        assert "device lost" in str(future.exception(timeout=60))
    with pytest.raises(EngineError, match="the engine stopped: RuntimeError: device lost"):
        engine.submit(requests()[0])
    engine.close()


def test_16_bit_weights_run(calm_checkpoint):
    with Engine.load(calm_checkpoint, dtype="bfloat16") as engine:
        results = dict(engine.generate(requests()))
    assert len(results) == 24


def test_what_the_engine_says_of_itself(engine, calm_checkpoint):
    assert engine.canvas_length == CANVAS_LENGTH
    assert engine.model_path == calm_checkpoint and engine.model_name == calm_checkpoint.name
    assert engine.sampling.entropy_bound == 4.0
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        _ = engine.tokenizer


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_canvases": 0}, "max_canvases must be at least 1, not 0"),
        ({"max_rows": 0}, "max_rows must be at least 1, not 0"),
        ({"max_kv_tokens": -1}, "max_kv_tokens must be at least 1, not -1"),
        ({"max_rows": 16}, "max_rows must be at least the checkpoint's canvas_length, 32, not 16"),
    ],
)
def test_bad_settings(calm_checkpoint, settings, message):
    with pytest.raises(EngineError, match=message):
        Engine.load(calm_checkpoint, config=EngineConfig(**settings))


def test_a_dtype_that_is_not_served(calm_checkpoint):
    with pytest.raises(
        EngineError, match="dtype must be one of auto, bfloat16, float32, not 'int8'"
    ):
        Engine.load(calm_checkpoint, dtype="int8")


def count_rows(engine, monkeypatch):
    """Rows that the encoder reads, that are denoised, and that the head works on, in each step."""
    model = engine._loop._runner._model
    steps, forward, read_rows = [], model.read_and_denoise, model.read_rows

    def count_forward(read_ids, canvas_ids, *rest):
        steps.append([len(read_ids), len(canvas_ids), 0])
        return forward(read_ids, canvas_ids, *rest)

    def count_head(hidden, *rest, **options):
        steps[-1][2] += len(hidden)
        return read_rows(hidden, *rest, **options)

    monkeypatch.setattr(model, "read_and_denoise", count_forward)
    monkeypatch.setattr(model, "read_rows", count_head)
    return steps


def test_the_head_works_on_rows_of_canvases_only(calm_checkpoint, monkeypatch):
    """Neither prompts nor committed canvases have logits, and the last canvas is not committed."""
    with load(calm_checkpoint, max_canvases=8, max_rows=160) as engine:
        steps = count_rows(engine, monkeypatch)
        results = dict(engine.generate(requests()))
    assert all(canvas == head for _, canvas, head in steps)
    read = sum(read for read, _, _ in steps)
    committed = sum(32 * (result.num_canvases - 1) for result in results.values())
    assert committed > 0
    assert read == sum(len(request.prompt_ids) for request in requests()) + committed
    denoised = sum(canvas for _, canvas, _ in steps)
    assert denoised <= sum(32 * result.num_steps for result in results.values())
    assert any(read and canvas for read, canvas, _ in steps)  # both in one forward


def test_a_pinned_row_costs_no_head(engine, monkeypatch):
    steps = count_rows(engine, monkeypatch)
    pins = tuple((row, 3 + row) for row in range(0, 32, 2))
    request = Request((5, 6), 32, seed=3, pins=pins, sampling=SAMPLING)
    engine.submit(request).result()
    assert {(canvas, head) for _, canvas, head in steps} == {(32, 16)}
    steps.clear()
    engine.submit(replace(request, pins=tuple((row, 5) for row in range(32)))).result()
    assert {(canvas, head) for _, canvas, head in steps} == {(32, 0)}


def test_a_canvas_that_leaves_is_replaced_in_the_next_step(calm_checkpoint, monkeypatch):
    """Two at a time, each of its own number of steps: no step but the last has fewer than two."""
    short = [
        Request((5, 6), 16, seed, sampling=replace(SAMPLING, max_denoising_steps=1 + seed % 4))
        for seed in range(12)
    ]
    entered = threading.Event()
    with load(calm_checkpoint, max_canvases=2, max_rows=32) as engine:
        steps = count_rows(engine, monkeypatch)
        schedule = engine._loop._scheduler.schedule

        def wait_for_all():
            entered.wait(60)
            return schedule()

        engine._loop._scheduler.schedule = wait_for_all
        futures = [engine.submit(request) for request in short]
        entered.set()
        results = [future.result(timeout=60) for future in futures]
        assert len({result.num_steps for result in results}) > 1
        widths = [canvas for _, canvas, _ in steps]
        assert set(widths[:-4]) == {32}
        assert sum(widths) == 16 * sum(result.num_steps for result in results)


def test_a_prompt_is_read_in_parts_with_the_same_result(calm_checkpoint, monkeypatch):
    long = [
        Request(tuple(3 + (7 * i + k) % 190 for i in range(300 + k)), 32, k, sampling=SAMPLING)
        for k in range(4)
    ]
    with load(calm_checkpoint, max_canvases=1, max_rows=512) as whole:
        wanted = [text_of(whole.submit(request).result()) for request in long]
    with load(calm_checkpoint, max_canvases=4, max_rows=48) as parts:
        steps = count_rows(parts, monkeypatch)
        got = {i: text_of(result) for i, result in parts.generate(long)}
    assert [got[i] for i in range(4)] == wanted
    assert max(read for read, _, _ in steps) <= 48 + 15


def test_results_do_not_depend_on_who_reads_a_beginning(calm_checkpoint, monkeypatch):
    """Twenty requests that begin alike: the same to the bit, and the beginning is read once."""
    beginning = tuple(3 + (11 * i) % 190 for i in range(100))
    alike = [
        Request(beginning + tuple(range(3, 3 + seed)), 40, seed, sampling=SAMPLING)
        for seed in range(20)
    ]
    results, rows = [], []
    for share in (True, False):
        with load(calm_checkpoint, max_canvases=8, max_rows=160, share_prefixes=share) as engine:
            steps = count_rows(engine, monkeypatch)
            results.append({i: text_of(result) for i, result in engine.generate(alike)})
            rows.append(sum(read for read, _, _ in steps))
            monkeypatch.undo()
    assert results[0] == results[1]
    prompts = sum(len(request.prompt_ids) for request in alike)
    committed = sum(32 * (result.num_canvases - 1) for result in results[0].values())
    assert rows[1] == prompts + committed
    assert rows[1] - rows[0] >= 19 * 96  # six pages, by all but the first


def test_prefixes_are_kept_only_while_there_is_room(calm_checkpoint, monkeypatch):
    """Six texts of 7 pages in turn, in a pool with room for two and a half, and for all."""
    texts = [tuple(3 + (k + 7 * i) % 190 for i in range(112)) for k in range(6)]
    turns = [Request(texts[k % 6], 16, k, sampling=SAMPLING) for k in range(18)]
    results, rows = [], []
    for room in (320, 4096):
        with load(calm_checkpoint, max_canvases=1, max_rows=160, max_kv_tokens=room) as engine:
            steps = count_rows(engine, monkeypatch)
            results.append([text_of(engine.submit(request).result()) for request in turns])
            rows.append(sum(read for read, _, _ in steps))
            sliding, full = (keys for keys, _ in engine._loop._runner._pool.layers[:2])
            assert len(full) == room + 16  # allocated once, and never more
            assert len(sliding) == len(full) + LEAST_READ_ROWS
            monkeypatch.undo()
    assert results[0] == results[1]
    assert rows == [18 * 112, 6 * 112]


def test_a_request_with_no_room_in_the_pool_is_told_so(calm_checkpoint):
    with load(calm_checkpoint, max_canvases=2, max_rows=64, max_kv_tokens=128) as engine:
        good = engine.submit(Request((5,) * 96, 32, seed=0, sampling=SAMPLING))
        with pytest.raises(RequestError, match="the KV pool has 128: raise max_kv_tokens"):
            engine.submit(Request((5,) * 97, 32, seed=0)).result()
        assert good.result(timeout=60).num_canvases == 1


def test_a_prompt_of_4000_tokens_beside_short_ones(tmp_path, monkeypatch):
    """It is read in parts beside the others' steps; they go on, and nobody's result changes."""
    folder = save_checkpoint(
        tmp_path, embedding_scale=1.5, branch_scale=0.2, max_position_embeddings=8192
    )
    long = Request(tuple(3 + (7 * i) % 190 for i in range(4000)), 32, seed=9, sampling=SAMPLING)
    with load(folder, max_canvases=8, max_rows=512) as engine:
        steps = count_rows(engine, monkeypatch)
        mixed = [*requests()[:12], long, *requests()[12:]]
        futures = [engine.submit(request) for request in mixed]
        together = [text_of(future.result(timeout=120)) for future in futures]
        reading = [step for step in steps if step[0] > 200]
        assert max(read for read, _, _ in steps) < 512 + PAGE_TOKENS
        assert sum(canvas > 0 for _, canvas, _ in reading) >= 4
        assert len(reading) >= 8
        monkeypatch.undo()
        alone = [text_of(engine.submit(request).result()) for request in mixed[11:14]]
    assert together[11:14] == alone
