"""Asking again until the server answers, or nobody wants to know any more."""

import pytest
from redis.exceptions import RedisError

from dgq.worker.fleet.patience import Patience


class Asked:
    """Fails so many times, then answers."""

    def __init__(self, num_failures):
        self.num_failures = num_failures

    def __call__(self):
        self.num_failures -= 1
        if self.num_failures >= 0:
            raise RedisError("away")
        return "here"


def test_until_it_answers():
    told = []
    patience = Patience(lambda: False, told.append)
    assert patience.call(Asked(2)) == "here"
    assert [str(error) for error in told] == ["away", "away", "None"]


def test_until_it_is_given_up():
    told = []
    patience = Patience(lambda: len(told) >= 2, told.append)
    assert patience.call(Asked(100)) is None
    assert len(told) == 2


def test_what_is_wrong_with_us_is_not_waited_for():
    with pytest.raises(ZeroDivisionError):
        Patience(lambda: False, lambda error: None).call(lambda: 1 / 0)
