"""``dgq worker``: what it refuses, and that it serves what it should; the rest is in tests/worker/faults."""

import os
import signal
import subprocess
import sys

import pytest

from dgq.worker.client.client import Client
from dgq.worker.private_server import private_server, running_private_server
from dgq.worker.settings import Settings
from tests.worker.faults.fleet import make_jobs, wait_for
from tests.worker.servers import RealServer, free_port


@pytest.fixture
def dgq_worker(tmp_path):
    """Start the command; whatever is left of it is killed."""
    started = []

    def start(*options, **settings):
        given = {name: value for name, value in os.environ.items() if not name.startswith("DGQ_")}
        given |= {"DGQ_DATA_FOLDER": str(tmp_path / "data")}
        given |= {f"DGQ_{name.upper()}": str(value) for name, value in settings.items()}
        process = subprocess.Popen(
            [sys.executable, "-m", "dgq.worker", "worker", *options],
            env=given,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "options, settings, code, line",
    [
        ([], {}, 7, "no server is configured"),
        ([], {"redis_url": f"redis://127.0.0.1:{free_port()}"}, 7, "cannot reach"),
        (["--name", "a b"], {}, 2, "--name takes up to 64 letters"),
        (["--shards", "0"], {}, 2, "'--shards': 0 is not in the range"),
        (["--serve", "a b"], {}, 2, "--serve must be names of up to 100 letters"),
        (["--serve", " ,"], {}, 2, "--serve must be names of up to 100 letters"),
        (["--device", "nope"], {"redis_url": "redis://127.0.0.1:1"}, 1, "the device 'nope' cannot"),
        (["--device", "cuda:99"], {"redis_url": "redis://127.0.0.1:1"}, 1, "'cuda:99' cannot"),
        (["--model", "/nonexistent"], {"redis_url": "redis://127.0.0.1:1"}, 1, "does not exist"),
    ],
)
def test_what_it_refuses(dgq_worker, options, settings, code, line):
    process = dgq_worker(*options, **settings)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code, said
    assert line.replace("_", "-") in said.replace("_", "-")
    assert len(said.splitlines()) == 1, said


def test_it_serves_only_its_labels(dgq_worker, tmp_path):
    with RealServer(tmp_path / "server") as server:
        worker = dgq_worker("--stub", "--serve", " one, two ,", redis_url=server.url)
        with Client(settings=Settings(redis_url=server.url)) as client:
            wait_for(client.ledger.workers)
            (info,) = client.ledger.workers()
            assert info.fields["labels"] == "one,two"
            other = client.submit(make_jobs(3))
            for label in ("one", "two"):
                assert client.submit(make_jobs(3), label=label).wait(60).finished
            assert other.status().num_done == 0
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0


def test_it_finds_the_private_server_and_keeps_it_up(dgq_worker, tmp_path):
    settings = Settings(data_folder=tmp_path / "data")
    with private_server(settings) as server:
        worker = dgq_worker("--stub")
        with Client(settings=Settings(redis_url=server.url)) as client:
            wait_for(client.ledger.workers)
            assert client.submit(make_jobs(3)).wait(60).finished
    assert running_private_server(settings) == server.url
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert running_private_server(settings) is None
