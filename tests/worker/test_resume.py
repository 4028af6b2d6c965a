import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgq.worker.errors import CommandError
from dgq.worker.resume import Taker, read_earlier_rows

ROWS = [
    {"id": "a", "status": "ok", "output": "x"},
    {"id": "b", "status": "invalid_output"},
    {"id": None, "line": 7, "status": "error"},
]


def save(path, rows, tail=b""):
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows) + tail)
    return path


def test_rows_of_any_status_are_there(tmp_path):
    earlier = read_earlier_rows(save(tmp_path / "out", ROWS))
    assert (earlier.num_rows, earlier.num_ok, earlier.torn_bytes) == (3, 1, 0)
    assert earlier.has_id("a") and earlier.has_id("b") and not earlier.has_id("c")
    assert earlier.has_line(7) and not earlier.has_line(1)


def test_a_missing_file_has_no_rows(tmp_path):
    assert read_earlier_rows(tmp_path / "none").num_rows == 0


@given(cut=st.integers(min_value=0))
def test_a_file_cut_anywhere_keeps_its_whole_rows(tmp_path_factory, cut):
    path = save(tmp_path_factory.mktemp("cut") / "out", ROWS)
    whole = path.read_bytes()
    kept = whole[: cut % (len(whole) + 1)]
    path.write_bytes(kept)
    earlier = read_earlier_rows(path)
    assert earlier.num_rows == kept.count(b"\n")
    assert earlier.keep_bytes + earlier.torn_bytes == len(kept)
    assert kept[: earlier.keep_bytes].endswith(b"\n") or earlier.keep_bytes == 0


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"[]",
        b"\xff\xfe",
        b'{"id": "a"}',
        b'{"id": "a", "status": 1}',
        b'{"id": 3, "status": "ok"}',
        b'{"id": null, "status": "error"}',
        b'{"kind": "rewrite", "id": "a"}',
        b"",
        b"[" * 100_000,
    ],
)
def test_a_file_of_something_else_is_refused_with_its_line(tmp_path, line):
    path = save(tmp_path / "out", ROWS, tail=line + b"\n")
    with pytest.raises(CommandError, match="out line 4 is not a row of results"):
        read_earlier_rows(path)


def test_a_last_line_that_is_no_torn_row_is_not_cut_off(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"precious notes without a line end")
    with pytest.raises(CommandError, match="out line 1 is not a row of results"):
        read_earlier_rows(path)


def test_a_file_is_read_in_two_parts(tmp_path):
    path = save(tmp_path / "out", ROWS, tail=b'{"id":"to')
    first_bytes = len(path.read_bytes().splitlines(keepends=True)[0])
    base = read_earlier_rows(path, until_bytes=first_bytes)
    rest = read_earlier_rows(path, after=base)
    assert (base.ids, base.num_rows, base.keep_bytes, base.torn_bytes) == ({"a"}, 1, first_bytes, 0)
    assert (rest.ids, rest.num_rows, rest.num_ok, rest.torn_bytes) == ({"b"}, 2, 0, 9)
    assert rest.keep_bytes + 9 == len(path.read_bytes())
    assert read_earlier_rows(path, until_bytes=0).num_rows == 0
    path.write_bytes(path.read_bytes()[: rest.keep_bytes] + b"{}\n")
    with pytest.raises(CommandError, match="out line 4 is not a row of results"):
        read_earlier_rows(path, after=base)


def test_an_earlier_row_of_a_bad_line_counts_for_one_of_several_files(tmp_path):
    taker = Taker(read_earlier_rows(save(tmp_path / "out", [*ROWS, ROWS[2]])))
    assert [taker.take(None, 7) for _ in range(3)] == [True, True, False]
    assert [taker.take("a", 7) for _ in range(2)] == [True, True]
    assert not taker.take(None, None) and not taker.take("c", None)
