"""A feed ends with its last result, hands out nothing once closed, and can be broken off at any time."""

import threading

import pytest

from dgq.worker.fleet.feed import Feed, Interrupted


def test_it_ends_with_the_last_result():
    feed = Feed(["a", "b"])
    rest = iter(feed)
    assert [next(rest), next(rest)] == ["a", "b"]
    ended = threading.Event()

    def end():
        assert list(rest) == []
        ended.set()

    thread = threading.Thread(target=end)
    thread.start()
    feed.took_result()
    assert not ended.wait(0.05)
    feed.took_result()
    assert ended.wait(5)
    thread.join()


def test_closed_it_hands_out_no_more():
    feed = Feed(["a", "b"])
    rest = iter(feed)
    assert next(rest) == "a"
    feed.close()
    feed.took_result()
    assert list(rest) == []


@pytest.mark.parametrize("when", ["before", "while it waits"])
def test_it_can_be_broken_off(when):
    feed = Feed(["a", "b"])
    rest = iter(feed)
    assert next(rest) == "a"
    if when == "before":
        feed.interrupt("cancelled")
    else:
        assert next(rest) == "b"
        threading.Timer(0.05, feed.interrupt, ["cancelled"]).start()
    with pytest.raises(Interrupted, match="cancelled"):
        list(rest)
    feed.interrupt("lost")
    assert feed.interruption == "cancelled", "the first reason stays"
