import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgq.pipelines.job import FillJob
from dgq.pipelines.parsing import Limits
from dgq.pipelines.reading import BadLine, read_job_lines, read_jobs, read_line

GOOD = {"id": "1", "kind": "rewrite", "text": "Hello.", "instruction": "Shout."}


def read(data, **limits):
    return list(read_jobs(io.BytesIO(data), limits=Limits(**limits)))


def line(**changes):
    fields = {**GOOD, **changes}
    return json.dumps({key: value for key, value in fields.items() if value is not ...}).encode()


def test_bom_blank_lines_crlf_and_a_missing_last_line_end():
    data = b"\xef\xbb\xbf" + line(id=7) + b"\r\n\r\n  \n" + line(id="b") + b"\n\n" + line(id="c")
    jobs = read(data)
    assert [(job.id, job.line) for job in jobs] == [("7", 1), ("b", 4), ("c", 6)]
    assert read(b"") == [] == read(b"\n\n\r\n") == read(b"\xef\xbb\xbf")


def test_numbers_of_a_record_keep_their_spelling():
    data = b'{"id":"1","kind":"fill","template":"{{a}}","record":{"a":129.50,"b":[1E5,2.5,3]}}'
    (job,) = read(data)
    assert job.record == {"a": "129.50", "b": ["1E5", 2.5, 3]}
    (bad,) = read(line(seed=...)[:-1] + b', "seed": 1.50}')
    assert "must be a whole number, not a number" in bad.message


@pytest.mark.parametrize(
    ("data", "field", "words"),
    [
        (b'{"id": "1", "kind"\n', None, "not JSON: expecting ':' delimiter at column 19"),
        (b'{"id": "1",}\n', None, "column 12"),
        (b'{"id": "1\n', None, "unterminated string starting at column 8"),
        (b'{"id": "\x00"}', None, "invalid control character at column 9"),
        (b'{"a": "\xff"}', None, "not UTF-8: byte 0xff at byte 8 of the line"),
        (b"[1]", None, "a job must be an object, not a list"),
        (b'"x"', None, "not a text"),
        (b'{"id": NaN}', None, "NaN is not a JSON value"),
        (b'{"id": 1, "id": 2}', None, "'id' occurs twice"),
        (b'{"kind": "fill", "record": {"x": -Infinity}}', None, "-Infinity"),
        (b'{"a": ' + b"9" * 5000 + b"}", None, "too many digits"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, None, "nested too deeply"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "a", "nested deeper than 64"),
        (line(kind=...), "kind", "the field 'kind' is missing; it is one of fill, reformat, rew"),
        (line(kind="rewritte"), "kind", "did you mean 'rewrite'"),
        (line(kind=3), "kind", "unknown kind a number"),
        (line(text=...), "text", "the field 'text' is missing"),
        (line(text=5), "text", "'text' must be a text, not a number"),
        (line(text=None), "text", "'text' must be a text, not null"),
        (line(text=""), "text", "at least one character"),
        (line(id=...), "id", "'id' is missing"),
        (line(id=""), "id", "at least one character"),
        (line(id="x" * 201), "id", "at most 200 characters"),
        (line(id=True), "id", "'id' must be a text, not true or false"),
        (line(instructions="x"), "instructions", "did you mean 'instruction'"),
        (line(zzz=1), "zzz", "unknown field 'zzz'"),
        (line(seed=1.5), "seed", "must be a whole number"),
        (line(seed=2**70), "seed", "below"),
        (line(keep_numbers=1), "keep_numbers", "must be true or false, not a number"),
        (line(format="html"), "format", "one of 'text' or 'markdown', not 'html'"),
        (line(max_attempts=0), "max_attempts", "at least 1"),
        (b'{"id":"1","kind":"rewrite","text":"\\ud800","instruction":"x"}', "text", "half a char"),
        (b'{"id":"1","kind":"rewrite","\\udfff":1}', None, "half a char"),
        (b'{"id":"1","kind":"fill","template":"{{a}}","record":{"a":1e999}}', "record.a", "large"),
        (b'{"id":"1","kind":"fill","template":"{{a}}","record":[1]}', "record", "object or a text"),
        (b'{"id":"1","kind":"fill","template":"{{a}}"}', None, "slots without values: a"),
        (
            b'{"id":"1","kind":"fill","template":"{{a}}","record":"x","slots":{"a":{"type":"int"}}}',
            "slots.a.type",
            "'slots.a.type' must be one of 'text', 'enum'",
        ),
        (
            b'{"id":"1","kind":"fill","template":"{{a}}","record":"x","instructions":{"a":1}}',
            "instructions.a",
            "must be a text, not a number",
        ),
        (
            b'{"id":"1","kind":"fill","template":"{{a}}","record":"x","slots":{"a":{"type":"enum"}}}',
            "slots.a",
            "the type 'enum' needs 'values'",
        ),
    ],
)
def test_bad_lines_say_what_is_wrong(data, field, words):
    (bad, good) = read(data.rstrip(b"\n") + b"\n" + line(id="next"))
    assert isinstance(bad, BadLine) and bad.line == 1
    assert words in bad.message and bad.field == field
    assert "pydantic" not in bad.message.lower() and "\n" not in bad.message
    assert good.id == "next"


def test_the_id_of_a_bad_line_is_kept_where_it_is_one():
    bad = read(line(id=12, text=...) + b"\n" + line(id="\ud800") + b"\n" + line(id=[1]))
    assert [each.id for each in bad] == ["12", None, None]


def test_duplicate_ids_name_the_first_line_and_keep_no_id():
    first, second, third = read(b"\n".join([line(), line(id=1), line(text=...)]))
    assert first.id == "1"
    assert second == BadLine(2, "the id '1' is already that of line 1", None, "id")
    assert (third.line, third.id) == (3, None)


def test_overlong_lines_are_skipped_without_holding_them():
    reads = []

    class Stream(io.BytesIO):
        def readline(self, size=-1):
            got = super().readline(size)
            reads.append(len(got))
            return got

    long = b'{"x": "' + b"y" * 500_000 + b'"}'
    data = line(id="a") + b"\n" + long + b"\r\n" + line(id="b") + b"\n" + long
    jobs = list(read_jobs(Stream(data), limits=Limits(line_bytes=1000)))
    assert [type(job).__name__ for job in jobs] == [
        "RewriteJob",
        "BadLine",
        "RewriteJob",
        "BadLine",
    ]
    assert "longer than 1,000 bytes" in jobs[1].message and jobs[3].line == 4
    assert max(reads) <= 65536
    exact = line(id="e")
    assert read(exact + b"\r\n", line_bytes=len(exact))[0].id == "e"
    assert isinstance(read(exact + b"\r\n", line_bytes=len(exact) - 1)[0], BadLine)
    assert isinstance(next(read_jobs([long], limits=Limits(line_bytes=1000))), BadLine)


def test_overlong_texts():
    (bad,) = read(line(text="x" * 1001), text_chars=1000)
    assert bad.field == "text" and "1,001 characters; at most 1,000" in bad.message


def test_an_iterable_of_lines_does_too():
    jobs = list(read_jobs([line(id="a"), b"\n", line(id="b") + b"\n"]))
    assert [(job.id, job.line) for job in jobs] == [("a", 1), ("b", 3)]


@settings(max_examples=200)
@given(st.lists(st.one_of(st.binary(max_size=40), st.just(line()), st.just(b'{"kind":"fill"}'))))
def test_any_bytes_give_one_entry_for_each_line_that_is_not_blank(lines):
    data = b"\n".join(lines)
    entries = read(data)
    expected = [
        number
        for number, each in enumerate(data.split(b"\n"), 1)
        if (each.removeprefix(b"\xef\xbb\xbf") if number == 1 else each).strip(b" \t\r\n")
    ]
    assert [entry.line for entry in entries] == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200)
@given(
    st.sampled_from(["fill", "reformat", "rewrite"]),
    st.dictionaries(
        st.sampled_from(
            ["id", "template", "record", "slots", "instructions", "code", "text", "seed"]
        ),
        JSON,
    ),
)
def test_any_values_of_known_fields_give_a_job_or_a_sentence(kind, fields):
    (entry,) = read(json.dumps({**fields, "kind": kind}).encode())
    if isinstance(entry, BadLine):
        assert entry.message and "\n" not in entry.message.replace("\\n", "")
    else:
        assert entry.kind == kind


def test_what_is_read_is_the_job_that_python_would_build():
    job = read(b'{"id":1,"kind":"fill","template":"{{a}}","record":{"a":[1,{"b":null}]}}')[0]
    built = FillJob(id="1", template="{{a}}", record={"a": [1, {"b": None}]})
    assert job.model_dump() == built.model_dump()


@pytest.mark.parametrize("as_stream", [True, False])
def test_each_job_comes_with_its_line(as_stream):
    lines = [
        b"\xef\xbb\xbf" + line(id=7) + b"\r\n",
        b" \t\r\n",
        b"  " + line(id="b") + b"\t\n",
        b"no job\n",
        line(id="7") + b"\n",  # once more
        line(id="x" * 300) + b"\n",
        line(id="c", text="x" * 500) + b"\n",
        line(id="d", text="\u2028\x85"),
    ]
    source = io.BytesIO(b"".join(lines)) if as_stream else lines
    entries = list(read_job_lines(source, limits=Limits(line_bytes=400)))
    assert [(entry.line, text) for entry, text in entries] == [
        (1, line(id=7)),
        (3, line(id="b")),
        (4, b""),
        (5, b""),
        (6, b""),
        (7, b""),
        (8, line(id="d", text="\u2028\x85")),
    ]
    source = io.BytesIO(b"".join(lines)) if as_stream else lines
    jobs = list(read_jobs(source, limits=Limits(line_bytes=400)))
    assert jobs == [entry for entry, _ in entries]


def test_a_line_that_was_kept_is_read_again_as_the_same_job():
    fill = {"id": "1", "kind": "fill", "template": "{{a}}", "record": {"a": 1}}
    text = json.dumps(fill).replace("1}", "129.50}").encode()
    ((job, kept),) = read_job_lines([text])
    assert kept == text
    assert read_line(kept, 1) == job
    assert read_line(kept, 5).line == 5
    assert read_line(b"{", 9).line == 9


def test_lines_are_pulled_one_at_a_time():
    pulled = []

    def lines():
        for number in range(3):
            pulled.append(number)
            yield line(id=number)

    entries = read_job_lines(lines())
    assert pulled == []
    for number in range(3):
        assert next(entries)[0].id == str(number)
        assert len(pulled) == number + 1
