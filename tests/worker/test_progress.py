import os
import pty
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dgq.worker import progress
from dgq.worker.progress import count_lines


@given(
    lines=st.lists(st.sampled_from([b"", b" ", b"\t", b"{}", b"x" * 9, b"\xff"])),
    ends_with_newline=st.booleans(),
    chunk=st.integers(1, 8),
)
def test_lines_with_text_are_counted(tmp_path_factory, lines, ends_with_newline, chunk):
    path = tmp_path_factory.mktemp("lines") / "jobs"
    path.write_bytes(b"\n".join(lines) + (b"\n" if ends_with_newline else b""))
    before, progress._CHUNK_BYTES = progress._CHUNK_BYTES, chunk
    try:
        assert count_lines(path) == sum(bool(line.strip()) for line in lines)
    finally:
        progress._CHUNK_BYTES = before


def test_on_a_terminal_there_is_a_live_bar(tmp_path, jobs_file, rewrite):
    jobs_file(rewrite("a"), rewrite("b"))
    terminal, stderr = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("fake_dgq.py"), "run", "jobs.jsonl", "-o", "out"],
        cwd=tmp_path,
        stderr=stderr,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(stderr)
    shown = b""
    try:  # read as it goes: a terminal that nobody reads is full after a few redraws
        while data := os.read(terminal, 1 << 16):
            shown += data
    except OSError:  # how a terminal says that its last writer is gone
        pass
    finally:
        os.close(terminal)
    assert process.wait(60) == 0
    assert b"2/2" in shown and b"jobs/s" in shown and b"dgq: results: out" in shown
