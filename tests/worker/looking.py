"""Short ways to look at what a command has done."""

import json
import time


def ids(path):
    """The ids of a file of results, None for a bad line's row."""
    return [row["id"] for row in read_rows(path)]


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def wait_until(true, seconds=60):
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)
    return found
