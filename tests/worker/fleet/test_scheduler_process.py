"""Real ``dgq scheduler`` processes: two at once, killed with -9 in the middle, ended by signals."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dgq.worker.fleet.schedules import Schedules
from tests.worker.fleet.scheduling import Queue, job_line, settled, wait_for
from tests.worker.servers import RealServer

ENDED_S = 30.0


@pytest.fixture
def server(tmp_path):
    with RealServer(tmp_path / "server", appendonly="yes", appendfsync="always") as started:
        yield started


@pytest.fixture
def queue(server, tmp_path):
    made = Queue(server.url, tmp_path)
    made.schedules = Schedules(made.ledger)  # with the server's own clock
    yield made
    made.close()


@pytest.fixture
def start(server, tmp_path):
    """Start a scheduler; settings are given by their names."""
    started = []

    def begin(**settings):
        given = {"redis_url": server.url, "shard_jobs": 2, "lease_s": 1} | settings
        inherited = {name: text for name, text in os.environ.items() if name[:4] != "DGQ_"}
        process = subprocess.Popen(
            [sys.executable, "-m", "dgq.worker", "scheduler"],
            env=inherited | {f"DGQ_{name.upper()}": str(value) for name, value in given.items()},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def add_yearly(queue, name, *files):
    """A schedule with one firing that was missed, and none for a long time; when it was due."""
    due = time.gmtime(queue.schedules.now_s() - 60.0)
    cron = f"{due.tm_min} {due.tm_hour} {due.tm_mday} {due.tm_mon} *"
    created_s = queue.schedules.now_s() - 180.0
    return queue.add(name, *files, cron=cron, created_s=created_s)


def end(process):
    """SIGTERM; what it wrote on stderr."""
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=ENDED_S)[1]
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return err


def open_for_writing(pipe):
    """Once somebody reads it."""

    def attempt():
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            assert error.errno == errno.ENXIO
            return None

    fd = wait_for(attempt)
    os.set_blocking(fd, True)
    return fd


def reader_of(pipe, processes):
    """The process that has a pipe open."""
    for process in processes:
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(link) == str(pipe):
                    return process
    return None


def test_two_at_once_make_each_firing_once(queue, start):
    names = [f"s{number}" for number in range(10)]
    for name in names:
        add_yearly(queue, name, queue.write_jobs(f"{name}.jsonl", 7))
    processes = [start(), start()]
    wait_for(lambda: all(settled(queue.last(name)) for name in names))
    late = add_yearly(queue, "added-later", queue.write_jobs("late.jsonl", 1))
    wait_for(lambda: settled(queue.last(late.name)))
    said = "".join(end(process) for process in processes)
    for name in [*names, late.name]:
        (batch,) = queue.batches(name)
        assert batch.sealed and queue.last(name).batch_id == batch.id
        assert said.count(f"schedule {name}, firing of") == 1
    assert {batch.num_jobs for batch in queue.batches()} == {7, 1}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks into /proc")
def test_one_killed_in_the_middle_is_finished_by_the_other(queue, start):
    pipe = queue.folder / "pipe"
    os.mkfifo(pipe)
    lines = [job_line(f"j{number}") for number in range(9)]
    processes = [start(), start()]
    add_yearly(queue, "nightly", pipe)
    fd = open_for_writing(pipe)
    os.write(fd, b"".join(lines[:5]))
    (batch,) = wait_for(lambda: [x for x in queue.batches() if x.num_jobs == 4] or None)
    victim = reader_of(pipe, processes)
    victim.kill()
    victim.wait()
    os.close(fd)
    (other,) = set(processes) - {victim}
    fd = open_for_writing(pipe)
    os.write(fd, b"".join(lines))
    os.close(fd)
    wait_for(lambda: settled(queue.last("nightly")))
    end(other)
    (only,) = queue.batches()
    assert (only.id, only.sealed, only.num_jobs) == (batch.id, True, 9)
    assert queue.texts(only.id) == [line[:-1] for line in lines]


def test_killed_alone_and_started_again(queue, start):
    pipe = queue.folder / "pipe"
    os.mkfifo(pipe)
    lines = [job_line(f"j{number}") for number in range(9)]
    add_yearly(queue, "nightly", pipe)
    first = start()
    fd = open_for_writing(pipe)
    os.write(fd, b"".join(lines[:7]))
    wait_for(lambda: [x for x in queue.batches() if x.num_jobs == 6] or None)
    first.kill()
    first.wait()
    os.close(fd)
    pipe.unlink()
    pipe.write_bytes(b"".join(lines))
    second = start()
    wait_for(lambda: settled(queue.last("nightly")))
    assert "9 jobs" in end(second)
    (batch,) = queue.batches()
    assert queue.texts(batch.id) == [line[:-1] for line in lines]


def test_a_signal_ends_it_and_the_next_one_goes_on(queue, start):
    pipe = queue.folder / "pipe"
    os.mkfifo(pipe)
    add_yearly(queue, "nightly", pipe)
    first = start(drain_timeout_s=0.2, lease_s=60)
    fd = open_for_writing(pipe)
    os.write(fd, job_line("one"))
    wait_for(lambda: queue.batches() or None)
    assert "up to 0.2 s for what is being submitted: nightly" in end(first)
    os.close(fd)
    queue.client.redis.delete(queue.ledger.keys.lock("schedule:nightly"))  # or wait for a minute
    pipe.unlink()
    pipe.write_bytes(job_line("one") + job_line("two"))
    second = start()
    wait_for(lambda: settled(queue.last("nightly")))
    end(second)
    assert [batch.num_jobs for batch in queue.batches()] == [2]


def test_a_signal_lets_a_submission_finish(queue, start):
    pipe = queue.folder / "pipe"
    os.mkfifo(pipe)
    add_yearly(queue, "nightly", pipe)
    process = start(drain_timeout_s=30)
    fd = open_for_writing(pipe)
    os.write(fd, job_line("one"))
    wait_for(lambda: queue.batches() or None)
    process.send_signal(signal.SIGTERM)
    os.write(fd, job_line("two"))
    os.close(fd)
    err = process.communicate(timeout=ENDED_S)[1]
    assert process.returncode == 0
    assert "2 jobs" in err
    assert queue.last("nightly").state == "submitted"


def test_waits_for_a_server_that_goes_away(queue, server, start):
    process = start()
    add_yearly(queue, "one", queue.write_jobs("a.jsonl", 3))
    wait_for(lambda: settled(queue.last("one")))
    server.kill()
    said = wait_for(lambda: "cannot reach" in process.stderr.readline() or None)
    assert said
    server.start()
    add_yearly(queue, "two", queue.write_jobs("b.jsonl", 3))
    wait_for(lambda: settled(queue.last("two")))
    end(process)
    assert len(queue.batches()) == 2


def test_no_server_at_the_start(server, start):
    server.kill()
    process = start()
    err = process.communicate(timeout=ENDED_S)[1]
    assert process.returncode == 7
    assert len(err.splitlines()) == 1 and "cannot reach" in err
