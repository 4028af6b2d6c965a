"""A real server for the commands, empty for each test, and short ways to look at what they did."""

import os

import pytest

from dgq.worker.ledger.connection import connect
from dgq.worker.ledger.ledger import Ledger
from dgq.worker.settings import load_settings
from tests.worker.servers import RealServer
from tests.worker.stub_worker import StubWorker


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory):
    with RealServer(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def clean_environment(tmp_path, monkeypatch):
    """No setting of whoever runs the tests reaches a command."""
    for name in [name for name in os.environ if name.startswith("DGQ_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("DGQ_DATA_FOLDER", str(tmp_path / "data"))
    monkeypatch.setenv("DGQ_SHARD_JOBS", "4")


@pytest.fixture
def server(shared_server, clean_environment, monkeypatch):
    """The server that commands of this test use; other tests' batches are not there."""
    shared_server.client().flushall()
    monkeypatch.setenv("DGQ_REDIS_URL", shared_server.url)
    return shared_server


@pytest.fixture
def ledger(server):
    client = connect(load_settings())
    yield Ledger(client)
    client.close()


@pytest.fixture
def worker(ledger):
    """A stub that serves the label default while the test runs."""
    with StubWorker(ledger) as worker:
        yield worker


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.jsonl"
