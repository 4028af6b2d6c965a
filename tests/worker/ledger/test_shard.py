import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgq.pipelines.reading import BadLine
from dgq.worker.ledger.shard import (
    JobLine,
    Row,
    Shard,
    is_done,
    pack_jobs,
    pack_rows,
    unpack_jobs,
    unpack_rows,
)

NUMBERS = st.integers(0, 2**40)
TEXTS = st.one_of(
    st.text(max_size=200).map(str.encode),
    st.binary(max_size=200),
    st.sampled_from([b"", b"\t", b"\t\t1\t2", b'{"a": "\xe2\x80\xa8 \\n"}', b"\r", b"x" * 300_000]),
).map(lambda text: text.replace(b"\n", b""))


@given(st.lists(st.builds(JobLine, NUMBERS, NUMBERS, TEXTS)))
def test_jobs_come_out_as_they_went_in(jobs):
    blob = pack_jobs(jobs)
    assert (unpack_jobs(blob) if jobs else blob) == (jobs or b"")


@given(st.lists(st.builds(Row, NUMBERS, TEXTS)))
def test_rows_come_out_as_they_went_in(rows):
    assert list(unpack_rows(pack_rows(iter(rows)))) == rows


def test_a_job_that_is_laid_out_over_lines_becomes_one_line():
    jobs = [JobLine(0, 1, b'{\n"id": "1"\n}'), JobLine(1, 2, b"{}")]
    assert [job.text for job in unpack_jobs(pack_jobs(jobs))] == [b'{ "id": "1" }', b"{}"]


@given(st.sets(st.integers(0, 100)), st.integers(0, 100), st.integers(1, 40))
def test_done_bits_as_the_server_gives_them(done, first, count):
    bitmap = bytearray(max(done, default=-1) // 8 + 1)
    for index in done:
        bitmap[index // 8] |= 128 >> index % 8
    window = bytes(bitmap[first // 8 : (first + count - 1) // 8 + 1])  # GETRANGE
    for index in range(first, first + count):
        assert is_done(index, window, first) == (index in done)


@pytest.mark.parametrize("index", [0, 7, 8, 15, 16])
def test_done_bits_at_the_borders_of_bytes(index):
    one = bytearray(3)
    one[index // 8] = 128 >> index % 8
    assert [at for at in range(24) if is_done(at, bytes(one), 0)] == [index]
    assert not is_done(index, b"", 0)


def test_the_digest_tells_inputs_apart():
    shard = Shard(0, 0, [JobLine(0, 1, b"a"), JobLine(1, 3, b"b")], [(2, BadLine(4, "x"))])
    same = Shard(5, 0, list(shard.jobs), list(shard.bad))
    assert shard.count == 3
    assert shard.digest_after("") == same.digest_after("")
    others = [
        dataclasses.replace(shard, jobs=shard.jobs[:1]),
        dataclasses.replace(shard, jobs=[JobLine(0, 1, b"a"), JobLine(1, 3, b"c")]),
        dataclasses.replace(shard, jobs=[JobLine(0, 1, b"a"), JobLine(1, 2, b"b")]),
        dataclasses.replace(shard, bad=[]),
        dataclasses.replace(shard, bad=[(2, BadLine(5, "x"))]),
    ]
    digests = {one.digest_after("") for one in [shard, *others]} | {shard.digest_after("before")}
    assert len(digests) == 7
