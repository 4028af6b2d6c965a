"""A reason ends the process, once; none does not."""

import threading
import time

from dgq.worker.fleet.watchdog import Watchdog, stalled


def test_it_ends_the_process_with_its_code():
    ends, ended = [], threading.Event()

    def end(code):
        ends.append(code)
        ended.set()

    answers = iter([None, None, "it hangs"])
    with Watchdog(lambda: next(answers), exit_code=70, interval_s=0.01, end=end):
        assert ended.wait(5)
    assert ends == [70]


def test_it_leaves_a_well_process_alone():
    asked = threading.Event()

    def is_wedged():
        asked.set()

    with Watchdog(is_wedged, exit_code=70, interval_s=0.01, end=lambda code: 1 / 0):
        assert asked.wait(5)


def test_stalled():
    assert stalled(time.monotonic() - 2, 1)
    assert not stalled(time.monotonic(), 1)
