"""What the benchmark runs on: ``python -m dgq.bench.machine DEVICE`` prints it as one line of JSON.

A process of its own, so that whoever asks keeps no context on the device.
"""

import importlib.metadata
import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import torch

from dgq.kernels.launch import HAS_TRITON, IS_INTERPRETED

_PACKAGES = ("dgq", "torch", "triton", "transformers", "bitsandbytes")


def describe(device: str | None) -> dict[str, Any]:
    """The device (None: the first GPU, else the CPU), the host, and versions; "error" if it is not there.

    kernels: how Triton's would run: "compiled", "interpreted", or None where they cannot.
    """
    found = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", found):
        return {"error": f"{found!r} is no device; write cpu, cuda or cuda:N"}
    facts: dict[str, Any] = {
        "device": found,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "kernels": _how_kernels_run(found),
    }
    if found == "cpu":
        return facts
    try:
        properties = torch.cuda.get_device_properties(found)
        free, total = torch.cuda.mem_get_info(found)
    except Exception as error:  # noqa: BLE001 - no driver, no such device, no CUDA in this torch
        return facts | {"error": f"there is no device {found}: {' '.join(str(error).split())}"}
    if IS_INTERPRETED:
        return facts | {
            "error": "TRITON_INTERPRET is set, so the kernels would not be compiled for the GPU; unset "
            "it, or take --device cpu"
        }
    return facts | {
        "gpu": properties.name,
        "gpu_memory_bytes": total,
        "gpu_free_bytes": free,
        "gpu_multiprocessors": properties.multi_processor_count,
        "gpu_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
    }


def _how_kernels_run(device: str) -> str | None:
    if not HAS_TRITON:
        return None
    if device.startswith("cuda"):
        return "compiled"
    return "interpreted" if IS_INTERPRETED else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    """As Linux tells it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    print(json.dumps(describe(sys.argv[1] if len(sys.argv) > 1 else None)))
