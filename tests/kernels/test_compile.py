"""The kernels as a GPU would run them, compiled without one; run by a program of its own.

In this process kernels may be interpreted, and then there is nothing to compile.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = (  # one of each kernel, at the shapes that take the most
    "experts nf4 256 rows",
    "experts fp8 2048 rows",
    "linear 64 rows",
    "linear 256 rows",
    "head 512 rows",
    "self-conditioning 512 rows",
    "sliding attention 256 rows",
    "sliding attention 2048 rows",
    "full attention 256 rows",
    "norm",
    "rotary",
    "router",
)
SHARED_BYTES = {89: 99 * 1024, 90: 227 * 1024, 120: 99 * 1024}
MATRIX_KERNELS = {
    "gate_up_kernel",
    "down_kernel",
    "fp8_gate_up_kernel",
    "fp8_down_kernel",
    "nf4_linear_kernel",
    "tiles_kernel",
    "dense_kernel",
    "attention_kernel",
}
OTHER_KERNELS = {
    "add_choices_kernel",
    "add_parts_kernel",
    "combine_kernel",
    "count_kernel",
    "dequantize_kernel",
    "gather_kernel",
    "list_rows_kernel",
    "place_kernel",
    "quantize_rows_kernel",
    "rms_norm_kernel",
    "rotate_kernel",
    "route_kernel",
    "survivors_kernel",
}


def compiled(target):
    """A row of kernel_resources for each kernel."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "benchmarks.kernel_resources", "--json"]
    command += ["--target", str(target)]
    command += [word for case in CASES for word in ("--case", case)]
    output = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    ).stdout
    return json.loads(output.splitlines()[-1])


@pytest.mark.parametrize("target", SHARED_BYTES)
def test_every_kernel_fits_the_target(target):
    """One test for all that is checked: tests may be spread over processes, compiling is dear."""
    rows = compiled(target)
    assert {row["kernel"] for row in rows} == MATRIX_KERNELS | OTHER_KERNELS
    instruction = "wgmma" if target == 90 else "mma"  # on Hopper by warp groups
    for row in rows:
        assert row["spilled_bytes"] == 0, row
        assert row["shared_bytes"] <= SHARED_BYTES[target], row
        assert row["blocks"] >= 1, row
        assert (row[instruction] > 0) == (row["kernel"] in MATRIX_KERNELS), row
        assert row["e4m3"] == (row[instruction] if row["kernel"].startswith("fp8") else 0), row
    low, tall = (
        next(row["row_layouts"] for row in rows if row["case"] == f"sliding attention {size} rows")
        for size in (256, 2048)
    )
    assert low and low == tall  # so that a row's sums are the same ones in tiles of any height
