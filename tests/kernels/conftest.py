"""Runs the kernels in Triton's interpreter, on the CPU, unless TRITON_INTERPRET=0 says otherwise.

The variable counts when Triton and a kernel's module are first imported. Another test may have
imported them before; what it holds stays as it is, and the tests here import them anew.
"""

import os
import sys

os.environ.setdefault("TRITON_INTERPRET", "1")
for name in [name for name in sys.modules if name.startswith(("triton", "dgq.kernels"))]:
    del sys.modules[name]

import pytest  # noqa: E402  (after the variable is set)


@pytest.fixture
def device() -> str:
    """Where the kernels run: in the interpreter on the CPU, compiled on a GPU."""
    return "cpu" if os.environ["TRITON_INTERPRET"] == "1" else "cuda"
