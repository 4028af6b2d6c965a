"""``dgq up`` as a process: it serves, other commands find it, and Ctrl-C leaves nothing running."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from tests.worker.faults.fleet import wait_for
from tests.worker.servers import free_port

DGQ = [sys.executable, "-m", "dgq.worker"]


@pytest.fixture
def environment(tmp_path):
    given = {name: value for name, value in os.environ.items() if not name.startswith("DGQ_")}
    return given | {"DGQ_DATA_FOLDER": str(tmp_path / "data")}


class Up:
    """The process, and what it has said so far."""

    def __init__(self, environment, *options):
        self.said = ""
        self.process = subprocess.Popen(
            [*DGQ, "up", *options], env=environment, stderr=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.said += line

    def end(self, number):
        self.process.send_signal(number)
        code = self.process.wait(60)
        self._reader.join(60)
        self.process.stderr.close()
        return code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_ended(environment, tmp_path, number):
    (tmp_path / "jobs.jsonl").write_text(
        json.dumps({"id": "a", "kind": "fill", "template": "Dear {{x}}", "record": {"x": "Maria"}})
    )
    up = Up(environment)
    try:
        wait_for(lambda: "Ctrl-C ends all of it" in up.said)
        out = tmp_path / "out.jsonl"
        command = [*DGQ, "submit", tmp_path / "jobs.jsonl", "-o", out]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(out.read_text())["output"] == "Dear Maria"
    finally:
        code = up.end(number)
    assert code == 0, up.said
    assert "ending" in up.said
    done = subprocess.run(
        [*DGQ, "list"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0, "the server is still there"


def test_no_devices_is_a_fault_of_usage(environment):
    up = Up(environment, "--devices", ",")
    assert up.end(0) == 2
    assert "--devices names no device" in up.said


def test_an_unreachable_server_is_one_line(environment):
    up = Up(environment | {"DGQ_REDIS_URL": f"redis://127.0.0.1:{free_port()}"})
    assert up.end(0) == 7
    assert up.said.startswith("dgq: cannot reach the Redis server at")
    assert up.said.count("\n") == 1
