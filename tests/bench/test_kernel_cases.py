"""Every kernel, its reference and its plain formulation agree; and a wrong kernel is seen to be wrong."""

import re
from dataclasses import replace

import pytest
import torch

from dgq.bench.checks import check
from dgq.bench.kernel_case import Inputs, KernelCase, Prepared, judge
from dgq.bench.kernel_cases import real_cases, small_cases
from dgq.bench.section import Settings
from dgq.bench.work import Work
from dgq.kernels.launch import HAS_TRITON

SETTINGS = Settings("cpu", "micro", "float32", ("nf4",), (1,), 16, 32)
CASES = {case.name: case for case in small_cases()}


PLAIN_CASES = [name for name, case in CASES.items() if not case.is_fp8]
FP8_CASES = [name for name, case in CASES.items() if case.is_fp8]


@pytest.mark.parametrize("name", PLAIN_CASES)
def test_three_ways_to_the_same(name):
    """Here the kernels run in Triton's interpreter."""
    prepared = CASES[name].prepare(Inputs.on("cpu", torch.float32))
    with torch.inference_mode():
        wanted = prepared.plain()
        for compute in (prepared.reference, *([prepared.kernel] if HAS_TRITON else [])):
            worst, wrong = judge(compute(), wanted, torch.float32)
            assert wrong is None
            assert worst < 1e-3
    assert prepared.work.num_bytes > 0


@pytest.mark.usefixtures("exact_fp8_casts")
@pytest.mark.parametrize("name", FP8_CASES)
def test_three_ways_to_the_same_in_fp8(name):
    """But for elements just between two numbers of the format, which are off by a sixteenth."""
    prepared = CASES[name].prepare(Inputs.on("cpu", torch.float32))
    wanted = prepared.plain()
    for compute in (prepared.reference, *([prepared.kernel] if HAS_TRITON else [])):
        worst, wrong = judge(compute(), wanted, torch.float32)
        assert wrong is None or worst < 0.05
        assert judge(compute(), wanted, torch.bfloat16)[1] is None
    work = prepared.work
    assert work.fp8_operations == work.operations > 0


@pytest.mark.parametrize(
    ("device", "capability", "compared"),
    [
        ("cpu", None, "reference, plain"),
        ("cuda:0", (8, 6), "reference, plain"),
        ("cuda:0", (8, 9), "kernel, reference"),
    ],
)
def test_an_fp8_kernel_runs_where_the_device_multiplies_such_numbers(
    device, capability, compared, monkeypatch
):
    """And never in the interpreter, which does not round to FP8 as the format has it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    case = CASES[FP8_CASES[0]]
    expected = compared.startswith("kernel") and HAS_TRITON
    assert case.runs(replace(SETTINGS, device=device)) == expected
    if device == "cpu":
        row = check(case, SETTINGS)
        assert row["ok"] and row["compared"] == compared


def test_every_kernel_has_cases():
    kernels = {case.kernel for case in small_cases()}
    assert kernels == {
        "fp8_experts",
        "grouped_experts",
        "nf4_linear",
        "paged_attention",
        "rms_norm",
        "rotary",
        "router",
        "routing",
        "self_conditioning",
        "vocabulary_head",
    }
    assert {case.kernel for case in real_cases()} == kernels
    for cases in (small_cases(), real_cases()):
        assert len({case.name for case in cases}) == len(cases)


def case_of(kernel, reference):
    """A case whose three ways are these tensors."""
    prepared = Prepared(lambda: kernel, lambda: reference, lambda: reference, Work(1.0, 1.0))
    return KernelCase("none", "none", lambda inputs: prepared)


@pytest.mark.parametrize(
    ("kernel", "wrong"),
    [
        (torch.full((40,), 1.01), "is off by"),
        (torch.tensor([float("nan")] + [1.0] * 39), "is not finite"),
        (torch.ones(39), r"has shape \[39\], not \[40\]"),
    ],
)
def test_wrong_numbers_are_seen(kernel, wrong):
    _, found = judge((kernel,), (torch.ones(40),), torch.float32)
    assert found is not None and re.search(wrong, found)


def test_a_few_other_tokens_may_be_chosen_and_no_more():
    tokens = torch.arange(100)
    other = tokens.clone()
    other[:2] += 1
    assert judge((other,), (tokens,), torch.float32) == (0.0, None)
    other[:3] = 7
    assert judge((other,), (tokens,), torch.float32)[1] == "3 of 100 numbers of output 0 differ"


@pytest.mark.skipif(not HAS_TRITON, reason="no kernels without Triton")
def test_a_check_compares_the_kernel_with_its_reference():
    good = check(case_of((torch.ones(4),), (torch.ones(4),)), SETTINGS)
    assert good["ok"] and good["compared"] == "kernel, reference"
    bad = check(case_of((torch.zeros(4),), (torch.ones(4),)), SETTINGS)
    assert not bad["ok"] and "is off by" in bad["wrong"]
