"""Who computes, and in which dtype, by what was asked and what there is."""

import pytest
import torch

from dgq.engine import kernel_choice
from dgq.engine.checkpoint import load_model
from dgq.engine.engine import DEFAULT_MODEL_PATH, Engine
from dgq.engine.errors import EngineError
from dgq.engine.kernel_choice import check_format, choose_dtype, choose_operations
from dgq.engine.quantization import Quantization
from dgq.engine.torch_operations import TORCH
from dgq.engine.triton_operations import TRITON

BF16, FP32 = torch.bfloat16, torch.float32


def test_auto_is_triton_on_a_gpu_that_has_it(monkeypatch):
    assert choose_operations("auto", "cpu", BF16) is TORCH
    assert choose_operations("auto", "cuda:1", BF16) is TRITON
    assert choose_operations("auto", "cuda:1", FP32) is TORCH
    assert choose_operations("torch", "cuda:1", BF16) is TORCH
    monkeypatch.setattr(kernel_choice, "HAS_TRITON", False)
    assert choose_operations("auto", "cuda", BF16) is TORCH


def test_triton_needs_a_gpu_and_16_bits_but_for_its_interpreter(monkeypatch):
    assert choose_operations("triton", "cpu", FP32) is TRITON  # the interpreter, in these tests
    monkeypatch.setattr(kernel_choice, "IS_INTERPRETED", False)
    with pytest.raises(EngineError, match="not cpu and float32; choose auto or torch"):
        Engine.load(kernels="triton")
    with pytest.raises(EngineError, match="need a CUDA device and bfloat16, not cuda and float32"):
        choose_operations("triton", "cuda", FP32)
    assert choose_operations("triton", "cuda", BF16) is TRITON
    monkeypatch.setattr(kernel_choice, "HAS_TRITON", False)
    with pytest.raises(EngineError, match="need the package triton"):
        choose_operations("triton", "cuda", BF16)


def test_fp8_needs_a_gpu_that_multiplies_it(monkeypatch):
    capability = {"cuda:0": (8, 0), "cuda:1": (8, 9), "cuda:2": (12, 0)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability.__getitem__)
    fp8, nf4 = Quantization("fp8-experts"), Quantization("nf4")
    with pytest.raises(EngineError, match=r"8\.9 or later, which cuda:0 is not; choose"):
        load_model(DEFAULT_MODEL_PATH, BF16, "cuda:0", fp8, TRITON)
    check_format(nf4, TRITON, "cuda:0")
    check_format(fp8, TORCH, "cuda:0")
    for device in ("cpu", "cuda:1", "cuda:2"):
        check_format(fp8, TRITON, device)


def test_auto_is_bfloat16_on_a_gpu():
    assert choose_dtype("auto", "cpu") == choose_dtype("float32", "cuda") == torch.float32
    assert choose_dtype("auto", "cuda:0") == choose_dtype("bfloat16", "cpu") == torch.bfloat16


def test_other_names_are_refused():
    with pytest.raises(EngineError, match="kernels must be one of auto, triton, torch, not 'cuda'"):
        Engine.load(kernels="cuda")
    with pytest.raises(EngineError, match="kernels must be one of"):
        Engine.plan(kernels="", max_memory_bytes=10**9)
    with pytest.raises(EngineError, match="dtype must be one of auto, bfloat16, float32"):
        Engine.plan(dtype="half", max_memory_bytes=10**9)


def test_a_plan_counts_in_the_dtype_and_kernels_of_the_device():
    on_cpu, on_gpu = (
        Engine.plan(device=device, max_memory_bytes=10**9).costs for device in ("cpu", "cuda")
    )
    assert on_cpu.weights == 2 * on_gpu.weights
    assert on_cpu.step.per_head_row == 0 < on_gpu.step.per_head_row
