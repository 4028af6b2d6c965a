"""Predicted time: each component takes as long as the scarcest of what it needs, one after the other.

    time of a component = max(bytes / bandwidth, operations / peak, instructions / issue rate)

Under the published protocol a canvas takes 16 steps and a commit, and gives its 256 tokens, so

    tokens/s = canvases x 256 / (16 x step + commit)

Nothing here is measured. The bound takes the makers' figures as they are. What is *likely* takes the
shares of them that public kernels of these shapes have reached. In dgq the commit rides in the next
canvas's first step, which reads the weights once for both, so at few canvases the bound is a little
too high; the last canvas of a text is not committed at all.
"""

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch

from dgq.engine.config import ModelConfig
from dgq.engine.engine_config import EngineConfig
from dgq.engine.errors import EngineError
from dgq.engine.memory_plan import (
    LONG_CONTEXT_TOKENS,
    SHORT_CONTEXT_TOKENS,
    MemoryPlan,
    plan_memory,
)
from dgq.engine.quantization import Quantization
from dgq.engine.triton_operations import TRITON

from .devices import DEVICES, GB, Device
from .tables import as_table, quantity
from .work import DECODING_INSTRUCTIONS, StepShape, Work, count_step

PROTOCOL_STEPS = 16
DRIVER_BYTES = GB
"""Of a device's memory, what driver, context and allocator take: assumed."""

COLUMNS = {
    "experts": "experts",
    "attention_projections": "projections",
    "dense_mlp": "dense MLP",
    "attention": "attention",
    "head": "head",
    "self_conditioning_product": "soft embeddings",
    "self_conditioning_mlp": "conditioning MLP",
    "router_and_norms": "router, norms",
}
"""Components as tables name them."""


@dataclass(frozen=True, slots=True)
class Reached:
    """Shares of a device's peaks: of its memory's bandwidth, and of its matrix unit by component."""

    name: str
    memory: float
    experts: float
    decoded_experts: float
    fp8_experts: float
    attention: float
    other_products: float

    def seconds(self, device: Device, component: str, work: Work) -> float:
        """The time that a component's work takes."""
        if component == "experts":
            share = self.decoded_experts if work.instructions else self.experts
        else:
            share = self.attention if component == "attention" else self.other_products
        return max(
            work.num_bytes / (device.bytes_per_s * self.memory),
            (work.operations - work.fp8_operations) / (device.bf16_per_s * share)
            + work.fp8_operations / (device.fp8_per_s * self.fp8_experts),
            work.instructions / device.instructions_per_s,
        )


BOUND = Reached("bound", 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
LIKELY = Reached("likely", 0.84, 0.56, 0.40, 0.40, 0.25, 0.61)
"""2.8 of 3.35 TB/s; 550, 400, 250 and 600 of 989 TFLOP/s, 800 of 1,979 in FP8: published of other kernels on an H100."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """For some canvases on a device. seconds: of a denoising step, by component."""

    num_canvases: int
    seconds: dict[str, float]
    commit_s: float
    tokens_per_s: float

    @property
    def step_s(self) -> float:
        """A denoising step."""
        return sum(self.seconds.values())


def predict(
    device: Device,
    config: ModelConfig,
    quantization: Quantization,
    step: StepShape,
    reached: Reached = BOUND,
    num_steps: int = PROTOCOL_STEPS,
) -> Prediction:
    """The protocol on so many canvases."""

    def seconds(shape: StepShape) -> dict[str, float]:
        work = count_step(config, quantization, shape).by_component()
        return {name: reached.seconds(device, name, part) for name, part in work.items()}

    denoising = seconds(step)
    commit = StepShape(step.num_canvases, step.context_tokens, reads=True)
    commit_s = sum(seconds(commit).values())
    tokens = step.num_canvases * config.canvas_length
    return Prediction(
        step.num_canvases,
        denoising,
        commit_s,
        tokens / (num_steps * sum(denoising.values()) + commit_s),
    )


@lru_cache
def plan_for(device: Device, config: ModelConfig, quantization: Quantization) -> MemoryPlan | None:
    """How an engine would spend the device's memory; None where it does not fit."""
    wanted = EngineConfig(max_canvases=32, max_rows=32 * config.canvas_length)
    try:
        return plan_memory(
            config,
            quantization,
            torch.bfloat16,
            device.memory_bytes - DRIVER_BYTES,
            wanted,
            TRITON,
        )
    except EngineError:
        return None


@dataclass(frozen=True, slots=True)
class Roofline:
    """What to count: a shape, presets, numbers of canvases, tokens before each canvas."""

    shape: str
    config: ModelConfig
    presets: tuple[str, ...]
    canvases: tuple[int, ...]
    context_tokens: int

    def text(self) -> str:
        """Tables and their assumptions."""
        parts = [_introduction(self), self._devices(), self._work()]
        for device in DEVICES:
            parts += self._predictions(device)
        return "\n\n".join([*parts, self._memory()])

    def report(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "shape": self.shape,
            "context_tokens": self.context_tokens,
            "devices": [asdict(device) for device in DEVICES],
            "assumptions": [asdict(BOUND), asdict(LIKELY)],
            "work": {
                preset: {
                    str(canvases): {
                        name: asdict(part)
                        for name, part in self._step_work(preset, canvases).items()
                    }
                    for canvases in self.canvases
                }
                for preset in self.presets
            },
            "predicted": [
                {
                    "device": device.name,
                    "preset": preset,
                    "canvases": canvases,
                    "dense_share": dense_share,
                    "assuming": reached.name,
                    "fits": self._fits(device, preset, canvases),
                    "step_s": prediction.step_s,
                    "commit_s": prediction.commit_s,
                    "tokens_per_s": prediction.tokens_per_s,
                    "seconds": prediction.seconds,
                }
                for device in DEVICES
                for preset in self.presets
                for canvases in self.canvases
                for dense_share in (1.0, 0.0)
                for reached in (BOUND, LIKELY)
                for prediction in [self._predict(device, preset, canvases, dense_share, reached)]
            ],
        }

    def _predict(
        self, device: Device, preset: str, canvases: int, dense_share: float, reached: Reached
    ) -> Prediction:
        step = StepShape(canvases, self.context_tokens, dense_share)
        return predict(device, self.config, Quantization(preset), step, reached)

    def _step_work(self, preset: str, canvases: int) -> dict[str, Work]:
        step = StepShape(canvases, self.context_tokens)
        return count_step(self.config, Quantization(preset), step).by_component()

    def _fits(self, device: Device, preset: str, canvases: int) -> bool:
        plan = plan_for(device, self.config, Quantization(preset))
        return plan is not None and plan.blocks_in_flight(self.context_tokens) >= canvases

    def _devices(self) -> str:
        rows = [
            [
                device.name,
                f"{device.memory_bytes / GB:.0f}",
                quantity(device.bytes_per_s / 1e12),
                quantity(device.bf16_per_s / 1e12),
                quantity(device.fp8_per_s / 1e12),
                quantity(device.instructions_per_s / 1e12),
            ]
            for device in DEVICES
        ]
        heads = ["device", "GB", "TB/s", "bf16 TFLOP/s", "fp8 TFLOP/s", "Tinstructions/s"]
        return "Published limits\n\n" + as_table(heads, rows)

    def _work(self) -> str:
        rows = []
        for preset in self.presets:
            for canvases in dict.fromkeys((self.canvases[0], self.canvases[-1])):
                work = self._step_work(preset, canvases)
                for what, cells in (
                    ("TFLOP", [part.operations / 1e12 for part in work.values()]),
                    ("GB", [part.num_bytes / 1e9 for part in work.values()]),
                    ("Tinstructions", [part.instructions / 1e12 for part in work.values()]),
                ):
                    if any(cells):
                        figures = [quantity(cell) for cell in [*cells, sum(cells)]]
                        rows.append([preset, str(canvases), what, *figures])
        heads = ["preset", "canvases", "of a step", *COLUMNS.values(), "sum"]
        return "Work of a denoising step, dense\n\n" + as_table(heads, rows)

    def _predictions(self, device: Device) -> list[str]:
        """Speeds, and the bound by component; a preset that the device cannot hold is left out."""
        steps, speeds, components = [], [], []
        for preset in self.presets:
            if plan_for(device, self.config, Quantization(preset)) is None:
                continue
            for canvases in self.canvases:
                predictions = [
                    self._predict(device, preset, canvases, share, reached)
                    for reached in (BOUND, LIKELY)
                    for share in (1.0, 0.0)
                ]
                first = [preset, str(canvases)]
                fits = "yes" if self._fits(device, preset, canvases) else "no"
                steps.append([*first, fits, *(quantity(1e3 * p.step_s) for p in predictions)])
                speeds.append([*first, fits, *(quantity(p.tokens_per_s) for p in predictions)])
                dense = predictions[0]
                times = [*dense.seconds.values(), dense.step_s, dense.commit_s]
                components.append(first + [quantity(1e3 * seconds) for seconds in times])
        kinds = ["bound, dense", "bound, sparse", "likely, dense", "likely, sparse"]
        heads = ["preset", "canvases", "fits", *kinds]
        return [
            f"{device.name}: predicted tokens/s of the protocol\n\n" + as_table(heads, speeds),
            f"{device.name}: predicted ms of a denoising step\n\n" + as_table(heads, steps),
            f"{device.name}: predicted ms by component (bound, dense)\n\n"
            + as_table(["preset", "canvases", *COLUMNS.values(), "step", "commit"], components),
        ]

    def _memory(self) -> str:
        rows = []
        for device in DEVICES:
            for preset in self.presets:
                plan = plan_for(device, self.config, Quantization(preset))
                cells = ["-"] * 5
                if plan is not None:
                    cells = [
                        f"{plan.costs.weights / GB:.2f}",
                        f"{plan.engine_config.max_rows:,}",
                        f"{plan.engine_config.max_kv_tokens:,}",
                        str(plan.blocks_in_flight(LONG_CONTEXT_TOKENS)),
                        str(plan.blocks_in_flight(SHORT_CONTEXT_TOKENS)),
                    ]
                rows.append([device.name, preset, *cells])
        heads = ["device", "preset", "weights, GB", "rows of a step", "tokens of keys and values"]
        heads += [f"canvases behind {LONG_CONTEXT_TOKENS:,}", f"behind {SHORT_CONTEXT_TOKENS:,}"]
        return (
            f"What fits, with {DRIVER_BYTES / GB:.0f} GB left to driver and context, counted by the "
            "engine's planner (at most 32 canvases); -: does not fit\n\n" + as_table(heads, rows)
        )


def _introduction(roofline: Roofline) -> str:
    return (
        f"Roofline of {roofline.shape}: predicted from shapes and published limits, not measured.\n\n"
        f"- Protocol: {PROTOCOL_STEPS} steps and a commit per canvas of "
        f"{roofline.config.canvas_length} tokens, each behind {roofline.context_tokens:,} tokens.\n"
        "- A component takes as long as the scarcest of memory, matrix unit and, where NF4 is decoded, "
        "instructions;\n  components follow one another.\n"
        f"- Decoding an NF4 weight in registers takes {DECODING_INSTRUCTIONS} instructions, for every "
        "tile of an expert's rows.\n"
        "- bound: the published limits. likely: the shares of them that public kernels have reached on "
        f"an H100:\n  memory {LIKELY.memory:.0%}; of the matrix unit experts {LIKELY.experts:.0%}, "
        f"in NF4 {LIKELY.decoded_experts:.0%}, in FP8 {LIKELY.fp8_experts:.0%}, attention {LIKELY.attention:.0%}, other products "
        f"{LIKELY.other_products:.0%}.\n"
        "- dense: every row's soft embedding needs the whole vocabulary, as with random weights. "
        "sparse: no row's does,\n  as late in a canvas. Real canvases lie between."
    )
