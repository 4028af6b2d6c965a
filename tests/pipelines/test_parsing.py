import pytest

from dgq.pipelines.errors import JobError
from dgq.pipelines.parsing import parse_job


@pytest.mark.parametrize(
    "data",
    [
        {
            "id": "a",
            "kind": "fill",
            "template": "{{x}}",
            "record": {"y": 1.5, "z": [None, True]},
            "slots": {"x": {"type": "enum", "values": ["p", "q"], "grounded": False}},
            "seed": 3,
        },
        {"id": "b", "kind": "reformat", "code": "x=1", "language": "python", "style": "black"},
        {"id": "c", "kind": "rewrite", "text": "t", "instruction": "i", "keep_numbers": True},
    ],
)
def test_a_job_holds_what_was_given(data):
    job = parse_job(data)
    assert {"kind": job.kind, **job.model_dump(mode="json", exclude_defaults=True)} == data


def test_jobs_are_frozen():
    job = parse_job({"id": 5, "kind": "rewrite", "text": "t", "instruction": "i"})
    with pytest.raises(Exception, match="frozen"):
        job.text = "other"
    assert (job.id, job.line, job.at_line(9).line) == ("5", None, 9)


def test_errors_carry_the_field():
    with pytest.raises(JobError) as caught:
        parse_job({"id": "1", "kind": "reformat", "code": "x"})
    assert (caught.value.field, caught.value.message) == (
        "language",
        "the field 'language' is missing",
    )
