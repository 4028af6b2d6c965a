"""The benchmark's own counting, and one small run of it."""

import json
import re
from dataclasses import replace

import pytest

from benchmarks.decoding import (
    SWEEPS,
    RecordingEngine,
    edits,
    main,
    quantiles,
    reformatted,
    rows_of,
    settings_of,
)
from dgq.engine.engine import Engine
from dgq.engine.request import Request, Result, SamplingConfig
from dgq.pipelines.asking import chat
from dgq.pipelines.decoding import Decoding, changed_decoding
from dgq.pipelines.prompts import reformat_prompt
from training.case import Case, JobCase


def test_every_setting_is_one_that_dgq_json_may_hold() -> None:
    for settings in SWEEPS.values():
        for name, changes in settings.items():
            assert changed_decoding(Decoding(), changes, SamplingConfig(), name) is not None
    assert settings_of("shipped", ['x={"room": 2}']) == {"as shipped": {}, "x": {"room": 2}}


def test_rows_are_those_of_the_canvas() -> None:
    request = Request((1,), max_new_tokens=40, seed=0, canvas_length=64)
    assert rows_of(request) == 48 and rows_of(replace(request, max_new_tokens=200)) == 64
    assert quantiles({1: 5, 2: 4, 24: 1}) == "2/24/24"


def test_needed_edits_and_copies_are_counted_on_first_attempts() -> None:
    with Engine.load() as engine:
        recorder = RecordingEngine(engine)
    tokenizer = recorder.tokenizer
    cases = [
        JobCase({}, "", (Case("rewrite", f"Rewrite {i}", "the old cat", "the new dog"),))
        for i in range(3)
    ]
    for case, text in zip(cases, ["the old cat", "the new dog", "the old dog"], strict=True):
        request = Request(chat(tokenizer, case.cases[0].prompt), max_new_tokens=16, seed=0)
        for answer in (text, "the new dog"):  # the second attempt does not count
            ids = tuple(tokenizer.encode(answer))
            recorder.answered.append((request, Result(ids, "stop", 1, 2, 0, 0.0, 0.1)))
    recall, copies = edits(recorder, "rewrite", cases)
    assert copies == pytest.approx(1 / 3)
    assert recall == pytest.approx(1 / 2, abs=0.2) and 0 < recall < 1


def test_the_right_answer_of_a_piece_follows_from_its_prompt() -> None:
    json_prompt = reformat_prompt("json", "compact", '{"a": [1, 2]}')
    assert reformatted(json_prompt, "json") == ('{"a": [1, 2]}', '{"a":[1,2]}')
    source = "def f(self):\n x=1"
    python_prompt = reformat_prompt("python", "2-space indent, spaced operators", source)
    assert reformatted(python_prompt, "python") == (source, "def f(self):\n  x = 1")
    assert reformatted("Rewrite this text. Shorter.\n\nA text.", "rewrite") == ("", "")


def test_the_command_ends_with_one_line_of_json(capsys, monkeypatch) -> None:
    words = ["decoding", "--families", "json", "--jobs", "2", "--sweep", "width"]
    monkeypatch.setattr("sys.argv", [*words, "--only", "by need"])
    main()
    lines = capsys.readouterr().out.splitlines()
    (row,) = json.loads(lines[-1])
    assert (row["family"], row["setting"], row["jobs"]) == ("json", "by need", 2)
    assert row["edit_recall"] > 0.5 and row["rows_per_job"] >= 16
    assert sum(row["histogram"].values()) == 2 * row["requests_per_job"]
    assert re.fullmatch(r"\| by need \| .* \|", lines[-2])
