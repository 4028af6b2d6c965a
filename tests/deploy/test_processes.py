"""What compose.yaml starts, as processes: the same commands with the same settings, and real jobs."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dgq.worker import exit_codes
from tests.deploy.files import ROOT, image_settings, seconds, services
from tests.deploy.test_server import start  # noqa: F401 - a fixture
from tests.worker.servers import free_port

JOBS = ROOT / "examples" / "jobs.jsonl"
READY_S = 180.0


def read(path):
    """The objects of a file with one on each line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


class Started:
    """A service with an image of ours, as a process. port: where it tells of itself."""

    def __init__(self, name, server, folder):
        self.service = services()[name]
        self.port = free_port()
        inherited = ("PATH", "OMP_NUM_THREADS")
        self.env = {name: os.environ[name] for name in inherited} | {"HOME": str(folder)}
        self.env |= image_settings() | self.service["environment"]
        self.env["DGQ_METRICS_PORT"] = str(self.port)
        self.env["DGQ_REDIS_URL"] = self.env["DGQ_REDIS_URL"].replace(
            "server:6379", f"127.0.0.1:{server.port}"
        )
        self.folder = folder
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command(*self.service["command"]),
                env=self.env,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def command(self, *arguments):
        return [sys.executable, "-m", "dgq.worker", *arguments]

    def get(self, path):
        """(status, text); status 0 while nobody answers."""
        try:
            url = f"http://127.0.0.1:{self.port}{path}"
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, ""
        except OSError:
            return 0, ""

    def wait_until_healthy(self):
        deadline = time.monotonic() + READY_S
        while self.get("/healthz")[0] != 200:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        return self

    def sample(self, name, **labels):
        """The value of a sample, None if there is no such one."""
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                if (sample.name, sample.labels) == (name, labels):
                    return sample.value
        return None

    def wait_for(self, value, name, **labels):
        deadline = time.monotonic() + READY_S
        while (found := self.sample(name, **labels)) != value:
            assert time.monotonic() < deadline, (found, self.log.read_text())
            time.sleep(0.05)

    def stop(self):
        """As Docker does; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=seconds(self.service["stop_grace_period"]))


@pytest.fixture
def run(start, tmp_path):  # noqa: F811
    """Start services of compose.yaml; the server is up already."""
    server = start()
    started = []

    def run(name):
        started.append(Started(name, server, tmp_path))
        return started[-1]

    yield run
    for one in started:
        one.process.kill()
        one.process.wait()


def test_jobs_go_through(run):
    worker = run("worker-cpu").wait_until_healthy()
    done = subprocess.run(
        worker.command("submit", JOBS, "-o", "results.jsonl"),
        env=worker.env,
        cwd=worker.folder,
        capture_output=True,
        text=True,
        timeout=READY_S,
        check=False,
    )
    assert done.returncode in (exit_codes.OK, exit_codes.FAILED_ROWS), done.stderr
    jobs, rows = read(JOBS), read(worker.folder / "results.jsonl")
    assert sorted(row["id"] for row in rows) == sorted(job["id"] for job in jobs)
    num_ok = sum(row["status"] == "ok" for row in rows)
    worker.wait_for(num_ok, "dgq_jobs_committed_total", status="ok")
    worker.wait_for(0, "dgq_backlog_jobs", label="default")
    worker.wait_for(0, "dgq_shards_held")
    assert worker.sample("dgq_tokens_total") == sum(row["stats"]["tokens"] for row in rows)
    canvases = sum(row["stats"]["canvases"] for row in rows)
    assert worker.sample("dgq_steps_per_canvas_count") == canvases
    assert worker.sample("dgq_row_budget") > 0
    assert worker.stop() == exit_codes.OK
    assert "Traceback" not in worker.log.read_text()


def test_the_scheduler_tells_of_the_queue_with_and_without_a_worker(run):
    scheduler = run("scheduler").wait_until_healthy()
    assert scheduler.sample("dgq_backlog_jobs", label="default") == 0
    assert scheduler.sample("dgq_workers", label="default") == 0
    assert 0 < scheduler.sample("dgq_server_memory_ratio") < 1
    worker = run("worker-cpu").wait_until_healthy()
    scheduler.wait_for(1, "dgq_workers", label="default")
    assert worker.stop() == exit_codes.OK
    scheduler.wait_for(0, "dgq_workers", label="default")
    assert scheduler.stop() == exit_codes.OK
    assert "Traceback" not in scheduler.log.read_text()
