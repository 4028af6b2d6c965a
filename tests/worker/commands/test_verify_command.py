"""``dgq verify``: every way in which results may differ from what the jobs ask for."""

import json

import pytest

from dgq.worker import exit_codes


@pytest.fixture
def jobs(jobs_file, rewrite):
    return jobs_file(rewrite("a"), b"{", rewrite("b"), b"", {"id": "c", "kind": "juggle"})


ROWS = [
    '{"id":"a","status":"ok"}',
    '{"id":null,"line":2,"status":"error"}',
    '{"id":"b","status":"invalid_output"}',
    '{"id":"c","status":"error"}',
]


@pytest.fixture
def verify(dgq, jobs, tmp_path):
    def verify(*rows, end="\n", more=()):
        (tmp_path / "out").write_text("\n".join(rows) + (end if rows else ""))
        return dgq("verify", "jobs.jsonl", "out", *more)

    return verify


def test_each_row_once_in_any_order_is_the_same(verify):
    for rows in (ROWS, ROWS[::-1]):
        done = verify(*rows)
        assert (done.code, done.err) == (exit_codes.OK, "")
        assert done.out == (
            "2 jobs and 2 bad lines, 4 rows (2 error, 1 invalid_output, 1 ok): the same\n"
        )


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        (ROWS[1:], ["jobs.jsonl line 1 has no row"]),
        ([ROWS[0], *ROWS[2:]], ["jobs.jsonl line 2 has no row"]),
        (ROWS[:3], ["jobs.jsonl line 5 has no row"]),
        ([*ROWS, ROWS[0]], ["out line 5 is a second row of the id 'a', after line 1"]),
        ([*ROWS, ROWS[1]], ["out line 5 is a second row of the bad line 2, after line 2"]),
        (
            [*ROWS, '{"id":"x","status":"ok"}'],
            ["out line 5 is a row of the id 'x', which the input does not have"],
        ),
        (
            [*ROWS, '{"id":null,"line":3,"status":"error"}'],
            ["out line 5 is a row of the bad line 3, which the input does not have"],
        ),
        ([*ROWS, '{"id":"\\ud800","status":"ok"}'], [r"out line 5 is a row of the id '\ud800', w"]),
        ([*ROWS, "{}"], ["out line 5: not a row of results"]),
        ([*ROWS, ""], ["out line 5: not a row of results"]),
        ([], [f"jobs.jsonl line {n} has no row" for n in (1, 2, 3, 5)]),
    ],
)
def test_what_differs_is_named_with_its_line(verify, rows, lines):
    done = verify(*rows)
    assert done.code == exit_codes.DIFFERENCES
    *found, counts = done.out.splitlines()
    assert len(found) == len(lines)
    assert all(one.startswith(line) for one, line in zip(found, lines, strict=True))
    assert " missing, " in counts and counts.endswith(" broken")


def test_a_torn_last_line_is_no_row(verify):
    done = verify(*ROWS, end="")
    assert done.code == exit_codes.DIFFERENCES
    assert done.out.splitlines()[:2] == [
        "jobs.jsonl line 5 has no row",
        "out line 4: the last line is torn",
    ]


def test_of_many_differences_the_first_are_shown(verify):
    done = verify(*ROWS, *(f'{{"id":"x{n}","status":"ok"}}' for n in range(25)))
    lines = done.out.splitlines()
    assert len(lines) == 22 and lines[20] == "and 5 more foreign rows"
    assert lines[-1].endswith(": 0 missing, 0 doubled, 25 foreign, 0 broken")


def test_json_has_it_all(verify):
    done = verify(ROWS[0], ROWS[0], '{"id":"x","status":"ok"}', "what", more=["--json"])
    assert done.code == exit_codes.DIFFERENCES
    assert json.loads(done.out) == {
        "same": False,
        "num_jobs": 2,
        "num_bad_lines": 2,
        "num_rows": 3,
        "num_by_status": {"ok": 3},
        "missing": {
            "count": 3,
            "first": [{"file": "jobs.jsonl", "line": line} for line in (2, 3, 5)],
        },
        "doubled": {
            "count": 1,
            "first": [{"line": 2, "first_line": 1, "id": "a", "input_line": None}],
        },
        "foreign": {"count": 1, "first": [{"line": 3, "id": "x", "input_line": None}]},
        "broken": {"count": 1, "first": [{"line": 4, "why": "not a row of results"}]},
    }


def test_several_files_may_each_have_a_bad_line_of_the_same_number(dgq, jobs_file, tmp_path):
    jobs_file(b"{", name="1.jsonl")
    jobs_file(b"{", name="2.jsonl")
    row = '{"id":null,"line":1,"status":"error"}\n'
    (tmp_path / "out").write_text(row)
    done = dgq("verify", "*.jsonl", "out")
    assert done.code == exit_codes.DIFFERENCES and "2.jsonl line 1 has no row" in done.out
    (tmp_path / "out").write_text(row * 2)
    assert dgq("verify", "*.jsonl", "out").code == exit_codes.OK
    (tmp_path / "out").write_text(row * 3)
    assert "out line 3 is a second row of the bad line 1" in dgq("verify", "*.jsonl", "out").out


def test_jobs_may_come_from_stdin(dgq, jobs, tmp_path):
    (tmp_path / "out").write_text("\n".join(ROWS) + "\n")
    assert dgq("verify", "-", "out", stdin=jobs.read_bytes()).code == exit_codes.OK


@pytest.mark.parametrize("args", [["jobs.jsonl", "none"], ["none", "jobs.jsonl"], ["."] * 2])
def test_files_that_are_not_there_are_one_line(dgq, jobs, args):
    done = dgq("verify", *args)
    assert (done.code, done.out, done.err.count("\n")) == (exit_codes.USAGE, "", 1)


def test_what_a_run_in_this_process_wrote_is_the_same(dgq, jobs):
    dgq("run", "jobs.jsonl", "-o", "out")
    assert dgq("verify", "jobs.jsonl", "out").code == exit_codes.OK
