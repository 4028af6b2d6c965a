"""A server and a fleet for each test, and an end to all of it."""

import pytest

from tests.worker.faults.fleet import Fleet
from tests.worker.servers import RealServer


@pytest.fixture
def server(tmp_path):
    """A server that keeps its data."""
    with RealServer(tmp_path / "server", appendonly="yes") as server:
        yield server


@pytest.fixture
def fleet(server, tmp_path):
    """Make a fleet with some settings; everything is ended with the test."""
    made = []

    def make(**settings):
        folder = tmp_path / f"fleet-{len(made)}"
        folder.mkdir()
        made.append(Fleet(server, folder, **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()
