"""Measuring a group in a process of its own: nothing that happens there loses what others have found.

A kernel may hang, break the device for its process, or end the process. Then the point that was under
way gets a row that says so, and another process goes on with the next one.
"""

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import IO, Any

from .section import Group, Row, Settings

CHILD = (sys.executable, "-m", f"{__package__}.child")

STUCK_S = 300.0
"""A process that says nothing for so long is ended."""

_EXIT_S = 30.0
"""For a process that is through to end."""

_ENDED = None
_TIME_LIMIT = "the time limit"


def measure(
    section: str,
    settings: Settings,
    group: Group,
    deadline_s: float,
    command: Sequence[str] = CHILD,
) -> Iterator[Row]:
    """The group's rows, as they come; those that no longer fit the deadline (monotonic) say so.

    command: starts the process, see child.py; the section's name is added to it.
    """
    left = list(group.points)
    while left:
        limit_s = deadline_s - time.monotonic()
        if limit_s <= 0:
            for point in left:
                yield {"point": point, "group": group.name, "skipped": _TIME_LIMIT}
            return
        task = {
            "settings": asdict(settings),
            "group": group.name,
            "points": left,
            "limit_s": limit_s,
        }
        for row in _rows_of_child([*command, section], task, limit_s):
            left = left[left.index(row["point"]) + 1 :]
            yield row | {"group": group.name}


def _rows_of_child(command: Sequence[str], task: dict[str, Any], limit_s: float) -> Iterator[Row]:
    """Rows of one process; at least one, or for all points where it did not come to any."""
    deadline_s = time.monotonic() + limit_s
    under_way: str | None = None
    num_rows = 0
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
            reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
            reader.start()
            with contextlib.suppress(BrokenPipeError), process.stdin as file:
                file.write(json.dumps(task))
            reason = ""
            while True:
                wait_s = min(STUCK_S, deadline_s - time.monotonic())
                try:
                    line = lines.get(timeout=max(wait_s, 0.0))
                except queue.Empty:
                    is_late = time.monotonic() >= deadline_s
                    reason = _TIME_LIMIT if is_late else f"nothing within {STUCK_S:.0f} s"
                    break
                if line is _ENDED:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(_EXIT_S)
                    break
                event = json.loads(line)
                if "begin" in event:
                    under_way = event["begin"]
                else:
                    under_way = None
                    num_rows += 1
                    yield event["row"]
        finally:
            process.kill()
            process.wait()
            reader.join(_EXIT_S)  # a compiler that it had started may hold the pipe a little longer
        if under_way is None and num_rows:
            return  # it did all, or another goes on
        what = {"error": reason or _last_words(process, errors)}
        if reason == _TIME_LIMIT:
            what = {"skipped": reason}
        for point in task["points"] if under_way is None else [under_way]:
            yield {"point": point, **what}


def _read(file: IO[str], lines: "queue.SimpleQueue[str | None]") -> None:
    with file:
        for line in file:
            lines.put(line)
    lines.put(_ENDED)


def _last_words(process: subprocess.Popen[str], errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").split("\n")
    words = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return f"the process ended with status {process.returncode}: {words}"[:600]
