"""Running the command: in this process with captured output, or as a real process."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

SCRIPT = Path(__file__).with_name("fake_dgq.py")


@dataclass(frozen=True)
class Done:
    """How a command ended. code: the exit code."""

    code: int
    out: str
    err: str

    @property
    def rows(self):
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture(scope="session")
def fakes():
    """The module fake_dgq.py."""
    spec = importlib.util.spec_from_file_location("fake_dgq", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def engine(fakes, monkeypatch):
    """The engine that commands in this process will load."""
    engine = fakes.FakeEngine()
    monkeypatch.setattr("dgq.worker.local.load_engine", lambda model_path, **options: engine)
    return engine


@pytest.fixture
def dgq(engine, tmp_path, monkeypatch, capfd):
    """Run a command line in this process, in an empty folder.

    Rows go to file descriptor 1 and messages to click's streams; both are in the Done.
    """
    monkeypatch.chdir(tmp_path)

    def run(*args, stdin=b""):
        from dgq.worker.cli import cli

        capfd.readouterr()
        result = CliRunner().invoke(cli, [str(arg) for arg in args], input=stdin)
        return Done(result.exit_code, result.stdout + capfd.readouterr().out, result.stderr)

    return run


@pytest.fixture
def dgq_process(tmp_path):
    """Start the command as a process of its own, in an empty folder."""
    started = []

    def start(*args, **options):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": tmp_path} | options
        command = [sys.executable, str(SCRIPT), *map(str, args)]
        process = subprocess.Popen(command, **options)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def jobs_file(tmp_path):
    """Write jobs.jsonl, one line for each job (bytes are taken as they are)."""

    def write(*jobs, name="jobs.jsonl"):
        lines = [job if isinstance(job, bytes) else json.dumps(job).encode() for job in jobs]
        (tmp_path / name).write_bytes(b"".join(line + b"\n" for line in lines))
        return tmp_path / name

    return write


def rewrite(job_id, text="The color.", instruction="Use British spelling."):
    """A rewrite job."""
    return {"id": job_id, "kind": "rewrite", "text": text, "instruction": instruction}


@pytest.fixture(name="rewrite")
def rewrite_fixture():
    """A function that makes rewrite jobs."""
    return rewrite
