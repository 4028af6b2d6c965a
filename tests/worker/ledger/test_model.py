"""Any order of calls, against a model in plain Python that says what must come of them.

Workers claim, commit, die, are silent and come back; batches are filled, paused and cancelled; any
call may be made twice, as after a lost reply. In the end every accepted job has exactly one row.
"""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dgq.pipelines.reading import BadLine
from dgq.worker.client.cancelling import write_cancelled_rows
from dgq.worker.ledger.shard import JobLine, Row, Shard
from dgq.worker.ledger.types import NewBatch
from tests.worker.fresh import LEASE_S, all_rows, done, line, silence

LABELS = ["default", "big"]
SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=4)


@dataclass(eq=False)
class Piece:
    """A shard in the model. holder: the name of the lease that holds it; None: it may be had."""

    indices: list
    deaths: int = 0
    entry: object = None
    holder: object = None
    silent: bool = False
    ended: bool = False


@dataclass(eq=False)
class Model:
    """A batch. rows: by whom each job's row was written."""

    id: str
    label: str
    state: str = "active"
    sealed: bool = False
    shards: list = field(default_factory=list)
    pieces: list = field(default_factory=list)
    digest: str = ""
    num_jobs: int = 0
    rows: dict = field(default_factory=dict)
    tokens: int = 0

    @property
    def finished(self):
        return self.sealed and len(self.rows) == self.num_jobs

    @property
    def waiting(self):
        return [one for one in self.pieces if not one.ended and (one.silent or not one.holder)]

    def settle(self):
        if self.finished:
            self.state = "cancelled" if self.state == "cancelled" else "done"
            for piece in self.pieces:
                piece.ended = True


class LedgerMachine(RuleBasedStateMachine):
    ledger = None  # set by the test

    batches = Bundle("batches")
    held = Bundle("held")

    def __init__(self):
        super().__init__()
        self.ledger.redis.flushall()
        self.models = []
        self.leases = {}  # lease's name -> (model, piece)

    def twice(self, call, repeat):
        """Make the call, once more if asked to; the last answer is not looked at."""
        answer = call()
        if repeat:
            call()
        return answer

    # Submitting

    @initialize(target=batches, sizes=SIZES)
    def first_batch(self, sizes):
        return self.create("default", 0, sizes)

    @rule(target=batches, label=st.sampled_from(LABELS), priority=st.integers(-2, 2), sizes=SIZES)
    @precondition(lambda self: len(self.models) < 8)
    def create(self, label, priority, sizes):
        batch_id, _ = self.ledger.create(NewBatch(label, priority))
        model = Model(batch_id, label)
        self.models.append(model)
        for size in sizes:
            self.add(model, size, 0, False)
        return model

    @rule(
        model=batches, num_jobs=st.integers(0, 12), num_bad=st.integers(0, 2), repeat=st.booleans()
    )
    def add(self, model, num_jobs, num_bad, repeat):
        if not num_jobs + num_bad:
            return
        first, number = model.num_jobs, len(model.shards)
        bad = [(first + at, BadLine(first + at + 1, "no job")) for at in range(num_bad)]
        indices = list(range(first + num_bad, first + num_bad + num_jobs))
        jobs = [JobLine(index, index + 1, line(index)) for index in indices]
        shard = Shard(number, first, jobs, bad)
        rows = [Row(index, b"bad") for index, _ in bad]
        batch = self.ledger.info(model.id)
        answer = self.twice(lambda: self.ledger.add_shard(batch, shard, model.digest, rows), repeat)
        if model.state == "cancelled":
            assert answer == "CANCELLED"
        elif model.sealed:
            assert answer == "DIFFERENT"
        else:
            assert answer == "ADDED"
            model.shards.append(shard)
            model.digest = shard.digest_after(model.digest)
            model.num_jobs += num_jobs + num_bad
            model.rows |= {index: "bad" for index, _ in bad}
            if indices:
                model.pieces.append(Piece(indices))

    @rule(model=batches, number=st.integers(0, 20))
    def add_an_earlier_one(self, model, number):
        if model.shards and model.state != "cancelled":
            shard = model.shards[number % len(model.shards)]
            assert self.ledger.add_shard(self.ledger.info(model.id), shard, "?", []) == "HAVE"

    @rule(model=batches, repeat=st.booleans())
    def seal(self, model, repeat):
        batch = self.ledger.info(model.id)
        answer = self.twice(
            lambda: self.ledger.seal(batch, model.digest, len(model.shards)), repeat
        )
        assert answer == ("CANCELLED" if model.state == "cancelled" else "SEALED")
        model.sealed = True
        model.settle()

    # Working

    @rule(target=held, labels=st.sampled_from([LABELS, ["big"]]), at_most=st.integers(1, 4))
    def claim(self, labels, at_most):
        """As a worker's slots do."""
        leases = []
        while len(leases) < at_most and (lease := self.serve(labels)):
            leases.append(lease)
        if len(leases) < at_most:
            models = [m for m in self.models if m.label in labels and m.state != "paused"]
            assert [model for model in models if model.waiting and not model.finished] == []
        return multiple(*leases)

    def serve(self, labels):
        for batch_id, label in self.ledger.candidates(labels):
            if lease := self.ledger.claim(batch_id, label, "w", LEASE_S):
                self.check_claim(lease)
                return lease
        return None

    @rule(target=held, model=batches)
    def claim_from(self, model):
        """As somebody does who has looked for candidates a while ago."""
        lease = self.ledger.claim(model.id, model.label, "w", LEASE_S)
        if lease:
            self.check_claim(lease)
            return lease
        assert model.state == "paused" or not model.waiting
        return multiple()

    def check_claim(self, lease):
        (model,) = [model for model in self.models if model.id == lease.batch_id]
        assert model.state != "paused"
        assert lease.cancelled == (model.state == "cancelled")
        wanted = [job.index for job in lease.jobs]
        known = [one for one in model.waiting if one.entry == lease.entry]
        new = [one for one in model.waiting if one.entry is None]
        fits = [one for one in known or new if self.left(model, one) == wanted]
        assert fits, "a shard that is somebody else's, or not all of its jobs"
        piece = fits[0]
        piece.deaths += piece.silent
        piece.entry, piece.holder, piece.silent = lease.entry, lease.consumer, False
        assert lease.deaths == piece.deaths
        self.leases[lease.consumer] = (model, piece)

    def left(self, model, piece):
        return [index for index in piece.indices if index not in model.rows]

    def of(self, lease):
        """(model, piece, whether the lease holds it)."""
        model, piece = self.leases[lease.consumer]
        return model, piece, piece.holder == lease.consumer and not piece.ended

    @rule(
        lease=held,
        share=st.sampled_from([0, 0.5, 1]),
        status=st.sampled_from(["ok", "error", "invalid_output"]),
        repeat=st.booleans(),
    )
    def commit(self, lease, share, status, repeat):
        """Rows for a part of what the lease had, even of what has a row by now."""
        model, piece, holds = self.of(lease)
        jobs = lease.jobs[: round(share * len(lease.jobs))]
        rows = [done(job, status, by=lease.consumer, tokens=1) for job in jobs]
        mine = [job.index for job in jobs if job.index not in model.rows]
        release = holds and set(self.left(model, piece)) <= set(mine)
        answer = self.twice(lambda: self.ledger.commit(lease, rows, release=release), repeat)
        assert answer == ("written" if holds else "lost")
        if holds:
            model.rows |= dict.fromkeys(mine, lease.consumer)
            model.tokens += len(mine)
            piece.ended = release
            model.settle()

    @rule(lease=consumes(held), died=st.booleans(), repeat=st.booleans())
    def release(self, lease, died, repeat):
        _, piece, holds = self.of(lease)
        self.twice(lambda: self.ledger.release(lease, died=died), repeat)
        if holds:
            piece.holder, piece.silent = None, False
            piece.deaths += died

    @rule(lease=held)
    def fall_silent(self, lease):
        _, piece, holds = self.of(lease)
        if holds:
            silence(self.ledger, lease)
            piece.silent = True

    @rule(lease=held)
    def renew(self, lease):
        model, piece, holds = self.of(lease)
        assert self.ledger.renew(lease) == (model.state if holds else "lost")
        if holds:
            piece.silent = False

    @rule(lease=held, repeat=st.booleans())
    def split(self, lease, repeat):
        if not lease.jobs:
            return
        model, piece, holds = self.of(lease)
        self.twice(lambda: self.ledger.split(lease), repeat)
        if holds:
            piece.ended = True
            model.pieces += [Piece([job.index], piece.deaths) for job in lease.jobs]

    # Steering

    @rule(model=batches, action=st.sampled_from(["pause", "resume"]), repeat=st.booleans())
    def steer(self, model, action, repeat):
        self.twice(lambda: self.ledger.control(model.id, action), repeat)
        moves = {("pause", "active"): "paused", ("resume", "paused"): "active"}
        model.state = moves.get((action, model.state), model.state)

    @rule(model=batches, wholly=st.booleans(), dice=st.integers(1, 4))
    def cancel(self, model, wholly, dice):
        if dice > 1:  # else little would ever be done
            return
        self.ledger.control(model.id, "cancel")
        if model.state != "done":
            model.state, model.sealed = "cancelled", True
        if wholly and model.state == "cancelled":
            write_cancelled_rows(self.ledger, self.ledger.info(model.id))
            for piece in model.pieces:
                model.rows |= dict.fromkeys(self.left(model, piece), "cancelled")
        model.settle()

    # What always holds

    @invariant()
    def batches_are_as_the_model_says(self):
        for model in self.models:
            info = self.ledger.info(model.id)
            assert (info.state, info.sealed) == (model.state, model.sealed)
            assert (info.num_jobs, info.num_done) == (model.num_jobs, len(model.rows))
            assert sum(info.num_by_status.values()) == info.num_done
            assert info.num_tokens == model.tokens
            assert info.finished == model.finished
            if model.state != "paused":
                assert self.ledger.num_waiting(model.id, LEASE_S) == len(model.waiting)

    @invariant()
    def the_backlog_is_what_lacks_a_row(self):
        for label in LABELS:
            active = [m for m in self.models if m.label == label and m.state != "paused"]
            left = sum(m.num_jobs - len(m.rows) for m in active)
            assert self.ledger.backlog(label) == left

    def teardown(self):
        for model in self.models:
            self.ledger.control(model.id, "resume")
            if not model.sealed:
                batch = self.ledger.info(model.id)
                self.ledger.seal(batch, model.digest, len(model.shards))
        for name, (_, piece) in self.leases.items():
            if piece.holder == name and not piece.ended:
                self.ledger.redis.xclaim(  # all who hold something die
                    *self.pending(name), idle=3_600_000, justid=True
                )
        for _ in range(1000):
            if not any(self.finish_one(label) for label in LABELS):
                break
        for model in self.models:
            info = self.ledger.info(model.id)
            rows = all_rows(self.ledger, model.id)
            assert info.finished and info.num_done == info.num_jobs == model.num_jobs
            assert Counter(row.index for row in rows) == Counter(range(model.num_jobs))
            written = {index: by for index, by in model.rows.items() if by.startswith("w:")}
            for row in rows:
                if row.index in written:
                    assert written[row.index].encode() in row.text  # the first one stayed
            assert self.ledger.redis.xlen(self.ledger.keys.batch(model.id).shards) == 0
        for label in LABELS:
            assert self.ledger.backlog(label) == 0
            assert self.ledger.candidates([label]) == []

    def pending(self, name):
        model, _ = self.leases[name]
        stream = self.ledger.keys.batch(model.id).shards
        (one,) = self.ledger.redis.xpending_range(stream, "workers", "-", "+", 1, name)
        return stream, "workers", name, 0, [one["message_id"]]

    def finish_one(self, label):
        for batch_id, _ in self.ledger.candidates([label]):
            if lease := self.ledger.claim(batch_id, label, "end", LEASE_S):
                rows = [done(job) for job in lease.jobs]
                assert self.ledger.commit(lease, rows, release=True) == "written"
                return True
        return False


@pytest.mark.timeout(600)
def test_any_order_of_calls(ledger):
    LedgerMachine.ledger = ledger
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=60,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
