"""Where the time of a step goes, by torch's profiler, grouped into the components of the roofline."""

import re
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from .engines import StepTimes

_SKIPPED_STEPS = 3
"""Of a run, before the profiler starts: they read prompts and warm up."""

_KERNELS = {
    "experts": r"^_(fp8_)?(gate_up|down)_kernel|^_(add_choices|count|place|quantize_rows)_kernel|grouped_mm",
    "attention": r"attention|flash|fmha|sdpa",
    "head": r"^_(tiles|combine)_kernel",
    "soft embeddings": r"^_(survivors|gather|list_rows|dense|add_parts)_kernel|embedding_bag",
    "linear products": r"nf4_linear|dequantize|gemm|cutlass|cublas|nvjet|xmma|addmm|\bmm\b|bmm|linear",
    "router, norms": r"rms_norm|rotate|route|layer_norm|softmax|topk|sort",
    "copies": r"memcpy|memset|copy|\bcat\b|index|gather|scatter|fill",
}
"""First match wins. Patterns of our kernels, of the vendor's products, and of torch's operators."""

ROOFLINE = {
    "experts": ("experts",),
    "attention": ("attention",),
    "head": ("head",),
    "soft embeddings": ("self_conditioning_product",),
    "linear products": ("attention_projections", "dense_mlp", "self_conditioning_mlp"),
    "router, norms": ("router_and_norms",),
}
"""Components of the roofline that a group's time is to be set beside."""


class StepProfiler(StepTimes):
    """Step times; and, once armed, a profile of some steps, taken in the engine's own thread."""

    __slots__ = ("_left", "_num_steps", "_profile", "_skip", "_started_s", "result")

    def __init__(self) -> None:
        super().__init__()
        self.result: dict[str, Any] | None = None
        self._left = self._skip = 0
        self._num_steps, self._started_s = 0, 0.0
        self._profile: profile | None = None

    def arm(self, num_steps: int) -> None:
        """Profile so many steps of what is submitted next. Call while the engine is idle."""
        self.result, self._left, self._skip = None, num_steps, _SKIPPED_STEPS

    def step_began(self) -> None:
        """See Trace."""
        if self._left and not self._skip and self._profile is None:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                torch.cuda.synchronize()
                activities = [ProfilerActivity.CUDA]
            self._profile = profile(activities=activities)
            self._profile.start()
            self._num_steps, self._started_s = self._left, time.perf_counter()
        super().step_began()

    def step_ended(self, num_waiting: int) -> None:
        """See Trace."""
        super().step_ended(num_waiting)
        if self._skip:
            self._skip -= 1
        elif self._profile is not None:
            self._left -= 1
            if not self._left:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                step_s = (time.perf_counter() - self._started_s) / self._num_steps
                taken, self._profile = self._profile, None
                taken.stop()
                found = summarise(times_of(taken, torch.cuda.is_available()), self._num_steps)
                self.result = found | {"step_s": step_s}


def times_of(taken: profile, on_gpu: bool) -> list[tuple[str, float]]:
    """Names of kernels, or on a CPU of operators, with their own seconds."""
    name = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return [(event.key, float(getattr(event, name)) / 1e6) for event in taken.key_averages()]


def summarise(times: Iterable[tuple[str, float]], num_steps: int) -> dict[str, Any]:
    """Seconds per step by group, and what the largest of the rest are."""
    groups: dict[str, float] = defaultdict(float)
    rest = []
    for name, seconds in times:
        group = group_of(name)
        groups[group] += seconds / num_steps
        if group == "others":
            rest.append((seconds / num_steps, name))
    largest = sorted(rest, reverse=True)[:5]
    return {
        "seconds": {name: groups[name] for name in (*_KERNELS, "others") if groups[name]},
        "largest_others": [{"name": name[:80], "seconds": seconds} for seconds, name in largest],
    }


def group_of(name: str) -> str:
    """The component that a kernel or an operator belongs to."""
    for group, pattern in _KERNELS.items():
        if re.search(pattern, name, re.IGNORECASE):
            return group
    return "others"
