import pytest

from dgq.worker.client.client import Client
from dgq.worker.settings import Settings
from tests.worker.fresh import ledger, server

__all__ = ["client", "ledger", "server"]


@pytest.fixture
def client(server, ledger):
    """On an empty server, with small shards."""
    with Client(settings=Settings(redis_url=server.url, shard_jobs=4)) as made:
        yield made
