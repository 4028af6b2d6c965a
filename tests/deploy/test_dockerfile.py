"""deploy/Dockerfile, read as Docker reads it; there is no Docker here to build it with."""

import fnmatch
import json
import os
import re
import subprocess
import sys
import tomllib
from itertools import pairwise

import pytest

from dgq.worker.doctor_machine import COMPILERS
from dgq.worker.fleet.metrics import WorkerMetrics
from tests.deploy.files import DEPLOY, ROOT, image_settings, manifest, mounts, services

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
IMAGES = ("control", "worker")


def stages():
    """Stage name to its instructions, pairs (keyword, rest), in their order."""
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    found, name = {"": []}, ""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        keyword, _, rest = line.partition(" ")
        if keyword == "FROM":
            name = rest.split(" AS ")[1]
            found[name] = []
        if keyword:
            found[name].append((keyword, rest))
    return found


def of(stage, keyword):
    """What the stage, or one that it is made from, says with a keyword; its own comes last."""
    found = []
    for key, rest in stages()[stage]:
        if key == "FROM" and rest.split()[0] in stages():
            found += of(rest.split()[0], keyword)
        if key == keyword:
            found.append(rest)
    return found


def ignored(path):
    """Whether .dockerignore keeps a path away: the last of its lines that matches decides."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if not line or line.startswith("#"):
            continue
        parts = [path, *path.parents]
        if any(fnmatch.fnmatchcase(str(part), pattern.removeprefix("**/")) for part in parts):
            verdict = not line.startswith("!")
    return verdict


def copied(stage):
    """The sources that a stage copies from the repository."""
    return [
        source
        for rest in of(stage, "COPY")
        if not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]


def test_what_is_copied_exists_and_is_sent():
    for stage in stages():
        for source in copied(stage):
            path = (ROOT / source).relative_to(ROOT)
            assert (ROOT / path).exists(), source
            assert not ignored(path), source


def test_nothing_else_is_sent():
    sent = {source.split("/")[0] for stage in stages() for source in copied(stage)}
    present = {path.name for path in ROOT.iterdir() if not ignored(path.relative_to(ROOT))}
    assert present == sent
    for secret in (".env", ".git", "deploy/server", ".venv"):
        assert ignored((ROOT / secret).relative_to(ROOT)), secret


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_all_that_its_package_needs(image):
    folders = {name.split(".")[1] for name in PROJECT["tool"]["setuptools"]["packages"]}
    needed = {"pyproject.toml", "constraints.txt", PROJECT["project"]["readme"], *folders}
    assert needed <= set(copied(f"{image}-build"))
    (origin,) = (rest for rest in of(image, "COPY") if rest.startswith("--from"))
    assert origin == f"--from={image}-build /opt/dgq /opt/dgq"


def test_what_is_installed_is_pinned():
    base = dict(rest.split("=") for rest in of("", "ARG"))
    assert re.fullmatch(r"3\.\d+\.\d+-slim-[a-z]+", base["PYTHON"])
    for stage, instructions in stages().items():
        for keyword, rest in instructions:
            if keyword == "FROM":
                assert rest.split()[0] in {"python:${PYTHON}", *stages()}, stage
            for command in re.findall(r"pip install [^&]*", rest):
                assert "--constraint constraints.txt" in command
    for line in (DEPLOY / "flower" / "requirements.txt").read_text().splitlines():
        assert re.fullmatch(r"[a-z]+==[\d.]+", line)


def test_a_layer_for_torch_comes_before_the_code():
    instructions = stages()["worker-build"]
    torch = instructions.index(("RUN", "pip install --constraint constraints.txt torch"))
    code = next(i for i, (key, rest) in enumerate(instructions) if rest.startswith("engine"))
    assert torch < code


def test_the_worker_can_compile_triton_s_launchers():
    """A C compiler with headers, and a folder to keep them in that is its user's and writable."""
    (install,) = (rest for rest in of("worker", "RUN") if "apt-get install" in rest)
    assert "--no-install-recommends gcc libc6-dev " in install
    assert "rm -rf /var/lib/apt/lists/*" in install
    assert set(COMPILERS) & set(install.split())
    folder = dict(word.split("=") for word in of("worker", "ENV")[-1].split())["TRITON_CACHE_DIR"]
    assert f"install --directory --owner 10001 --group 10001 {folder}" in install
    for name, service in services().items():
        if service.get("build", {}).get("target") == "worker":
            assert ("triton-cache", folder) in mounts(service), name
    (container,) = manifest("Deployment", "dgq-worker")["spec"]["template"]["spec"]["containers"]
    assert {"name": "triton-cache", "mountPath": folder} in container["volumeMounts"]
    assert not any("apt-get" in rest for rest in of("control", "RUN"))


@pytest.mark.parametrize("image", IMAGES)
def test_nobody_is_root(image):
    assert of(image, "USER") == ["10001:10001"]
    (created,) = (rest for rest in of(image, "RUN") if "useradd" in rest)
    assert "--uid 10001" in created
    order = [keyword for keyword, _ in stages()[image]]
    assert all(after != "COPY" for before, after in pairwise(order) if before == "USER")


@pytest.mark.parametrize("image", IMAGES)
def test_it_starts_a_command_that_gets_the_signals(image):
    assert json.loads(of(image, "ENTRYPOINT")[-1]) == ["dgq"]  # no shell in between
    assert json.loads(of(image, "CMD")[-1])[0] in ("worker", "scheduler")


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("alive", [True, False])
def test_the_health_check_asks_the_process(image, alive):
    (check,) = of(image, "HEALTHCHECK")
    program, *arguments = json.loads(check[check.index(" CMD ") + 5 :])
    assert program == "python"
    assert image_settings()["DGQ_METRICS_PORT"] == of(image, "EXPOSE")[-1]
    with WorkerMetrics(alive=lambda: alive).serve(0) as port:
        done = subprocess.run(
            [sys.executable, *arguments],
            env=dict(os.environ) | {"DGQ_METRICS_PORT": str(port)},
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode == 0) == alive
