"""The most memory that was in use: of the device where there is one, else of the process."""

import resource
import sys
from typing import Any

import torch

from .section import Settings


def forget_peak(settings: Settings) -> None:
    """Begin anew; on a CPU the peak is that of the process since its start."""
    if settings.on_gpu:
        torch.cuda.synchronize(settings.device)
        torch.cuda.reset_peak_memory_stats(settings.device)


def peak(settings: Settings) -> dict[str, Any]:
    """Bytes: of tensors, of what torch holds, and of the device with its context; or of the process."""
    if not settings.on_gpu:
        unit = 1 if sys.platform == "darwin" else 1024
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return {"peak_process_bytes": used}
    torch.cuda.synchronize(settings.device)
    free, total = torch.cuda.mem_get_info(settings.device)
    return {
        "peak_tensor_bytes": torch.cuda.max_memory_allocated(settings.device),
        "peak_held_bytes": torch.cuda.max_memory_reserved(settings.device),
        "device_used_bytes": total - free,
    }


def peak_in_words(row: dict[str, Any]) -> str:
    """In GB: what the process holds of the device, or its peak."""
    used = row.get("peak_held_bytes", row.get("peak_process_bytes", 0))
    return f"{used / 1e9:.2f}"
