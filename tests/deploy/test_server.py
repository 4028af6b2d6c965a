"""The server, started by the very command that compose.yaml and Kubernetes start it with."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
import yaml

from tests.deploy.files import DEPLOY, ROOT, manifest, mounts, services
from tests.worker.servers import binaries, free_port

EVERY_SERVER = pytest.mark.parametrize("binary", binaries())


def as_here(command, service):
    """The command with the container's folders replaced by those that are mounted there."""
    for source, target in mounts(service):
        if source.startswith("."):
            command = [part.replace(target, str(ROOT / source)) for part in command]
    return command


class Running:
    """The server as a process, in a folder that stands for its volume."""

    def __init__(self, folder, binary, service):
        self.folder, self.port, self.binary = folder, free_port(), binary
        programs = folder.parent / "bin"
        programs.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (programs / f"{binary}-server").symlink_to(binaries()[binary])
        self.command = as_here(service["command"], service)
        self.env = dict(service["environment"]) | {"PATH": f"{programs}:/usr/bin:/bin"}
        self.start()

    def start(self):
        extra = ["--port", str(self.port), "--bind", "127.0.0.1"]
        with (self.folder.parent / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, *extra], cwd=self.folder, env=self.env, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(redis.ConnectionError), self.client() as client:
                client.ping()
                return
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)

    def client(self, password="secret"):
        url = f"redis://127.0.0.1:{self.port}"  # from_url tries nothing twice
        return redis.Redis.from_url(url, password=password, decode_responses=True, protocol=2)

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


@pytest.fixture
def start(tmp_path):
    """Start the service of compose.yaml on an empty volume, by the name of a server program."""
    started = []

    def start(binary="valkey", service=None):
        (tmp_path / "data").mkdir()
        started.append(Running(tmp_path / "data", binary, service or services()["server"]))
        return started[-1]

    yield start
    for running in started:
        running.process.kill()
        running.process.wait()


@EVERY_SERVER
def test_it_has_the_settings_that_the_queue_needs(start, binary):
    running = start(binary)
    with running.client() as client:
        config = client.config_get("*")
    expected = {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory": str(2 * 2**30),
        "maxmemory-policy": "noeviction",
        "timeout": "0",
        "dir": str(running.folder),
    }
    assert expected.items() <= config.items()


@EVERY_SERVER
def test_it_wants_the_password(start, binary):
    running = start(binary)
    with running.client(password=None) as client, pytest.raises(redis.AuthenticationError):
        client.get("x")
    with running.client(password="wrong") as client, pytest.raises(redis.AuthenticationError):
        client.get("x")


def test_no_list_of_processes_shows_the_password(start):
    running = start()
    shown = Path(f"/proc/{running.process.pid}/cmdline")
    if not shown.exists():
        pytest.skip("this system shows no processes as files")
    assert b"valkey-server" in shown.read_bytes()
    assert b"secret" not in shown.read_bytes()


@EVERY_SERVER
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_what_it_was_told_survives_it(start, binary, number):
    running = start(binary)
    with running.client() as client:
        client.set("x", "1")
    time.sleep(1.2 if number == signal.SIGKILL else 0)  # everysec
    assert running.end(number) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    running.start()
    with running.client() as client:
        assert client.get("x") == "1"


@pytest.mark.parametrize("password", ["", 'a"b', "a b", "a\nrename-command FLUSHALL x", "ä"])
def test_a_password_that_would_break_the_configuration_is_refused(tmp_path, password):
    service = services()["server"]
    done = subprocess.run(
        as_here(service["command"], service),
        env={"DGQ_REDIS_PASSWORD": password, "PATH": os.environ["PATH"]},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("DGQ_REDIS_PASSWORD must be set, to letters, digits")
    assert done.stderr.count("\n") == 1


def test_the_health_check_tells_health(start, tmp_path):
    """The client program is a stand-in that takes its password from where the real one does."""
    running = start()
    kind, script = services()["server"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    stand_in = tmp_path / "bin" / "valkey-cli"
    stand_in.write_text(
        f"#!{sys.executable}\n"
        "import os, sys, redis\n"
        "assert sys.argv[1:] == ['ping']\n"
        "secret = os.environ['REDISCLI_AUTH']\n"
        f"client = redis.Redis.from_url('redis://127.0.0.1:{running.port}', password=secret)\n"
        "print('PONG' if client.ping() else 'what?')\n"
    )
    stand_in.chmod(0o755)

    def healthy(**env):
        env = running.env | env
        done = subprocess.run(
            ["sh", "-c", script], env=env, capture_output=True, timeout=60, check=False
        )
        return done.returncode == 0

    assert healthy()
    assert not healthy(DGQ_REDIS_PASSWORD="wrong")
    running.end()
    assert not healthy()


def test_kubernetes_starts_it_in_the_same_way():
    (container,) = manifest("StatefulSet", "dgq-server")["spec"]["template"]["spec"]["containers"]
    compose = services()["server"]
    assert container["command"] == compose["command"]
    assert container["image"] == compose["image"]
    assert container["workingDir"] == compose["working_dir"]
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert {"/data", "/etc/dgq"} <= mounted.keys()
    generated = yaml.safe_load((DEPLOY / "server" / "kustomization.yaml").read_text())
    (config,) = generated["configMapGenerator"]
    assert set(config["files"]) == {"server.conf", "start.sh"}
    for probe in ("startupProbe", "readinessProbe"):
        script = container[probe]["exec"]["command"][-1]
        assert script == compose["healthcheck"]["test"][-1]
