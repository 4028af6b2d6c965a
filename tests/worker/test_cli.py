"""Arguments, help, and every way in which a command can be refused: one line and an exit code."""

import os
import socket
import subprocess
import sys

import pytest

from dgq.worker import exit_codes

HEAVY = ["torch", "pydantic", "redis", "celery", "rich", "transformers", "numpy", "tokenizers"]


def python(code, **options):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize(
    "args", [["--help"], ["run", "--help"], ["submit", "--help"], ["--version"]]
)
def test_help_imports_nothing_heavy(args):
    done = python(
        "import sys\n"
        "from dgq.worker.cli import main\n"
        f"sys.argv = ['dgq', *{args}]\n"
        "try: main()\n"
        f"finally: print('heavy:', [name for name in {HEAVY} if name in sys.modules])\n"
    )
    assert done.returncode == exit_codes.OK
    assert "heavy: []" in done.stdout


def test_the_exit_codes_are_in_the_help():
    done = python("import sys; sys.argv = ['dgq', '--help']; import dgq.worker.__main__")
    for code in (
        exit_codes.OK,
        exit_codes.CANNOT_RUN,
        exit_codes.USAGE,
        exit_codes.FAILED_ROWS,
        exit_codes.INTERRUPTED,
    ):
        assert f"\n    {code} " in done.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run"], "dgq: Missing argument 'JOBS'. (see dgq run --help)"),
        (["run", "--nope", "x"], "dgq: No such option '--nope'."),
        (["nope"], "dgq: No such command 'nope'. (see dgq --help)"),
        (["run", "x", "--seed", "y"], "'y' is not a valid integer"),
        (["run", "x", "--max-attempts", "0"], "0 is not in the range"),
        (["completion"], "Choose from: bash, zsh, fish (see dgq completion --help)"),
    ],
)
def test_a_wrong_command_line_is_one_line(args, message):
    done = python(f"import sys; sys.argv = ['dgq', *{args}]; import dgq.worker.__main__")
    assert done.returncode == exit_codes.USAGE
    assert done.stdout == ""
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["missing.jsonl"], exit_codes.USAGE, "missing.jsonl does not exist"),
        (["folder"], exit_codes.USAGE, "folder is a folder, not a file of jobs"),
        (["empty"], exit_codes.USAGE, "no jobs in empty"),
        (["blank"], exit_codes.USAGE, "no jobs in blank"),
        (["-"], exit_codes.USAGE, "no jobs in standard input"),
        (["jobs", "-o", "jobs"], exit_codes.USAGE, "jobs holds the jobs"),
        (["jobs", "-o", "folder"], exit_codes.USAGE, "folder is a folder"),
        (["jobs", "-o", "no/out"], exit_codes.USAGE, "the folder no for the results does not"),
        (["jobs", "-o", "old"], exit_codes.USAGE, "old exists; add --resume"),
        (["jobs", "--resume"], exit_codes.USAGE, "--resume needs a file of results"),
        (["jobs", "-o", "old", "--resume"], exit_codes.CANNOT_RUN, "old line 1 is not a row"),
        (["jobs", "--model", "no"], exit_codes.CANNOT_RUN, "the model folder no does not exist"),
        (["jobs", "--model", "folder"], exit_codes.CANNOT_RUN, "folder is not a checkpoint"),
        (["jobs", "-o", "/dev/full"], exit_codes.CANNOT_RUN, "No space left on device"),
    ],
)
def test_what_cannot_run_is_one_line(dgq, tmp_path, jobs_file, rewrite, args, code, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "blank").write_text("\n  \n")
    (tmp_path / "old").write_text("precious\n")
    jobs_file(rewrite("a"), name="jobs")
    done = dgq("run", *args)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert (tmp_path / "old").read_text() == "precious\n"
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "empty", "blank", "old", "jobs"}


def test_unreadable_jobs_are_one_line(dgq):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("jobs.jsonl")
        done = dgq("run", "jobs.jsonl")
    assert (done.code, done.err) == (1, "dgq: cannot read jobs.jsonl: No such device or address\n")


def test_without_torch_one_line_says_what_to_install(tmp_path, jobs_file, rewrite):
    jobs_file(rewrite("a"))
    done = python(
        "import sys; sys.modules['torch'] = None; sys.argv = ['dgq', 'run', 'jobs.jsonl', '-q',"
        " '-o', 'out.jsonl']\nimport dgq.worker.__main__",
        cwd=tmp_path,
    )
    assert done.returncode == exit_codes.CANNOT_RUN
    assert (
        "torch is not installed, and the model needs it: pip install 'dgq[worker]'" in done.stderr
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_a_bad_setting_in_the_environment_is_one_line(tmp_path, jobs_file, rewrite):
    jobs_file(rewrite("a"))
    done = python(
        "import sys; sys.argv = ['dgq', 'run', 'jobs.jsonl']; import dgq.worker.__main__",
        cwd=tmp_path,
        env={**os.environ, "DGQ_PROGRESS_INTERVAL_S": "never"},
    )
    assert done.returncode == exit_codes.USAGE
    assert done.stderr == "dgq: DGQ_PROGRESS_INTERVAL_S must be a number above 0, not 'never'\n"
