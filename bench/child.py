"""The process that measures one group: ``python -m dgq.bench.child SECTION``, told the rest on stdin.

It says what it does as lines of JSON on stdout: {"begin": point} before a point and {"row": row} after
it. A point that raises becomes a row with the error. Where the device is broken for good, the process
ends, and the points that are left are measured by another.
"""

import contextlib
import gc
import json
import os
import sys
import time
from typing import Any, TextIO

from .section import Group, Measure, Row, Section, Settings
from .sections import SECTIONS

BROKEN_DEVICE = 3
"""Exit status: the device takes no more work from this process."""


def main() -> int:
    """Measure the points that stdin names."""
    with os.fdopen(os.dup(1), "w") as events:
        os.dup2(2, 1)  # what libraries print is no event
        task = json.loads(sys.stdin.read())
        settings = Settings.from_plain(task["settings"])
        group = Group(task["group"], tuple(task["points"]))
        return measure_group(SECTIONS[sys.argv[1]], settings, group, task["limit_s"], events)


def measure_group(
    section: Section, settings: Settings, group: Group, limit_s: float, events: TextIO
) -> int:
    """All points in turn, for as long as the longest so far would still fit."""

    def tell(event: dict[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    deadline_s = time.monotonic() + limit_s
    longest_s = 0.0
    with contextlib.ExitStack() as stack:
        try:
            _choose_device(settings)
            measure = stack.enter_context(section.open(settings, group.name))
        except Exception as error:  # noqa: BLE001 - it is what the rows say
            for point in group.points:
                tell({"row": {"point": point, **_without_figures(error)}})
            return 0
        for point in group.points:
            begun_s = time.monotonic()
            if deadline_s - begun_s < longest_s:
                tell({"row": {"point": point, "skipped": "the time limit"}})
                continue
            tell({"begin": point})
            tell({"row": {"point": point, **_row(measure, point)}})
            longest_s = max(longest_s, time.monotonic() - begun_s)
            if _is_broken(settings):
                os._exit(BROKEN_DEVICE)  # closing what is on the device would fail or hang
    return 0


def _row(measure: Measure, point: str) -> Row:
    try:
        return measure(point)
    except Exception as error:  # noqa: BLE001 - it is what the row says
        row = _without_figures(error)
    gc.collect()  # the error held tensors
    _empty_cache()
    return row


def _without_figures(error: Exception) -> Row:
    from dgq.engine.faults import is_out_of_memory

    if is_out_of_memory(error):
        return {"skipped": "out of device memory"}
    words = " ".join(str(error).split()) or "no message"
    return {"error": f"{type(error).__name__}: {words}"[:600]}


def _choose_device(settings: Settings) -> None:
    """Events, captures and Triton's launches take the thread's current device, whatever tensors say."""
    import torch

    device = torch.device(settings.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def _empty_cache() -> None:
    import torch

    if torch.cuda.is_available():
        with contextlib.suppress(Exception):
            torch.cuda.empty_cache()


def _is_broken(settings: Settings) -> bool:
    import torch

    if not settings.on_gpu:
        return False
    try:
        torch.cuda.synchronize(settings.device)
    except Exception:  # noqa: BLE001 - an illegal access, say, is told by whatever comes next
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
