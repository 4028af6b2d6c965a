import signal

import pytest

from dgq.worker.interrupt import DelayedInterrupt


def test_an_interruption_waits_for_the_end_of_a_held_block():
    done = []
    with DelayedInterrupt() as interrupt, pytest.raises(KeyboardInterrupt):
        with interrupt.held():
            signal.raise_signal(signal.SIGINT)
            done.append("row")
        done.append("next row")
    assert done == ["row"]


def test_outside_a_held_block_it_comes_at_once():
    with DelayedInterrupt(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_the_former_handler_comes_back():
    before = signal.getsignal(signal.SIGINT)
    with DelayedInterrupt():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before
