"""After a gap, only what had been silent before it is taken for dead."""

import pytest

from dgq.worker.fleet import contact
from dgq.worker.fleet.contact import Contact


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""

    class Clock:
        now_s = 100.0

        def monotonic(self):
            return self.now_s

    clock = Clock()
    monkeypatch.setattr(contact, "time", clock)
    return clock


def listen(contact, clock, until_s):
    """The server is asked in each second up to a time, and answers."""
    while clock.now_s < until_s:
        clock.now_s += 1
        contact.asked()
        contact.heard()


def test_while_it_answers_it_is_a_lease(clock):
    contact = Contact(10)
    assert contact.silence_s() == 10
    listen(contact, clock, 200)
    assert contact.silence_s() == 10


def test_after_an_outage_it_is_longer_by_the_time_since_its_beginning(clock):
    contact = Contact(10)
    listen(contact, clock, 110)
    for clock.now_s in (112, 115, 149):
        contact.asked()
    clock.now_s = 150
    contact.heard()
    assert contact.silence_s() == 10 + 38
    listen(contact, clock, 159)
    assert contact.silence_s() == 10 + 47, "whoever was on the way has not renewed since 112"
    listen(contact, clock, 160)
    assert contact.silence_s() == 10, "whoever has not renewed by now has had a lease to do so"


def test_who_was_frozen_excuses_nobody_else(clock):
    contact = Contact(10)
    listen(contact, clock, 110)
    clock.now_s = 140
    listen(contact, clock, 141)
    assert contact.silence_s() == 10


def test_an_answer_that_takes_its_time_is_no_outage(clock):
    contact = Contact(10)
    contact.asked()
    clock.now_s += 2.5
    contact.heard()
    assert contact.silence_s() == 10
