"""Real processes that fail: what they had not measured says why, and what they had is kept."""

import sys
import time
from pathlib import Path

import pytest

from dgq.bench import children
from dgq.bench.section import Group, Settings

SETTINGS = Settings("cpu", "micro", "float32", ("nf4",), (1,), 16, 32)
FAULTY = (sys.executable, str(Path(__file__).parent / "faulty_child.py"))


def measured(group, *points, limit_s=120.0):
    rows = list(
        children.measure(
            "faulty", SETTINGS, Group(group, points), time.monotonic() + limit_s, FAULTY
        )
    )
    assert [row["point"] for row in rows] == list(points)
    assert all(row["group"] == group for row in rows)
    return {row["point"]: row for row in rows}


def test_what_raises_is_a_row_and_the_same_process_goes_on():
    rows = measured("points", "good", "raises", "out of memory", "good too")
    assert rows["raises"]["error"] == "ValueError: a kernel is wrong"
    assert rows["out of memory"]["skipped"] == "out of device memory"
    assert rows["good"]["process"] == rows["good too"]["process"]


def test_another_process_goes_on_after_one_that_died_or_hung(monkeypatch):
    monkeypatch.setattr(children, "STUCK_S", 15.0)
    rows = measured("points", "good", "is killed", "hangs", "good too")
    assert rows["is killed"]["error"].startswith("the process ended with status -9: ")
    assert rows["hangs"]["error"] == "nothing within 15 s"
    assert rows["good"]["process"] != rows["good too"]["process"]


@pytest.mark.parametrize(
    ("group", "error"),
    [
        ("does not open", "ValueError: no such thing"),
        ("dies at once", "the process ended with status 9: its last words"),
    ],
)
def test_a_group_that_cannot_begin(group, error):
    rows = measured(group, "one", "two")
    assert rows["one"]["error"] == rows["two"]["error"] == error


def test_what_no_longer_fits_is_left_out():
    rows = measured("points", "good", "hangs", "good too", limit_s=20.0)
    assert rows["good"]["figure"] == 1
    assert rows["hangs"]["skipped"] == rows["good too"]["skipped"] == "the time limit"
    rows = measured("points", "good", limit_s=-1.0)
    assert rows["good"]["skipped"] == "the time limit"
