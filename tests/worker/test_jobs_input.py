"""Finding files of jobs, and reading several as one."""

import json

import pytest

from dgq.pipelines.parsing import Limits
from dgq.pipelines.reading import BadLine, read_job_lines
from dgq.worker.errors import UsageFault
from dgq.worker.jobs_input import find_inputs, name_inputs, read_inputs


def line(job_id):
    job = {"id": job_id, "kind": "rewrite", "text": "x", "instruction": "y"}
    return json.dumps(job).encode()


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(name, *lines, end=b"\n"):
        (tmp_path / name).write_bytes(b"\n".join(lines) + (end if lines else b""))
        return name

    return write


def test_files_and_patterns_are_sorted_and_each_is_once(write, tmp_path):
    for name in ("b.jsonl", "a.jsonl", "c.txt", "out.jsonl"):
        write(name, line(name))
    (tmp_path / "folder.jsonl").mkdir()
    assert find_inputs(["*.jsonl", "c.txt", "./b.jsonl"], out=tmp_path / "out.jsonl") == [
        "a.jsonl",
        "b.jsonl",
        "c.txt",
    ]
    assert find_inputs(["-"]) == ["-"]
    assert name_inputs(["-"]) == "standard input"
    assert name_inputs(["a", "b"]) == "2 files (a …)"


def test_a_name_with_the_signs_of_a_pattern_is_a_name(write):
    write("a[1].jsonl", line("a"))
    assert find_inputs(["a[1].jsonl"]) == ["a[1].jsonl"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["none.jsonl"], "none.jsonl does not exist"),
        (["*.nothing"], r"no file matches \*.nothing"),
        (["."], "is a folder"),
        (["-", "a.jsonl"], "exclude each other"),
    ],
)
def test_what_is_no_file_is_refused(write, names, message):
    write("a.jsonl", line("a"))
    with pytest.raises(UsageFault, match=message):
        find_inputs(names)


def test_one_file_reads_as_it_always_did(write):
    write("a.jsonl", b"\xef\xbb\xbf" + line("a"), b"", b"{", line("a"), line("b"), end=b"")
    told = []
    entries = list(read_inputs(["a.jsonl"], on_bad=lambda *bad: told.append(bad)))
    with open("a.jsonl", "rb") as file:
        expected = list(read_job_lines(file))
    assert entries == expected
    assert [entry.line for entry, _ in entries] == [1, 3, 4, 5]
    assert told == [
        ("a.jsonl", 3, "not JSON: expecting property name enclosed in double quotes at column 2"),
        ("a.jsonl", 4, "the id 'a' is already that of line 1"),
    ]


def test_several_files_are_one_input_with_their_own_line_numbers(write):
    write("a.jsonl", line("a1"), line("a2"), end=b"")
    write("b.jsonl")
    write("c.jsonl", b"\xef\xbb\xbf" + line("c1"), b"[]", line("a2"), line("c1"))
    told = []
    entries = list(
        read_inputs(["a.jsonl", "b.jsonl", "c.jsonl"], on_bad=lambda *bad: told.append(bad))
    )
    assert [(entry.id, entry.line) for entry, _ in entries] == [
        ("a1", 1),
        ("a2", 2),
        ("c1", 1),
        (None, 2),
        (None, 3),
        (None, 4),
    ]
    assert told == [
        ("c.jsonl", 2, "a job must be an object, not a list"),
        ("c.jsonl", 3, "the id 'a2' is already that of line 2 of a.jsonl"),
        ("c.jsonl", 4, "the id 'c1' is already that of line 1 of c.jsonl"),
    ]
    assert entries[3][0].message == "c.jsonl: a job must be an object, not a list"


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
@pytest.mark.parametrize("size", range(26, 34))
def test_lines_around_the_longest_length_keep_their_count(write, bom, end, size):
    write("a", bom + b"x" * size, end=end)
    write("b", b"[]")
    first, second = (entry for entry, _ in read_inputs(["a", "b"], limits=Limits(line_bytes=30)))
    assert (first.line, second.line) == (1, 1)
    assert ("longer than 30 bytes" in first.message) == (size > 30)
    assert isinstance(second, BadLine) and "must be an object" in second.message
