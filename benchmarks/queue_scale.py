"""How much the queue carries: submit, work, collect, with stub workers instead of a model.

    python -m benchmarks.queue_scale --jobs 1000000 --workers 1
    python -m benchmarks.queue_scale --jobs 50000 --workers 1 2 4 8 16 32

Every part is the real command in a process of its own, on a private server with AOF. Prints a line
for each number of workers and, last, one JSON document.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import redis

from dgq.worker.private_server import private_server
from dgq.worker.settings import load_settings

DGQ = [sys.executable, "-m", "dgq.worker"]


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run. Rates are jobs per second, memory is in bytes. commands: what the server carried
    out while the workers worked, those inside scripts too; scripts: round trips that ran one."""

    jobs: int
    workers: int
    submit_rate: float
    submit_peak_bytes: int
    server_bytes_per_waiting_job: float
    work_rate: float
    worker_peak_bytes: int
    server_bytes_per_finished_job: float
    commands_per_job: float
    scripts_per_job: float
    collect_rate: float
    collect_peak_bytes: int


def write_jobs(path: Path, count: int, characters: int = 1_000) -> None:
    """A file of rewrite jobs with texts of random words."""
    rng = random.Random(0)
    words = [
        "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9)))
        for _ in range(5_000)
    ]
    with path.open("w") as file:
        for number in range(count):
            text = " ".join(rng.choices(words, k=characters // 6))[:characters]
            job = {
                "id": f"job-{number}",
                "kind": "rewrite",
                "text": text,
                "instruction": "Tidy up.",
            }
            file.write(json.dumps(job) + "\n")


def measured(command: list[str], env: dict[str, str]) -> tuple[str, float, int]:
    """Standard output, seconds and peak bytes of a command that must succeed."""
    started = time.perf_counter()
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)} failed")
    return output, time.perf_counter() - started, usage.ru_maxrss * 1024


@contextmanager
def workers(count: int, env: dict[str, str], peaks: list[int]) -> Iterator[None]:
    """Stub workers that listen; their peak bytes are appended at the end."""
    command = [*DGQ, "worker", "--stub"]
    processes = [
        subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) for _ in range(count)
    ]
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        peaks += [os.wait4(process.pid, 0)[2].ru_maxrss * 1024 for process in processes]


def used_memory(server: "redis.Redis") -> int:
    """Bytes of data in the server."""
    memory: Any = server.info("memory")
    return int(memory["used_memory"])


def calls(server: "redis.Redis") -> tuple[int, int]:
    """Commands that the server has carried out, and scripts."""
    stats: Any = server.info("commandstats")
    total = sum(stat["calls"] for stat in stats.values())
    return total, stats.get("cmdstat_evalsha", {"calls": 0})["calls"]


def run(jobs: Path, num_jobs: int, num_workers: int, folder: Path) -> Figures:
    """One run on a server of its own."""
    settings = load_settings(data_folder=folder / f"data-{num_workers}")
    with private_server(settings) as running:
        server = redis.Redis.from_url(running.url)
        env = os.environ | {"DGQ_REDIS_URL": running.url, "DGQ_DATA_FOLDER": str(folder)}
        empty_bytes = used_memory(server)
        output, submit_s, submit_peak = measured([*DGQ, "submit", str(jobs), "--quiet"], env)
        batch = output.strip()
        waiting_bytes = used_memory(server) - empty_bytes
        peaks: list[int] = []
        measured([*DGQ, "pause", batch], env)  # until all workers are there
        with workers(num_workers, env, peaks):
            while server.zcard("dgq:v1:workers") < num_workers:
                time.sleep(0.05)
            before = calls(server)
            measured([*DGQ, "resume", batch], env)
            work_s = _wait(server, batch, num_jobs)
        after = calls(server)
        finished_bytes = used_memory(server) - empty_bytes
        rows = folder / f"rows-{num_workers}.jsonl"
        _, collect_s, collect_peak = measured(
            [*DGQ, "results", batch, "-o", str(rows), "--quiet"], env
        )
        measured([*DGQ, "verify", str(jobs), str(rows)], env)
        return Figures(
            jobs=num_jobs,
            workers=num_workers,
            submit_rate=num_jobs / submit_s,
            submit_peak_bytes=submit_peak,
            server_bytes_per_waiting_job=waiting_bytes / num_jobs,
            work_rate=num_jobs / work_s,
            worker_peak_bytes=max(peaks),
            server_bytes_per_finished_job=finished_bytes / num_jobs,
            commands_per_job=(after[0] - before[0]) / num_jobs,
            scripts_per_job=(after[1] - before[1]) / num_jobs,
            collect_rate=num_jobs / collect_s,
            collect_peak_bytes=collect_peak,
        )


def _wait(server: "redis.Redis", batch: str, num_jobs: int) -> float:
    """Seconds from the first row to the last: the start of the processes is not the queue's."""
    key, started = f"dgq:v1:b:{batch}", None
    while True:
        done: Any = server.hget(key, "num_done")
        if started is None and int(done) > 0:
            started = time.perf_counter()
        if int(done) >= num_jobs:
            return time.perf_counter() - (started or 0.0)
        time.sleep(0.02)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    arguments = parser.parse_args()
    figures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_jobs(folder / "jobs.jsonl", arguments.jobs)
        for num_workers in arguments.workers:
            one = run(folder / "jobs.jsonl", arguments.jobs, num_workers, folder)
            figures.append(one)
            print(
                f"{num_workers} workers: submit {one.submit_rate:,.0f}/s, work "
                f"{one.work_rate:,.0f}/s, collect {one.collect_rate:,.0f}/s, "
                f"{one.scripts_per_job:.3f} scripts and {one.commands_per_job:.2f} commands per job",
                flush=True,
            )
    print(json.dumps([asdict(one) for one in figures]))


if __name__ == "__main__":
    main()
