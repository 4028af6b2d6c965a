import json

from dgq.pipelines.result import Check, JobResult, Stats


def test_a_row_is_one_line_of_json():
    row = JobResult(
        id="1",
        line=3,
        kind="fill",
        status="ok",
        output="a\nb\u2028é",
        checks=(Check(name="slot a", passed=None, detail="copied"),),
        stats=Stats(tokens=3, mean_entropy=0.5, seed=0, model="m"),
    )
    text = row.to_json_line()
    assert "\n" not in text
    assert json.loads(text)["output"] == "a\nb\u2028é"
    assert list(json.loads(text)) == [
        "id", "line", "kind", "status", "output", "checks", "error", "stats",
    ]  # fmt: skip
    assert JobResult.model_validate_json(text) == row
