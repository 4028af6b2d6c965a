"""Workers and a server of one's own: they serve, are kept up, and never outlive their owner."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from dgq.engine.errors import CheckpointError
from dgq.worker.client.client import Client
from dgq.worker.crew import Crew
from dgq.worker.embedded import attached, embedded
from dgq.worker.errors import CommandError, ServerError
from dgq.worker.private_server import private_server, running_private_server
from dgq.worker.settings import Settings
from tests.worker.faults.fleet import make_jobs, wait_for

STUB = ["--stub"]


@pytest.fixture
def settings(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("DGQ_")]:
        monkeypatch.delenv(name)
    return Settings(data_folder=tmp_path / "data", lease_s=1.5, janitor_interval_s=0.3)


@pytest.fixture
def spawned(monkeypatch):
    """Have the crew start these short programs, one after the other, the last again and again."""
    started = []

    def use(*programs):
        def spawn(crew, options, log):
            program = programs[min(len(started), len(programs) - 1)]
            process = subprocess.Popen(
                [sys.executable, "-c", program], stdin=subprocess.PIPE, stderr=log
            )
            started.append(process)
            return process

        monkeypatch.setattr(Crew, "spawn", spawn)
        monkeypatch.setattr("dgq.worker.crew.PAUSE_S", 0.01)
        return started

    return use


def alive(pid):
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    return False


def worker_pids(client, count=1):
    """Of the workers that have said hello."""
    return wait_for(
        lambda: (
            (found := [int(info.fields["pid"]) for info in client.ledger.workers()])
            and len(found) == count
            and found
        )
    )


def test_they_serve_and_leave_nothing_running(settings, tmp_path):
    jobs = make_jobs(50)
    with embedded(settings, 2, options=STUB) as given, Client(settings=given) as client:
        pids = worker_pids(client, 2)
        assert client.submit(jobs).wait(60).num_by_status["ok"] == 50
        assert os.getpgrp() not in [os.getpgid(pid) for pid in pids], "Ctrl-C would reach them"
    assert not any(alive(pid) for pid in pids)
    assert running_private_server(settings) is None
    assert list((tmp_path / "data" / "logs").iterdir()) == []


def test_what_dies_is_started_anew(settings, capfd):
    """A worker, and the server."""
    jobs = make_jobs(50)
    with embedded(settings, options=STUB) as given, Client(settings=given) as client:
        (pid,) = worker_pids(client)
        os.kill(pid, signal.SIGKILL)
        assert client.submit(jobs).wait(60).num_by_status["ok"] == 50
        server_pid = int((settings.data_folder / "server" / "server.pid").read_text())
        os.kill(server_pid, signal.SIGKILL)
        wait_for(lambda: not alive(server_pid))
        wait_for(lambda: running_private_server(settings))
        assert client.submit(jobs).wait(60).num_by_status["ok"] == 50
    assert "a worker was killed by SIGKILL; starting it again" in capfd.readouterr().err
    assert running_private_server(settings) is None


OWNER = """
import sys, threading
from pathlib import Path
from dgq.worker.embedded import embedded
from dgq.worker.settings import Settings
settings = Settings(data_folder=Path(sys.argv[1]), drain_timeout_s=2, janitor_interval_s=0.3)
with embedded(settings, options=["--stub"]):
    print("up", flush=True)
    threading.Event().wait()
"""


def test_they_end_when_their_owner_is_killed(settings):
    """Also the server, which the last of them stops."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, settings.data_folder], stdout=subprocess.PIPE
    )
    with owner.stdout as out:
        assert out.readline() == b"up\n"
        url = running_private_server(settings)
        with Client(url, settings=None) as client:
            (pid,) = worker_pids(client)
            client.submit(make_jobs(1, "stub:wait 1"))
            wait_for(lambda: client.ledger.workers()[0].fields["busy"] == "1")
        owner.kill()
        owner.wait()
    wait_for(lambda: not alive(pid))
    wait_for(lambda: running_private_server(settings) is None)


def test_a_worker_that_cannot_run_is_told_at_once(settings, tmp_path):
    """Wherever the main thread is, and with the worker's own words."""
    began_s = time.monotonic()
    words = pytest.raises(CommandError, match="exit code 2: --name takes up to")
    with words as caught, embedded(settings, options=["--name", "a b"]):
        threading.Event().wait(100)
    assert time.monotonic() - began_s < 60
    log = str(caught.value).rpartition("(see ")[2].rstrip(")")
    assert "--name" in Path(log).read_text()
    assert running_private_server(settings) is None


@pytest.mark.parametrize("ending", ["exit(70)", "exit(71)", "exit(7)", "import os; os.abort()"])
def test_five_quick_deaths_are_enough(settings, spawned, ending):
    started = spawned(f"import sys; print('dgq: a\\n\\n', file=sys.stderr, flush=True); {ending}")
    with pytest.raises(CommandError, match=r": a \(see "), embedded(settings):
        threading.Event().wait(100)
    assert len(started) == 5


def test_four_are_not(settings, spawned):
    """Nor is an end that nobody asked for, whatever its exit code."""
    quick = ["exit(70)", "exit(71)", "exit(0)", "exit(70)"]
    started = spawned(*quick, "import sys; sys.stdin.read()")
    with embedded(settings):
        wait_for(lambda: len(started) == 5)
    assert [process.returncode for process in started[:4]] == [70, 71, 0, 70]


def test_where_ctrl_c_is_ignored_a_failure_still_comes_through(settings, spawned):
    spawned("exit(1)")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(CommandError), embedded(settings):
            threading.Event().wait(100)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_a_failure_comes_at_the_end(settings, spawned):
    started = spawned("exit(1)")
    raised = []

    def body():
        try:
            with embedded(settings):
                wait_for(lambda: started and started[0].poll() is not None)
                time.sleep(0.2)
        except CommandError as error:
            raised.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert len(raised) == 1


def test_no_model_no_server(settings, tmp_path):
    nowhere = settings.model_copy(update={"model_path": tmp_path / "none"})
    with pytest.raises(CheckpointError), embedded(nowhere):
        pass
    assert running_private_server(settings) is None


def test_attached_needs_a_server_and_keeps_it_up(settings):
    with pytest.raises(ServerError, match="dgq up"), attached(settings):
        pass
    with private_server(settings) as server:
        block = attached(settings)
        assert block.__enter__().redis_url == server.url
    assert running_private_server(settings) == server.url
    block.__exit__(None, None, None)
    assert running_private_server(settings) is None
