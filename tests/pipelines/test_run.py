import threading
import time
from concurrent.futures import Future

import pytest

from dgq.engine.errors import EngineError, RequestError
from dgq.pipelines.job import FillJob, ReformatJob, RewriteJob
from dgq.pipelines.reading import BadLine
from dgq.pipelines.run import RunOptions, run_jobs


def rewrite(number, text="Some words."):
    return RewriteJob(id=str(number), text=text, instruction="Shout.").at_line(number + 1)


@pytest.fixture
def shout(source_of):
    return lambda prompt: source_of(prompt).upper()


@pytest.mark.parametrize("threads", [0, 4])
@pytest.mark.parametrize("ordered", [False, True])
def test_every_job_and_every_bad_line_gives_one_row(engine, shout, threads, ordered):
    jobs = [rewrite(n) if n % 7 else BadLine(n + 1, "not JSON") for n in range(200)]
    results = list(run_jobs(jobs, engine(shout, threads), options=RunOptions(ordered=ordered)))
    assert sorted(result.line for result in results) == list(range(1, 201))
    if ordered:
        assert [result.line for result in results] == list(range(1, 201))
    bad = [result for result in results if result.status == "error"]
    assert len(bad) == 29 and all(row.error.type == "BadLine" and row.id is None for row in bad)
    good = [result for result in results if result.status == "ok"]
    assert all(result.output == "SOME WORDS." for result in good)
    assert all(result.stats.model == "fake" and result.stats.seconds >= 0 for result in good)


def test_the_same_job_asks_the_same_in_any_company(engine, shout):
    one, many = engine(shout), engine(shout, threads=4)
    list(run_jobs([rewrite(3)], one))
    list(run_jobs([rewrite(n) for n in range(20)], many))
    seeds = {request.seed for request in many.requests}
    assert one.requests[0].seed in seeds and len(seeds) == 20


class HeldEngine:
    """Answers nothing until it is told to."""

    def __init__(self, fake):
        self.fake = fake
        self.held = []
        self.lock = threading.Lock()

    def __getattr__(self, name):
        return getattr(self.fake, name)

    def submit(self, request):
        future = Future()
        with self.lock:
            self.held.append((future, request))
        return future

    def release(self, count=None, order=1):
        with self.lock:
            batch, rest = self.held[:count], self.held[count:] if count else []
            self.held = rest
        for future, request in batch[::order]:
            if future.set_running_or_notify_cancel():
                future.set_result(self.fake.submit(request).result())


def releasing(held, order=1):
    """A thread that releases everything held, again and again; call the result to stop it."""
    stop = threading.Event()

    def work():
        while not stop.is_set():
            time.sleep(0.002)
            held.release(order=order)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def end():
        stop.set()
        thread.join()

    return end


@pytest.mark.parametrize("ordered", [False, True])
def test_the_input_is_read_no_faster_than_it_is_worked_off(engine, shout, ordered):
    held = HeldEngine(engine(shout))
    taken = 0
    yielded = 0
    ahead = 0

    def endless():
        nonlocal taken, ahead
        while taken < 3000:
            taken += 1
            ahead = max(ahead, taken - yielded)
            yield rewrite(taken)

    end = releasing(held, order=-1)
    options = RunOptions(max_jobs=50, enough_requests=30, ordered=ordered)
    for _ in run_jobs(endless(), held, options=options):
        yielded += 1
    end()
    assert yielded == 3000 and ahead <= 52


def test_many_requests_are_in_flight_together(engine, shout):
    held = HeldEngine(engine(shout))
    results = run_jobs((rewrite(n) for n in range(500)), held)
    consumer = threading.Thread(target=list, args=(results,), daemon=True)
    consumer.start()
    deadline = time.monotonic() + 30
    while len(held.held) < 64 and time.monotonic() < deadline:
        time.sleep(0.002)
    most = len(held.held)
    end = releasing(held)
    consumer.join(timeout=60)
    end()
    assert most >= 64 and not consumer.is_alive()


def test_a_slow_input_holds_up_no_result(engine, shout):
    first_is_out = threading.Event()

    def jobs():
        yield rewrite(0)
        assert first_is_out.wait(timeout=30)  # the second line comes only after the first result
        yield rewrite(1)

    for result in run_jobs(jobs(), engine(shout)):
        assert result.status == "ok"
        first_is_out.set()


def test_one_failing_job_does_not_stop_the_others(engine, shout, monkeypatch):
    def script(prompt):
        if "Bad" in prompt:
            return RequestError("the prompt is too long")
        return ValueError("a bug") if "Worse" in prompt else shout(prompt)

    jobs = [
        rewrite(0),
        rewrite(1, "Bad words."),
        rewrite(2, "Worse words."),
        ReformatJob(id="3", code="(", language="python"),
        FillJob(id="4", template="{{a}}", instructions="x"),
        rewrite(5),
    ]

    def broken(job, context):
        raise KeyError("oops")
        yield []

    monkeypatch.setitem(run_jobs.__globals__["RUN"], "fill", broken)
    rows = {row.id: row for row in run_jobs(jobs, engine(script))}
    assert [rows[key].status for key in "012345"] == ["ok"] + ["error"] * 4 + ["ok"]
    assert (rows["1"].error.type, rows["1"].error.message) == (
        "RequestError",
        "the prompt is too long",
    )
    assert (rows["2"].error.type, rows["2"].error.message) == ("InternalError", "ValueError: a bug")
    assert (rows["3"].error.type, rows["3"].error.field) == ("JobError", "code")
    assert rows["4"].error.message == "KeyError: 'oops'"
    assert rows["1"].kind == "rewrite" and rows["1"].line == 2 and rows["1"].output is None


def test_a_request_refused_at_once_is_that_jobs_error(engine, shout):
    fake = engine(shout)
    submit = fake.submit
    calls = []

    def refusing(request):
        calls.append(request)
        if len(calls) == 2:
            raise RequestError("no")
        return submit(request)

    fake.submit = refusing
    two = RewriteJob(id="two", text="One a.\n\nTwo b.", instruction="x")
    rows = list(run_jobs([two, rewrite(1)], fake))
    assert [(row.id, row.status) for row in rows] == [("two", "error"), ("1", "ok")]


def test_a_dead_engine_is_not_a_jobs_error(engine, shout):
    fake = engine(shout)
    rows = run_jobs((rewrite(n) for n in range(300)), fake)
    next(rows)
    fake.dead = True
    with pytest.raises(EngineError, match="dead"):
        list(rows)
    with pytest.raises(EngineError, match="gone"):
        list(run_jobs([rewrite(1)], engine(lambda _: EngineError("gone"))))


def test_closing_cancels_what_is_in_flight(engine, shout):
    held = HeldEngine(engine(shout))
    closed = []

    def jobs():
        try:
            for n in range(1000):
                if n == 5:
                    held.release(1)
                yield rewrite(n)
        finally:
            closed.append(True)

    rows = run_jobs(jobs(), held)
    assert next(rows).status == "ok"
    rows.close()
    assert held.held and all(future.cancelled() for future, _ in held.held)


def test_a_request_that_the_engine_cancels_is_a_cancelled_job(engine, shout):
    held = HeldEngine(engine(shout))

    def jobs():
        yield rewrite(0)
        held.held[0][0].cancel()
        held.held[0][0].set_running_or_notify_cancel()

    (row,) = run_jobs(jobs(), held)
    assert (row.status, row.output) == ("cancelled", None)


def test_what_the_input_raises_comes_out(engine, shout):
    def jobs():
        yield rewrite(0)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk"):
        list(run_jobs(jobs(), engine(shout)))


def test_no_jobs_no_rows(engine, shout):
    assert list(run_jobs([], engine(shout))) == []
