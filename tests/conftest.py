"""What all tests share: one thread for torch, Triton's interpreter, and the sources' size at the end."""

import os
import signal
from pathlib import Path

import pytest

# Kernels are tested without a GPU. It counts when Triton is first imported, by whichever test.
os.environ.setdefault("TRITON_INTERPRET", "1")

# A suite that a script starts in its background has Ctrl-C ignored, and so would the processes that it
# starts; a handler of one's own is not inherited, and they have the default.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]
FOLDERS = ("kernels", "engine", "pipelines", "bench", "worker")

# Read when torch is imported, here and in the processes that tests start. The models of the tests
# are so small that threads only wait for each other; on a busy machine they do so for minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def exact_fp8_casts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Casts from fp32 to e4m3 by torch: those of Triton's interpreter lose carries and subnormals.

    Casts back and products of e4m3 numbers are exact there.
    """
    import numpy
    import torch
    import triton.language as tl
    from triton.runtime import interpreter

    theirs = interpreter._convert_float

    def convert(values, input_dtype, output_dtype, rounding_mode):
        if (input_dtype, output_dtype) != (tl.float32, tl.float8e4nv):
            return theirs(values, input_dtype, output_dtype, rounding_mode)
        floats = torch.from_numpy(numpy.ascontiguousarray(values).view(numpy.float32))
        return floats.to(torch.float8_e4m3fn).view(torch.uint8).numpy()

    monkeypatch.setattr(interpreter, "_convert_float", convert)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print lines per folder and the longest files: a budget that everyone sees."""
    sizes = {
        path: len(path.read_text().splitlines())
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
    }
    per_folder = {
        folder: sum(lines for path, lines in sizes.items() if path.is_relative_to(ROOT / folder))
        for folder in FOLDERS
    }
    longest = sorted(sizes, key=lambda path: -sizes[path])[:5]
    terminalreporter.write_line(
        "lines: "
        + ", ".join(f"{folder} {lines}" for folder, lines in per_folder.items() if lines)
        + "; longest: "
        + ", ".join(f"{path.relative_to(ROOT)} {sizes[path]}" for path in longest)
    )
