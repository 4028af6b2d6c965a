"""Where the kernels run: interpreted on the CPU, or with TRITON_INTERPRET=0 compiled on a GPU."""

import os

import pytest


@pytest.fixture
def device() -> str:
    """The device of the tensors that a kernel is given."""
    return "cpu" if os.environ["TRITON_INTERPRET"] == "1" else "cuda"
