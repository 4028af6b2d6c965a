"""What each kernel takes of a GPU, found by compiling it: no GPU is needed.

    python -m benchmarks.kernel_resources [--target 90] [--case NAME] [--json]

Every kernel is launched through its own launcher on tensors of the real model's shapes that hold no
memory (torch's meta device); the launch is caught and compiled for sm_89, sm_90 and sm_120. So the
tile sizes, warps and stages are those of a run. The table gives registers per thread, bytes spilled to
local memory, shared memory per block, the blocks that fit on one multiprocessor by these (an upper
bound: the hardware has more limits), and the matrix instructions in the code. The last line is one JSON
document.
"""

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import JITFunction

from benchmarks.kernel_cases import CASES
from dgq.kernels import launch

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Target:
    """What one multiprocessor of an architecture has. Source: CUDA programming guide, appendix."""

    shared_bytes: int
    shared_bytes_per_block: int
    warps: int
    registers: int = 65536


TARGETS = {
    89: Target(100 * 1024, 99 * 1024, 48),
    90: Target(228 * 1024, 227 * 1024, 64),
    120: Target(100 * 1024, 99 * 1024, 48),
}

POINTERS = {
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.uint8: "*u8",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.bool: "*i1",
}


@dataclass(frozen=True)
class Resources:
    """One kernel, compiled for one target."""

    case: str
    kernel: str
    target: int
    warps: int
    stages: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    blocks: int
    wgmma: int
    mma: int
    e4m3: int
    """Of the matrix instructions, those on FP8 numbers."""
    row_layouts: list[str]
    """Of each product: its instruction's shape, and over how many warps a row is spread."""

    @property
    def occupancy(self) -> float:
        """Warps that fit, of those that the multiprocessor can hold."""
        return self.blocks * self.warps / TARGETS[self.target].warps


@dataclass(frozen=True)
class Launch:
    """A launch that was caught in place of being run."""

    kernel: JITFunction
    arguments: dict[str, Any]
    options: dict[str, int]


@contextmanager
def caught_launches(large_tiles: bool) -> Iterator[list[Launch]]:
    """Inside, kernels are not run, but listed; launchers see a device with or without large tiles."""
    launches: list[Launch] = []

    def catch(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        names = kernel.arg_names
        options = {name: kwargs.pop(name) for name in list(kwargs) if name not in names}
        launches.append(Launch(kernel, dict(zip(names, args, strict=False)) | kwargs, options))

    with (
        mock.patch.object(JITFunction, "run", catch),
        mock.patch.object(launch, "has_large_tiles", lambda tensor: large_tiles),
    ):
        yield launches


def source(launched: Launch) -> ASTSource:
    """As Triton's own launch would specialise it: by ones, and by divisibility by 16."""
    signature, constants, attributes = {}, {}, {}
    for position, parameter in enumerate(launched.kernel.params):
        value = launched.arguments[parameter.name]
        if parameter.is_constexpr or (isinstance(value, int) and value == 1):
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
        elif isinstance(value, Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
            attributes[(position,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:
            signature[parameter.name] = "i32"
            if value % 16 == 0:
                attributes[(position,)] = [["tt.divisibility", 16]]
    return ASTSource(launched.kernel, signature, constants, attributes)


def compiled(case: str, launched: Launch, target: int) -> Resources:
    """Compile and read the machine code."""
    binary = triton.compile(
        source(launched), target=GPUTarget("cuda", target, 32), options=launched.options
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage = _run("cuobjdump", "--dump-resource-usage", file.name)
    registers, spilled = (int(re.findall(rf"{name}:(\d+)", usage)[0]) for name in ("REG", "STACK"))
    warps, shared = binary.metadata.num_warps, binary.metadata.shared
    limits = TARGETS[target]
    per_warp = -(-registers * 32 // 256) * 256
    blocks = min(
        limits.registers // (per_warp * warps),
        limits.shared_bytes // (shared + 1024),  # the system keeps 1 KB per block
        limits.warps // warps,
    )
    return Resources(
        case,
        launched.kernel.__name__.strip("_"),
        target,
        warps,
        binary.metadata.num_stages,
        registers,
        spilled,
        shared,
        blocks,
        binary.asm["ptx"].count("wgmma.mma_async"),
        binary.asm["ptx"].count("mma.sync.aligned"),
        len(re.findall(r"mma\S*\.e4m3\.e4m3", binary.asm["ptx"])),
        sorted(
            f"{shape} over {warps}"
            for warps, shape in re.findall(
                r"warpsPerCTA = \[\d+, (\d+)\], instrShape = \[([\d, ]+)\]", binary.asm["ttgir"]
            )
        ),
    )


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run(
        [TOOLS / tool, *arguments], check=True, capture_output=True, text=True
    ).stdout


def measure(target: int, wanted: Sequence[str]) -> Iterator[Resources]:
    """Every kernel of every case whose name holds one of the words; each kernel once."""
    seen = set()
    for case, call in CASES.items():
        if not any(word in case for word in wanted):
            continue
        with caught_launches(
            large_tiles=TARGETS[target].shared_bytes_per_block > 160 * 1024
        ) as launches:
            call()
        for launched in launches:
            key = (launched.kernel, repr(source(launched).constants))
            if key not in seen:
                seen.add(key)
                yield compiled(case, launched, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", type=int, choices=TARGETS, action="append", help="default: all")
    parser.add_argument("--case", action="append", help="only cases whose name holds this")
    parser.add_argument("--json", action="store_true", help="no table, only the JSON line")
    arguments = parser.parse_args()
    rows = [
        resources
        for target in arguments.target or TARGETS
        for resources in measure(target, arguments.case or [""])
    ]
    if not arguments.json:
        print(
            "| case | kernel | sm | warps | stages | registers | spilled | shared KB | blocks | occupancy | matrix |"
        )
        print("| --- " * 11 + "|")
        for row in rows:
            matrix = f"wgmma {row.wgmma}" if row.wgmma else f"mma {row.mma}" if row.mma else ""
            matrix += " of e4m3" if row.e4m3 else ""
            print(
                f"| {row.case} | {row.kernel} | {row.target} | {row.warps} | {row.stages}"
                f" | {row.registers} | {row.spilled_bytes} | {row.shared_bytes / 1024:.1f}"
                f" | {row.blocks} | {row.occupancy:.0%} | {matrix} |"
            )
    print(json.dumps([asdict(row) for row in rows]))


if __name__ == "__main__":
    main()
