"""Many pass together, or one alone."""

import threading

from dgq.worker.fleet.gate import Gate
from tests.worker.faults.fleet import wait_for


class Passer(threading.Thread):
    """Passes, says so, and stays inside until told to leave."""

    def __init__(self, gate, *, alone=False):
        super().__init__(daemon=True)
        self.gate, self.alone = gate, alone
        self.inside, self.leave = threading.Event(), threading.Event()
        self.start()

    def run(self):
        with self.gate.passing(alone=self.alone):
            self.inside.set()
            self.leave.wait()

    def go(self):
        self.leave.set()
        self.join()


def test_one_alone_waits_for_all_and_all_wait_for_it():
    gate = Gate()
    first, second = Passer(gate), Passer(gate)
    assert first.inside.wait(5)
    assert second.inside.wait(5)
    lonely = Passer(gate, alone=True)
    wait_for(lambda: gate._waiting == 1)
    late = Passer(gate)
    first.go()
    assert not lonely.inside.wait(0.05)
    assert not late.inside.is_set(), "who wants to be alone goes first"
    second.go()
    assert lonely.inside.wait(5)
    assert not late.inside.wait(0.05)
    lonely.go()
    assert late.inside.wait(5)
    late.go()


def test_two_that_want_to_be_alone_go_one_after_the_other():
    gate = Gate()
    one, other = Passer(gate, alone=True), Passer(gate, alone=True)
    wait_for(lambda: one.inside.is_set() or other.inside.is_set())
    if other.inside.is_set():
        one, other = other, one
    assert not other.inside.wait(0.05)
    one.go()
    assert other.inside.wait(5)
    other.go()
