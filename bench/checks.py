"""Each kernel against its reference on this device: small odd sizes, then the real ones.

Where a kernel cannot run, on a CPU without Triton's interpreter, or an FP8 one on a GPU that does not
multiply such numbers, its reference is held against the plain formulation instead, and the row says so.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from .kernel_case import Inputs, KernelCase, judge
from .kernel_cases import real_cases, small_cases
from .section import Group, Measure, Row, Settings
from .tables import as_table


class ChecksSection:
    """One point for each case."""

    name = "checks"
    title = "Kernels against their references"

    def groups(self, settings: Settings) -> Sequence[Group]:
        """The real sizes are for a GPU."""
        kinds = ["small", "real"] if settings.on_gpu else ["small"]
        return [Group(kind, tuple(cases_of(settings, kind))) for kind in kinds]

    @contextmanager
    def open(self, settings: Settings, group: str) -> Iterator[Measure]:
        """A case's tensors live as long as its check."""
        cases = cases_of(settings, group)
        with torch.inference_mode():
            yield lambda point: check(cases[point], settings)

    def table(self, settings: Settings, rows: Sequence[Row]) -> str:
        """Errors, and what is wrong."""
        lines = [
            [
                row["kernel"],
                row["group"],
                row["point"],
                row["compared"],
                f"{row['worst_error']:.1e}",
                "ok" if row["ok"] else f"WRONG: {row['wrong']}",
            ]
            for row in rows
        ]
        heads = ["kernel", "sizes", "case", "compared", "worst error", "result"]
        return as_table(heads, lines)


def cases_of(settings: Settings, kind: str) -> dict[str, KernelCase]:
    """By name. The real sizes are those of the shape that is measured."""
    cases = small_cases() if kind == "small" else real_cases(settings.config)
    return {case.name: case for case in cases}


def check(case: KernelCase, settings: Settings) -> Row:
    """Compute it twice and compare."""
    runs_kernel = case.runs(settings)
    dtype = torch.bfloat16 if settings.on_gpu else torch.float32
    prepared = case.prepare(Inputs.on(settings.device, dtype))
    ours = prepared.kernel() if runs_kernel else prepared.reference()
    wanted = prepared.reference() if runs_kernel else prepared.plain()
    worst, wrong = judge(ours, wanted, dtype)
    return {
        "kernel": case.kernel,
        "compared": "kernel, reference" if runs_kernel else "reference, plain",
        "worst_error": worst,
        "ok": wrong is None,
        "wrong": wrong,
    }
