"""What ``dgq doctor`` says of servers, workers and machines in good and in bad order."""

import json
import shutil
import time
from importlib.metadata import version

import pytest
from click.testing import CliRunner

from dgq.worker import doctor, doctor_machine, doctor_server
from dgq.worker.commands.doctor_command import doctor as command
from dgq.worker.finding import Finding
from dgq.worker.host import SHIPPED_MODEL_PATH
from dgq.worker.ledger.connection import connect
from dgq.worker.ledger.ledger import Ledger
from dgq.worker.settings import Settings
from tests.worker.servers import RealServer, binaries, free_port

GOOD = {"appendonly": "yes", "maxmemory": "100mb", "maxmemory_policy": "noeviction"}
WITHOUT_A_GPU = "dgq.worker.doctor_machine._gpu"


def findings(settings):
    """What there is to say of the server, by name."""
    with connect(settings) as client:
        found = list(doctor_server.examine_server(client, settings, private=False))
    for finding in found:  # what the server refuses says itself what to do
        assert finding.level in ("ok", "unknown") or finding.mend or finding.name == "writing"
    return {finding.name: finding for finding in found}


def machine(settings):
    return {finding.name: finding for finding in doctor_machine.examine_machine(settings)}


def levels(found):
    return {name: finding.level for name, finding in found.items()}


@pytest.mark.parametrize("binary", binaries())
def test_a_good_server(tmp_path, binary):
    with RealServer(tmp_path, binary=binary, **GOOD) as server:
        found = findings(Settings(redis_url=server.url))
    assert levels(found) == dict.fromkeys(found, "ok") | {"workers": "warning"}
    assert str(server.port) in found["server"].what
    assert binary in found["server"].what.lower()
    assert "everysec" in found["persistence"].what
    assert "dgq worker" in found["workers"].mend


@pytest.mark.parametrize(
    ("config", "name", "level", "words"),
    [
        ({"appendonly": "no", "save": "3600 1"}, "persistence", "warning", "last snapshot"),
        ({"appendonly": "no", "save": '""'}, "persistence", "problem", "every batch"),
        ({"appendfsync": "no"}, "persistence", "warning", "appendfsync no"),
        ({"maxmemory_policy": "allkeys-lru"}, "eviction", "problem", "allkeys-lru"),
        ({"maxmemory_policy": "volatile-ttl", "maxmemory": 0}, "eviction", "warning", "ttl"),
        ({"maxmemory": 0}, "memory", "warning", "no limit"),
        ({"maxmemory": "900kb"}, "memory", "problem", "submitting waits"),
        ({"maxmemory": "900kb"}, "writing", "problem", "is full"),
        ({"timeout": 5}, "timeout", "warning", "after 5 s"),
        ({"replicaof": "127.0.0.1 1"}, "server", "problem", "a replica"),
        ({"replicaof": "127.0.0.1 1"}, "writing", "problem", "read-only replica"),
    ],
)
def test_a_server_in_bad_order(tmp_path, config, name, level, words):
    with RealServer(tmp_path, **GOOD | config) as server:
        found = findings(Settings(redis_url=server.url))
    assert found[name].level == level and words in found[name].what


def test_a_disk_that_fails(tmp_path):
    with RealServer(tmp_path / "data", **GOOD) as server:
        client = server.client()
        shutil.rmtree(tmp_path / "data")
        client.bgsave()
        deadline = time.monotonic() + 20
        while client.info("persistence")["rdb_last_bgsave_status"] != "err":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        found = findings(Settings(redis_url=server.url))
    assert found["persistence"].level == "problem" and "RDB" in found["persistence"].what


def test_what_the_server_does_not_tell_is_unknown(tmp_path):
    users = ["bob on >pw ~* +@all -config -info"]
    with RealServer(tmp_path, users=users, username="bob", password="pw", **GOOD) as server:
        found = findings(Settings(redis_url=server.url))
    unknown = {name for name, level in levels(found).items() if level == "unknown"}
    assert unknown == {"server", "persistence", "eviction", "memory", "timeout"}


def test_without_config_alone_most_is_known(tmp_path):
    users = ["bob on >pw ~* +@all -config"]
    with RealServer(tmp_path, users=users, username="bob", password="pw", **GOOD) as server:
        found = findings(Settings(redis_url=server.url))
    assert levels(found)["timeout"] == "unknown"
    assert levels(found)["persistence"] == levels(found)["memory"] == "ok"


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Settings of a server with 12 jobs for the label "big", and a function that adds a worker."""
    monkeypatch.setattr(Ledger, "labels", lambda self: ["default", "big"])
    monkeypatch.setattr(Ledger, "backlog", lambda self, label: 12 if label == "big" else 0)
    with RealServer(tmp_path, **GOOD) as server:
        settings = Settings(redis_url=server.url)

        def add_worker(**fields):
            described = {"labels": "default", "version": version("dgq")} | fields
            with connect(settings) as client:
                Ledger(client).heartbeat("one", described, ttl_s=60)

        server.client().rpush("dgq:dgq.v1.default", "ticket")
        yield settings, add_worker


def test_workers_that_serve_what_there_is(served):
    settings, add_worker = served
    add_worker(labels="default,big")
    found = findings(settings)["workers"]
    assert found == Finding("workers", "ok", "1 alive, 12 jobs to do, 1 Celery tickets")


def test_work_that_nobody_serves(served):
    settings, add_worker = served
    found = findings(settings)["workers"]
    assert found.level == "problem" and "nobody serves big" in found.what
    assert "--serve big" in found.mend
    add_worker()
    assert findings(settings)["workers"].level == "warning"


def test_workers_of_another_version(served):
    settings, add_worker = served
    add_worker(version="9.9", labels="big")
    found = findings(settings)["workers"]
    assert found.level == "warning" and "version 9.9" in found.what


def test_a_server_that_dies_meanwhile(tmp_path):
    with RealServer(tmp_path) as server:
        settings = Settings(redis_url=server.url, data_folder=tmp_path)
        given = doctor.examine(settings)
        assert next(given).level == "ok"
        server.kill()
        found = [next(given)]
        while found[-1].level == "ok":
            found.append(next(given))
        given.close()
    assert found[-1].name == "server" and "cannot reach" in found[-1].what


def test_a_broker_of_its_own(tmp_path):
    with RealServer(tmp_path) as server:
        settings = Settings(redis_url="redis://h", broker_url=server.url)
        assert doctor_server.examine_broker(settings).level == "ok"
    found = doctor_server.examine_broker(settings)
    assert found.level == "problem" and "cannot be reached" in found.what


def test_this_machine_is_fine(tmp_path):
    found = machine(Settings(data_folder=tmp_path / "not" / "yet"))
    assert {found[name].level for name in ("packages", "model", "disk")} == {"ok"}
    assert "torch 2" in found["packages"].what and "dgq-tiny" in found["model"].what
    assert not (tmp_path / "not").exists()


def test_a_machine_that_only_submits(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = machine(Settings(data_folder=tmp_path))
    assert found["packages"].level == "warning" and "torch" in found["packages"].what
    assert found["packages"].mend == "pip install 'dgq[worker]'"
    assert found["gpu"].level == "unknown"


def test_gpus(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    settings = Settings(data_folder=tmp_path)
    monkeypatch.setattr(doctor_machine, "_has_nvidia_device", lambda: False)
    monkeypatch.setattr(doctor_machine, "_find_gpus", lambda: ["NVIDIA H200 (140 GiB)"])
    assert machine(settings)["gpu"] == Finding("gpu", "ok", "NVIDIA H200 (140 GiB)")
    monkeypatch.setattr(doctor_machine, "_find_gpus", list)
    assert machine(settings)["gpu"].level == "ok"
    large = settings.model_copy(update={"model_path": SHIPPED_MODEL_PATH})
    assert machine(large)["gpu"].level == "warning"
    monkeypatch.setattr(doctor_machine, "_has_nvidia_device", lambda: True)
    assert "install a torch" in machine(settings)["gpu"].mend

    def fail():
        raise RuntimeError("the driver is too old")

    monkeypatch.setattr(doctor_machine, "_find_gpus", fail)
    assert machine(settings)["gpu"].level == "problem"


@pytest.mark.parametrize(
    ("kernels", "has_gpu", "missing", "level", "words"),
    [
        ("auto", False, None, "ok", "torch;"),
        ("triton", False, None, "problem", "no NVIDIA GPU"),
        ("torch", True, None, "ok", "torch, as the setting"),
        ("float32", True, None, "ok", "torch; Triton's are for bfloat16"),
        ("auto", True, None, "ok", f"triton {version('triton')}"),
        ("auto", True, "triton", "warning", "torch computes on the GPU"),
        ("triton", True, "triton", "problem", "not installed"),
        ("auto", True, "compiler", "problem", "neither gcc nor clang"),
    ],
)
def test_kernels(tmp_path, monkeypatch, kernels, has_gpu, missing, level, words):
    compilers = [] if missing == "compiler" else ["clang"]
    monkeypatch.setattr(doctor_machine, "_has_nvidia_device", lambda: has_gpu)
    monkeypatch.setattr("shutil.which", lambda name: name if name in compilers else None)
    if missing == "triton":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    given = {"dtype": kernels} if kernels == "float32" else {"kernels": kernels}
    found = machine(Settings(data_folder=tmp_path, **given))["kernels"]
    assert found.level == level and words in found.what
    assert (found.mend is None) == (level == "ok")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: shutil.rmtree(folder), "does not exist"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "lacks tokenizer.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "lacks model.safetensors"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(doctor_machine.POINTER),
            "pointer of Git LFS",
        ),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})
            ),
            "lacks 1.safetensors, 2.safetensors",
        ),
    ],
)
def test_a_model_that_is_not_whole(tmp_path, spoil, words):
    folder = shutil.copytree(SHIPPED_MODEL_PATH, tmp_path / "model")
    settings = Settings(data_folder=tmp_path, model_path=folder)
    assert machine(settings)["model"].level == "ok"
    spoil(folder)
    found = machine(settings)["model"]
    assert found.level == "problem" and words in found.what and found.mend


def test_a_disk_that_is_full_or_closed(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    closed = Settings(data_folder=tmp_path / "file" / "data")
    assert machine(closed)["disk"].level == "problem"
    needless = closed.model_copy(update={"redis_url": "redis://elsewhere"})
    assert machine(needless)["disk"].level == "warning"
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 2**40, 2**20)
    )
    assert machine(Settings(data_folder=tmp_path))["disk"].level == "problem"


def test_a_misspelt_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("DGQ_REDIS_ULR", "redis://h")
    assert "DGQ_REDIS_URL" in machine(Settings(data_folder=tmp_path))["settings"].mend


def run(*args):
    return CliRunner().invoke(command, args)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """The command, without torch, and with a data folder of its own."""
    monkeypatch.setattr(WITHOUT_A_GPU, lambda settings: Finding("gpu", "ok", "none"))
    monkeypatch.setenv("DGQ_DATA_FOLDER", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


def test_the_command_without_a_server_of_ours(quick, tmp_path):
    done = run()
    assert done.exit_code == 0, done.output
    assert "the private one" in done.stdout and "warning" not in done.stdout
    assert not (tmp_path / "data" / "server" / "server.sock").exists()  # stopped again


def test_the_command_with_a_server_that_is_away(quick, monkeypatch):
    monkeypatch.setenv("DGQ_REDIS_URL", f"redis://:secret@127.0.0.1:{free_port()}")
    done = run("--json")
    assert done.exit_code == 7
    found = json.loads(done.stdout)
    assert not found["ok"] and found["findings"][0]["level"] == "problem"
    assert {"model", "disk"} <= {finding["name"] for finding in found["findings"]}
    assert "secret" not in done.output


def test_the_command_with_a_problem(quick, monkeypatch, tmp_path):
    with RealServer(tmp_path / "redis", appendonly="no", save='""') as server:
        monkeypatch.setenv("DGQ_REDIS_URL", server.url)
        done = run()
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    (problem,) = [number for number, line in enumerate(lines) if line.startswith("problem")]
    assert "-> CONFIG SET appendonly yes" in lines[problem + 1]
