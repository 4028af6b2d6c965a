"""``dgq completion``: scripts that the shells take, and that complete."""

import os
import shutil
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from dgq.worker import exit_codes
from dgq.worker.commands.completion_command import completion

SHELLS = ["bash", "zsh", "fish"]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_on_stdout_and_the_hint_on_stderr(shell):
    done = CliRunner().invoke(completion, [shell])
    assert done.exit_code == exit_codes.OK
    assert f"_DGQ_COMPLETE={shell}_complete" in done.stdout
    assert done.stderr.startswith("dgq: to install it, save it as ")
    assert done.stderr.count("\n") == 1


def test_another_shell_is_refused():
    done = CliRunner().invoke(completion, ["csh"])
    assert done.exit_code == exit_codes.USAGE
    assert "'csh' is not one of 'bash', 'zsh', 'fish'" in done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_can_read_the_script(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    script = tmp_path / "script"
    script.write_text(CliRunner().invoke(completion, [shell]).stdout)
    subprocess.run([shell, "-n", script], check=True)


def test_bash_completes_the_command_line(tmp_path):
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    program = tmp_path / "dgq"
    program.write_text(f"#!{sys.executable}\nfrom dgq.worker.cli import main\nmain()\n")
    program.chmod(0o755)
    script = CliRunner().invoke(completion, ["bash"]).stdout
    asking = "COMP_WORDS=(dgq run --over); COMP_CWORD=2; _dgq_completion dgq; echo ${COMPREPLY[*]}"
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\n{asking}"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert (done.stdout, done.stderr) == ("--overwrite\n", "")


def test_it_works_inside_a_group():
    group = click.Group("dgq", commands={"completion": completion})
    assert "_DGQ_COMPLETE" in CliRunner().invoke(group, ["completion", "zsh"]).stdout
