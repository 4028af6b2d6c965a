"""``dgq quantize`` as a user runs it, then ``dgq run`` with what it made."""

import subprocess
import sys

import pytest

from dgq.worker import exit_codes
from dgq.worker.host import SHIPPED_MODEL_PATH

FILL = '{"id": 1, "kind": "fill", "template": "Hi {{name}}", "record": {"name": "Ada"}}\n'


def dgq(*args):
    command = [sys.executable, "-m", "dgq.worker", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_quantize_and_run(tmp_path):
    target = tmp_path / "tiny-nf4"
    done = dgq("quantize", SHIPPED_MODEL_PATH, target, "--double-quantization")
    assert done.returncode == exit_codes.OK, done.stderr
    assert done.stdout == ""
    assert f"{target}: " in done.stderr
    assert "MB of weights, nf4" in done.stderr
    weights = sum(path.stat().st_size for path in target.glob("*.safetensors"))
    assert weights < 0.5 * (SHIPPED_MODEL_PATH / "model.safetensors").stat().st_size
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text(FILL)
    ran = dgq("run", jobs, "--model", target, "-q")
    assert ran.returncode == exit_codes.OK, ran.stderr
    assert '"output":"Hi Ada"' in ran.stdout.replace('": ', '":')
    again = dgq("quantize", target, tmp_path / "twice")
    assert again.returncode == exit_codes.CANNOT_RUN
    assert "is quantized already; give the unquantized checkpoint" in again.stderr
    over = dgq("quantize", SHIPPED_MODEL_PATH, target)
    assert "exists; give the name of a folder that is yet to be made" in over.stderr
    assert over.stderr.count("\n") == 1
    other = dgq("run", jobs, "--model", target, "--quantize", "nf4-experts")
    assert other.returncode == exit_codes.CANNOT_RUN
    assert "is quantized already, as nf4; load it as it is" in other.stderr


def test_quantize_to_fp8_and_run(tmp_path):
    target = tmp_path / "tiny-fp8"
    done = dgq("quantize", SHIPPED_MODEL_PATH, target, "--preset", "fp8-experts")
    assert done.returncode == exit_codes.OK, done.stderr
    assert "MB of weights, fp8-experts" in done.stderr
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text(FILL)
    ran = dgq("run", jobs, "--model", target, "-q")
    assert ran.returncode == exit_codes.OK, ran.stderr
    assert '"output":"Hi Ada"' in ran.stdout.replace('": ', '":')


def test_vram_says_what_it_chose_or_why_not(tmp_path):
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text(FILL)
    ran = dgq("run", jobs, "-q", "--quantize", "nf4", "--vram", "60MB")
    assert ran.returncode == exit_codes.OK, ran.stderr
    assert " of 60.0 MB: weights " in ran.stderr
    assert "tokens of context each" in ran.stderr
    small = dgq("run", jobs, "-q", "--vram", "5MB")
    assert small.returncode == exit_codes.CANNOT_RUN
    assert "5.0 MB is too little: weights " in small.stderr
    assert small.stderr.count("\n") == 1
    wrong = dgq("worker", "--vram", "lots")
    assert wrong.returncode == exit_codes.USAGE
    assert "'lots' is no size; write 18GB, 16GiB or 800MB" in wrong.stderr


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["no", "new"], exit_codes.CANNOT_RUN, "no is not a folder"),
        (
            [SHIPPED_MODEL_PATH, "new", "--preset", "int3"],
            exit_codes.USAGE,
            "'int3' is not one of 'fp8-experts', 'nf4-experts', 'nf4'",
        ),
        (
            [SHIPPED_MODEL_PATH, "new", "--preset", "fp8-experts", "--double-quantization"],
            exit_codes.CANNOT_RUN,
            "double quantization is for NF4; fp8-experts has one scale per row",
        ),
        ([SHIPPED_MODEL_PATH], exit_codes.USAGE, "Missing argument 'DST'"),
    ],
)
def test_refusals_are_one_line(tmp_path, monkeypatch, args, code, message):
    monkeypatch.chdir(tmp_path)
    done = dgq("quantize", *args)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())
