"""Admission, reading in chunks, and conservation of rows and pages. No torch."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgq.engine.canvas import EngineLimits, Generation, Outcome, Verdict
from dgq.engine.errors import EngineError
from dgq.engine.kv_pages import KVPages, PageCounts
from dgq.engine.request import Request, SamplingConfig
from dgq.engine.scheduler import LEAST_READ_ROWS, Scheduler
from dgq.engine.sliding_pages import READ_ROOM_PAGES, steady_pages
from dgq.kernels.page import PAGE_TOKENS

EOS = 1
LIMITS = EngineLimits(100, 64, 4096, 4096, frozenset({EOS}), EOS, SamplingConfig())


def generation(number, width=64, max_new_tokens=None, prompt=(5,)):
    request = Request(tuple(prompt), max_new_tokens or width, seed=0, canvas_length=width)
    return Generation.begin(number, request, LIMITS)


def pages_of(num_full=1000, num_sliding=1000, window=1024):
    return KVPages(PageCounts(num_full, num_sliding), window)


def scheduler_of(max_canvases, max_rows, num_pages=1000, **options):
    return Scheduler(max_canvases, max_rows, pages_of(num_pages), **options)


def step(scheduler):
    """Plan a step, and note what running it would change: canvases that begin have begun."""
    plan = scheduler.schedule()
    scheduler.check()
    for started in plan.start:
        assert started in plan.canvases and not started.pending_ids
        started.needs_start = False
    return plan


def in_flight(plan):
    return sorted(g.number for g in plan.canvases)


def converge(scheduler, running, ids=None):
    verdict = running.finish_canvas(Outcome(ids or [9] * running.width, 1, 0.0, True))
    scheduler.resize(running)
    return verdict


def test_admits_in_order_within_both_budgets():
    scheduler = scheduler_of(max_canvases=3, max_rows=128)
    waiting = [generation(0, 48), generation(1, 64), generation(2, 32), generation(3, 16)]
    for one in waiting:
        scheduler.add(one)
    plan = step(scheduler)
    assert in_flight(plan) == [0, 1]  # 2 does not fit, and 3 must not overtake it
    assert [chunk.ids for chunk in plan.chunks] == [(5,), (5,)]
    assert [g.number for g in plan.start] == [0, 1]
    assert (scheduler.rows_in_use, plan.num_canvas_rows, plan.num_read_rows) == (112, 112, 2)
    assert converge(scheduler, waiting[0]) is Verdict.FINISHED
    assert in_flight(step(scheduler)) == [1, 2, 3]  # in the very next step
    assert scheduler.rows_in_use == 112


def test_number_of_canvases_is_bounded():
    scheduler = scheduler_of(max_canvases=2, max_rows=10_000)
    for i in range(3):
        scheduler.add(generation(i, 16))
    assert in_flight(step(scheduler)) == [0, 1]


def test_pages_are_a_budget_too():
    scheduler = scheduler_of(max_canvases=9, max_rows=10_000, num_pages=1 + 2 * 5 + 3)
    waiting = [generation(i, 64, prompt=(10 + i,)) for i in range(3)]
    for one in waiting:  # each needs a page to read and four for its canvas
        scheduler.add(one)
    assert in_flight(step(scheduler)) == [0, 1]
    converge(scheduler, waiting[0])
    assert in_flight(step(scheduler)) == [1, 2]


def test_a_pool_full_of_what_is_kept_for_others_still_has_room():
    scheduler = scheduler_of(max_canvases=2, max_rows=64, num_pages=1 + 12)
    for i in range(6):  # 10 pages to read, one for the canvas
        scheduler.add(generation(i, 16, prompt=(10 + i,) * 160))
    for i in range(6):
        read = [step(scheduler), step(scheduler)]
        assert not any(plan.canvases for plan in read)
        plan = step(scheduler)
        assert in_flight(plan) == [i]
        assert converge(scheduler, plan.canvases[0]) is Verdict.FINISHED
    assert scheduler.is_idle


def test_a_narrowed_canvas_gives_rows_back():
    scheduler = scheduler_of(max_canvases=4, max_rows=128)
    long, waits = generation(0, 64, max_new_tokens=80), generation(1, 64)
    wider = generation(2, 48)
    for one in (long, waits, wider):
        scheduler.add(one)
    assert in_flight(step(scheduler)) == [0, 1]
    assert converge(scheduler, long) is Verdict.COMMIT
    assert scheduler.rows_in_use == 64 + 16
    plan = step(scheduler)
    assert in_flight(plan) == [0, 1, 2]
    assert [chunk.ids for chunk in plan.chunks] == [(9,) * 64, (5,)]
    assert [g.number for g in plan.start] == [0, 2]


def test_the_last_canvas_is_never_read():
    scheduler = scheduler_of(max_canvases=1, max_rows=64)
    scheduler.add(generation(0, 64, max_new_tokens=150))
    read = []
    while not scheduler.is_idle:
        plan = step(scheduler)
        read += [len(chunk.ids) for chunk in plan.chunks]
        for running in plan.canvases:
            converge(scheduler, running)
    assert read == [1, 64, 64]  # the third canvas, of 32 rows, is kept without being read


def test_a_canvas_wider_than_the_budget_runs_alone():
    scheduler = scheduler_of(4, 128)
    for i, width in enumerate([16, 64, 16]):
        scheduler.add(generation(i, width))
    scheduler.max_rows = 32
    for expected in ([0], [1], [2]):
        plan = step(scheduler)
        assert in_flight(plan) == expected
        converge(scheduler, plan.canvases[0])
    assert scheduler.is_idle


def test_what_is_put_back_comes_first_and_the_largest_at_the_head():
    scheduler = scheduler_of(4, 64)
    for i, width in enumerate([16, 16, 32, 16]):
        scheduler.add(generation(i, width))
    assert in_flight(step(scheduler)) == [0, 1, 2]
    assert (scheduler.num_running, scheduler.num_waiting) == (3, 1)
    taken = scheduler.take_back()
    assert [g.number for g in taken] == [0, 1, 2]
    assert (scheduler.num_running, scheduler.num_waiting, scheduler.rows_in_use) == (0, 1, 0)
    scheduler.check()
    assert not any(g.pages.full or g.pages.sliding_canvas for g in taken)
    for one in taken:
        one.restart()
    scheduler.put_back(taken)
    scheduler.max_rows = 16
    order = []
    while not scheduler.is_idle:
        running = step(scheduler).canvases[0]
        order.append(running.number)
        converge(scheduler, running)
    assert order == [2, 0, 1, 3]


def test_nothing_read_before_is_taken_as_read_after_all_was_taken_back():
    scheduler = scheduler_of(1, 64)
    prompt = tuple(range(10, 58))
    scheduler.add(generation(0, 64, prompt=prompt))
    assert step(scheduler).chunks[0].ids == prompt
    taken = scheduler.take_back()
    taken[0].restart()
    scheduler.put_back(taken)
    assert step(scheduler).chunks[0].ids == prompt


def test_what_was_cancelled_while_waiting_takes_no_rows():
    scheduler = scheduler_of(2, 128, may_start=lambda g: g.number != 0)
    scheduler.add(generation(0))
    scheduler.add(generation(1))
    assert in_flight(step(scheduler)) == [1]
    assert scheduler.rows_in_use == 64


def test_what_a_cancelled_request_never_read_is_not_shared():
    scheduler = scheduler_of(2, 128, may_start=lambda g: g.number != 0)
    prompt = tuple(range(10, 58))
    scheduler.add(generation(0, prompt=prompt))
    scheduler.add(generation(1, prompt=prompt))
    assert [chunk.ids for chunk in step(scheduler).chunks] == [prompt]


def test_check_finds_lost_rows():
    scheduler = scheduler_of(2, 128)
    scheduler.add(generation(0))
    scheduler.schedule()
    scheduler.rows_in_use -= 16
    with pytest.raises(EngineError, match="row accounting is off: 48 booked, 64 in use"):
        scheduler.check()


def test_a_long_prompt_is_read_in_parts_beside_the_others_steps():
    scheduler = scheduler_of(4, 512)
    short, long = generation(0, 64), generation(1, 64, prompt=(7,) * 1000)
    scheduler.add(short)
    scheduler.add(long)
    first = step(scheduler)
    assert in_flight(first) == [0]
    assert [(chunk.start, len(chunk.ids)) for chunk in first.chunks] == [(0, 1), (0, 432)]
    second = step(scheduler)
    assert in_flight(second) == [0]  # the long one is not complete
    assert [(chunk.start, len(chunk.ids)) for chunk in second.chunks] == [(432, 448)]
    third = step(scheduler)
    assert in_flight(third) == [0, 1]
    assert [(chunk.start, len(chunk.ids)) for chunk in third.chunks] == [(880, 120)]
    assert [g.number for g in third.start] == [1]


def test_reading_always_gets_some_rows():
    scheduler = scheduler_of(8, 512)
    for i in range(8):
        scheduler.add(generation(i, 64, prompt=(10 + i,) * 100))
    while len(busy := step(scheduler).canvases) < 8:
        pass
    converge(scheduler, busy[0], [9] * 64)
    scheduler.add(generation(8, 64, prompt=(30,) * 1000))
    plan = step(scheduler)
    assert plan.num_canvas_rows == 7 * 64
    assert plan.num_read_rows == LEAST_READ_ROWS


def test_no_step_is_overfull():
    """A canvas that begins takes its rows from what reading leaves."""
    scheduler = scheduler_of(64, 2048, num_pages=2000)
    for i in range(64):
        scheduler.add(generation(i, 64, prompt=(2 + i,) * 200))
    sizes = []
    for number in range(60):
        plan = step(scheduler)
        sizes.append(plan.num_read_rows + plan.num_canvas_rows)
        if number > 10:
            converge(scheduler, plan.canvases[0], [EOS] * 64)
    assert 2048 < max(sizes) <= 2048 + LEAST_READ_ROWS + 64


def test_who_shares_a_beginning_waits_until_it_is_read():
    scheduler = scheduler_of(4, 320)
    scheduler.add(generation(0, 16, prompt=(7,) * 1000))
    scheduler.add(generation(1, 16, prompt=(7,) * 960))
    scheduler.add(generation(2, 16, prompt=(7,) * 16))
    scheduler.add(generation(3, 16))
    steps = [step(scheduler) for _ in range(4)]
    assert [in_flight(plan) for plan in steps] == [[], [], [], [0, 1, 2, 3]]
    read = [(chunk.start, len(chunk.ids)) for plan in steps for chunk in plan.chunks]
    assert read == [(0, 320), (320, 320), (640, 320), (960, 40), (0, 1)]


def test_who_shares_all_of_its_prompt_starts_at_once():
    scheduler = scheduler_of(4, 320)
    prompt = (7,) * 4 * PAGE_TOKENS
    scheduler.add(generation(0, 16, prompt=prompt))
    scheduler.add(generation(1, 16, prompt=prompt))
    plan = step(scheduler)
    assert in_flight(plan) == [0, 1] and plan.num_read_rows == 64


def test_canvases_with_nothing_to_read_wait_for_rows_too():
    """However many texts have been read by others, the step in which they begin is not overfull."""
    scheduler = scheduler_of(64, 512)
    prompt = (7,) * 512
    for i in range(24):
        scheduler.add(generation(i, 16, prompt=prompt))
    assert [len(chunk.ids) for chunk in step(scheduler).chunks] == [512]
    assert in_flight(step(scheduler)) == list(range(24))


class Texts:
    """A scheduler with pools of a given size, beside a record of what was read into each page.

    The texts are of two prompts, so that most begin like another, and stop or go on at random.
    """

    MAX_TOKENS = 300 + 192

    def __init__(self, requests, random, window, num_sliding=None, max_rows=160):
        """num_sliding: pages of sliding layers; None: what a single text needs."""
        self.random, self.window, self.requests = random, window, requests
        steady = min(steady_pages(window), -(-self.MAX_TOKENS // PAGE_TOKENS)) + 4
        num_full = 2 + (self.MAX_TOKENS + 64) // PAGE_TOKENS
        self.pages = pages_of(num_full, num_sliding or 1 + READ_ROOM_PAGES + steady, window)
        self.scheduler = Scheduler(5, max_rows, self.pages)
        for i, (widths, tokens, _, length, token) in enumerate(requests):
            self.scheduler.add(generation(i, 16 * widths, tokens, prompt=(token,) * length))
        self.full, self.sliding = {}, {}
        self.finished = set()

    def text_of(self, generation):
        return [*generation.request.prompt_ids, *generation._committed]

    def check_read(self, generation, length, first):
        """Both kinds hold the tokens of a text: full layers all, sliding layers those in sight."""
        text, pages = self.text_of(generation)[:length], generation.pages
        assert text == [
            self.full[pages.full[i // PAGE_TOKENS], i % PAGE_TOKENS] for i in range(length)
        ]
        for i in range(max(first, 0), length):
            page = pages.sliding[i // PAGE_TOKENS - pages.first_sliding]
            assert self.sliding[page, i % PAGE_TOKENS] == (tuple(text[:i]), text[i])

    def step(self):
        plan = step(self.scheduler)
        assert plan.chunks or plan.canvases
        assert plan.num_read_rows < self.scheduler.max_rows + PAGE_TOKENS  # up to a page's end
        assert len(plan.canvases) <= 5 and plan.num_canvas_rows <= 160
        owners = {id(g.pages): g for g in self.scheduler.running}
        written = set()
        for chunk in plan.chunks:
            owner, pages = owners[id(chunk.pages)], chunk.pages
            for i, token in enumerate(chunk.ids, start=chunk.start):
                page = pages.sliding[i // PAGE_TOKENS - pages.first_sliding]
                place = page, i % PAGE_TOKENS
                assert place not in written
                written.add(place)
                self.sliding[place] = tuple(self.text_of(owner)[:i]), token
                if i >= pages.num_found * PAGE_TOKENS:
                    self.full[pages.full[i // PAGE_TOKENS], i % PAGE_TOKENS] = token
        for chunk in plan.chunks:
            self.check_read(
                owners[id(chunk.pages)], chunk.start + len(chunk.ids), chunk.start - self.window + 1
            )
        for running in plan.canvases:
            length = running.prefix_length
            assert length == len(self.text_of(running))
            self.check_read(running, length, length - self.window + 1)
        return plan

    def run(self, until=10**9):
        while not self.scheduler.is_idle and until > 0:
            until -= 1
            plan = self.step()
            if plan.canvases:
                leaves = self.random.choice(plan.canvases)
                ids = [EOS] * leaves.width if self.requests[leaves.number][2] else None
                if converge(self.scheduler, leaves, ids) is Verdict.FINISHED:
                    self.finished.add(leaves.number)

    def lose_all(self):
        """As the loop does where memory runs out."""
        taken = self.scheduler.take_back()
        self.scheduler.check()
        self.full, self.sliding = {}, {}
        for one in taken:
            one.restart()
        self.scheduler.put_back(taken)
        self.scheduler.max_rows = max(16, self.scheduler.max_rows // 2)

    def check_end(self):
        self.scheduler.check()
        pages = self.pages
        assert self.scheduler.rows_in_use == pages.sliding.num_booked == 0
        for pool in (pages.full, pages.sliding):
            assert pool.num_available == pool.num_pages - 1
        assert self.finished == set(range(len(self.requests)))


REQUESTS = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.integers(1, 200),
        st.booleans(),
        st.integers(1, 300),
        st.integers(5, 6),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(
    REQUESTS,
    st.randoms(use_true_random=False),
    st.sampled_from([1, 2, 15, 16, 17, 18, 40, 100, 1024]),
    st.sampled_from([0, 1, 7, 40]),
    st.lists(st.integers(0, 20), max_size=2),
)
def test_rows_and_pages_are_conserved(requests, random, window, spare, losses):
    """Whatever order canvases finish in, and whenever memory runs out: budgets hold, everyone gets in
    and through, pools hold what each row looks at, and all comes back. The pools have room for one
    text of the largest kind and, in sliding layers, a few pages to spare.
    """
    texts = Texts(requests, random, window)
    texts = Texts(requests, random, window, texts.pages.sliding.num_pages + spare)
    for num_steps in losses:
        texts.run(until=num_steps)
        texts.lose_all()
    texts.run()
    texts.check_end()


def test_a_canvas_that_has_all_its_steps_planned_waits_for_its_judgement():
    """Until its outcome is known, which may be a step later, nothing else of it is planned."""
    scheduler = scheduler_of(max_canvases=2, max_rows=128)
    capped = Generation.begin(
        0,
        Request((5,), 64, 0, canvas_length=64, sampling=SamplingConfig(max_denoising_steps=2)),
        LIMITS,
    )
    other = generation(1)
    scheduler.add(capped)
    scheduler.add(other)
    assert [in_flight(step(scheduler)) for _ in range(3)] == [[0, 1], [0, 1], [1]]
    unsettled = Outcome([9] * 64, 2, 5.0, False)
    assert capped.finish_canvas(unsettled) is Verdict.REROLL  # and so begins anew
    assert [in_flight(step(scheduler)) for _ in range(3)] == [[0, 1], [0, 1], [1]]
    converge(scheduler, other)
    assert step(scheduler).is_empty and not scheduler.is_idle
    converge(scheduler, capped)
    assert step(scheduler).is_empty and scheduler.is_idle
