import threading
from queue import SimpleQueue

import pytest

from dgq.pipelines.intake import Intake


def test_reads_one_entry_for_each_time_of_asking():
    read: list[int] = []
    notes: SimpleQueue[str] = SimpleQueue()
    intake = Intake((read.append(i) or i for i in range(3)), lambda: notes.put("note"))
    assert read == []
    for wanted in range(3):
        intake.ask()
        intake.ask()  # asking twice is asking once
        notes.get(timeout=5)
        assert intake.take() == wanted
        assert read == list(range(wanted + 1))
    intake.ask()
    notes.get(timeout=5)
    assert intake.take() is None and intake.exhausted
    intake.ask()
    assert not intake.asked
    intake.close()


def test_an_error_of_the_input_is_raised_where_it_is_taken():
    def entries():
        yield 1
        raise OSError("unplugged")

    notes: SimpleQueue[str] = SimpleQueue()
    intake = Intake(entries(), lambda: notes.put("note"))
    intake.ask()
    notes.get(timeout=5)
    assert intake.take() == 1
    intake.ask()
    notes.get(timeout=5)
    with pytest.raises(OSError, match="unplugged"):
        intake.take()
    intake.close()


def test_close_ends_the_thread():
    before = set(threading.enumerate())
    intake = Intake([1, 2], lambda: None)
    (thread,) = set(threading.enumerate()) - before
    intake.close()
    thread.join(timeout=5)
    assert not thread.is_alive()
