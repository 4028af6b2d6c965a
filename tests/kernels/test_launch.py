import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dgq.kernels.errors import KernelError
from dgq.kernels.launch import check_inputs, has_large_tiles, largest_divisor

MODULES = sorted(path.stem for path in (Path(__file__).parents[2] / "kernels").glob("*.py"))

WITHOUT_TRITON = f"""
import importlib, sys
sys.modules["triton"] = None  # so that importing it fails
for name in {MODULES}:
    importlib.import_module("dgq.kernels." + name)
import torch
from dgq.kernels.errors import KernelError
from dgq.kernels.rms_norm import rms_norm, rms_norm_reference
assert torch.equal(rms_norm_reference(torch.ones(2, 4), None, 0.0), torch.ones(2, 4))
try:
    rms_norm(torch.ones(2, 4), None, 0.0)
except KernelError as error:
    print(error)
"""


def test_references_work_where_triton_is_missing():
    output = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRITON], capture_output=True, text=True, check=True
    ).stdout
    assert output == "rms_norm: Triton is not installed; use the torch kernels\n"


def test_inputs_are_contiguous_and_on_one_device():
    tensor = torch.zeros(2, 3)
    check_inputs("op", tensor, tensor)
    with pytest.raises(KernelError, match="op: a tensor is not contiguous"):
        check_inputs("op", tensor, tensor.T)
    with pytest.raises(KernelError, match=r"op: tensors on \['cpu', 'meta'\]"):
        check_inputs("op", tensor, tensor.to("meta"))


def test_the_largest_divisor():
    assert largest_divisor("op", 96, 64, 32, 16) == 32
    with pytest.raises(KernelError, match="op: a size of 40; it serves multiples of 16"):
        largest_divisor("op", 40, 64, 32, 16)


def test_the_cpu_has_small_tiles():
    assert not has_large_tiles(torch.zeros(1))
