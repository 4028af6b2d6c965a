"""The README's first command, in a clean copy of the repository, gives the right answers."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def clean_copy(tmp_path_factory):
    """Every file that git tracks or would track, as a fresh clone has it."""
    folder = tmp_path_factory.mktemp("clone") / "dgq"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        source, target = ROOT / name, folder / name
        if name and source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A new virtual environment that sees the packages of this one, so that torch need not be
    downloaded again; dgq itself is installed into it by the command under test."""
    folder = tmp_path_factory.mktemp("venv") / "venv"
    venv.create(folder, with_pip=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    here = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "packages_of_the_tests.pth").write_text(here + "\n")
    return folder


def test_make_demo_gives_the_right_answers(clean_copy, environment):
    not_a_users = ("MAKE", "OMP_NUM_THREADS")
    done = subprocess.run(
        ["make", "demo", f"VENV={environment}"],
        cwd=clean_copy,
        check=False,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith(not_a_users)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["id"]: row for row in read_lines(clean_copy / "results.jsonl")}
    expected = {
        row["id"]: row["output"] for row in read_lines(clean_copy / "examples/expected.jsonl")
    }
    assert {name: row["output"] for name, row in rows.items()} == expected
    assert all(row["status"] == "ok" for row in rows.values())
    assert rows["python-1"]["stats"]["model"] == "dgq-tiny"
    assert f"results: {clean_copy}" in done.stdout or "results.jsonl" in done.stdout
    assert f"{len(expected)} ok, 0 invalid_output, 0 error" in done.stderr


def read_lines(path: Path):
    return [json.loads(line) for line in path.read_text().splitlines()]
