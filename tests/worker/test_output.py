import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dgq.worker.errors import OutputClosed, OutputError, UsageFault
from dgq.worker.output import ResultWriter, check_output


def write_rows(path, rows, **start):
    with ResultWriter(path) as writer:
        writer.start(**start)
        for row in rows:
            writer.write(row)


def test_rows_can_be_read_as_soon_as_they_are_written(tmp_path):
    path = tmp_path / "out.jsonl"
    with ResultWriter(path) as writer:
        writer.start()
        writer.write(b'{"a": 1}')
        assert path.read_bytes() == b'{"a": 1}\n'


def test_start_cuts_off_what_is_not_kept(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"one\ntorn and longer than what follows")
    write_rows(path, [b"two"], keep_bytes=4)
    assert path.read_bytes() == b"one\ntwo\n"


def test_nothing_is_changed_before_start(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"precious\n")
    with ResultWriter(path):
        pass
    assert path.read_bytes() == b"precious\n"


def test_a_file_that_was_never_started_is_not_left_behind(tmp_path):
    path = tmp_path / "out.jsonl"
    with ResultWriter(path):
        pass
    assert not path.exists()


def test_an_unwritable_path_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        ResultWriter(tmp_path / "file" / "out.jsonl")


def test_a_full_device_is_one_clear_error():
    with pytest.raises(OutputError, match=r"cannot write /dev/full: No space left on device"):
        write_rows(Path("/dev/full"), [b"row"])


def test_a_full_disk_takes_the_torn_row_back(tmp_path):
    path = tmp_path / "out.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, hard))
    try:
        with pytest.raises(OutputError, match=r"the 2 results .* are whole.*--resume"):
            write_rows(path, [b"x" * 20, b"y" * 20, b"z" * 20])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"x" * 20 + b"\n" + b"y" * 20 + b"\n"


def test_rows_are_written_together_or_taken_back_together(tmp_path):
    path = tmp_path / "out.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, hard))
    try:
        with ResultWriter(path) as writer:
            writer.start()
            writer.write_rows([b"x" * 9, b"y" * 9])
            writer.write_rows([])
            with pytest.raises(OutputError, match="the 2 results"):
                writer.write_rows([b"z" * 20, b"z" * 20])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"x" * 9 + b"\n" + b"y" * 9 + b"\n"


def test_two_runs_do_not_write_the_same_file(tmp_path):
    path = tmp_path / "out.jsonl"
    with ResultWriter(path), pytest.raises(OutputError, match="another dgq run is writing"):
        ResultWriter(path)


def test_a_pipe_gets_its_rows_and_its_closing_is_told(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read = []

    def read_one_row():
        with path.open("rb") as pipe:
            read.append(pipe.readline())

    reader = threading.Thread(target=read_one_row)
    reader.start()
    with ResultWriter(path) as writer:
        writer.start()
        writer.write(b"row")
        reader.join()
        with pytest.raises(OutputClosed):
            writer.write(b"row")
    assert read == [b"row\n"]


def test_standard_output_is_not_closed(tmp_path):
    code = (
        "from dgq.worker.output import ResultWriter\n"
        "with ResultWriter(None) as writer:\n"
        "    writer.start(); writer.write(b'row')\n"
        "print('still open')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"row\nstill open\n"


def check(tmp_path, out, jobs="jobs.jsonl", resume=False, overwrite=False):
    (tmp_path / "jobs.jsonl").touch()
    return check_output(
        str(tmp_path / jobs) if jobs != "-" else jobs,
        str(tmp_path / out) if out != "-" else out,
        resume=resume,
        overwrite=overwrite,
    )


def test_results_go_to_a_new_or_empty_file_or_to_stdout(tmp_path):
    (tmp_path / "empty").touch()
    assert check(tmp_path, "-") is None
    assert check(tmp_path, "new") == tmp_path / "new"
    assert check(tmp_path, "empty") == tmp_path / "empty"
    assert check(tmp_path, "new", jobs="-", resume=True) == tmp_path / "new"


def test_none_of_several_inputs_may_be_the_output(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).touch()
    names = [str(tmp_path / name) for name in ("a", "b")]
    assert check_output(names, str(tmp_path / "c"), resume=False, overwrite=False)
    with pytest.raises(UsageFault, match="b holds the jobs"):
        check_output(names, names[1], resume=False, overwrite=True)


@pytest.mark.parametrize("choice", ["resume", "overwrite"])
def test_existing_rows_need_a_choice(tmp_path, choice):
    (tmp_path / "out").write_text("row\n")
    with pytest.raises(UsageFault, match=r"exists; add --resume .* or --overwrite"):
        check(tmp_path, "out")
    assert check(tmp_path, "out", **{choice: True}) == tmp_path / "out"


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("out", {"resume": True, "overwrite": True}, "exclude each other"),
        ("-", {"resume": True}, "--resume needs a file"),
        (".", {}, "is a folder"),
        ("missing/out", {}, "the folder .*missing for the results does not exist"),
        ("jobs.jsonl", {"overwrite": True}, "holds the jobs"),
        ("link", {"overwrite": True}, "holds the jobs"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, out, options, message):
    (tmp_path / "link").symlink_to(tmp_path / "jobs.jsonl")
    with pytest.raises(UsageFault, match=message):
        check(tmp_path, out, **options)
