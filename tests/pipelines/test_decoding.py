import json

import pytest

from dgq.engine.request import SamplingConfig
from dgq.pipelines.decoding import Decodings, load_decoding
from dgq.pipelines.errors import DecodingError


def test_without_a_file_the_defaults(tmp_path):
    assert load_decoding(tmp_path) == Decodings()
    assert Decodings().fill.start_of(0) == (1.0, 1.0)


def test_a_file_changes_some_fields(tmp_path):
    (tmp_path / "dgq.json").write_text(
        json.dumps(
            {
                "rewrite": {"draft_noise": [0, 0.25], "piece_tokens": 64},
                "fill": {"slot_tokens": 32, "pinned": ["enum", "note"]},
            }
        )
    )
    decodings = load_decoding(tmp_path)
    starts = [decodings.rewrite.start_of(attempt) for attempt in range(3)]
    assert starts == [(0, 1.0), (0.25, 1.0), (0.25, 1.0)]
    assert decodings.rewrite.piece_tokens == 64 and decodings.fill.slot_tokens == 32
    assert decodings.fill.pinned == ("enum", "note")
    assert decodings.reformat_json == Decodings().reformat_json


def test_a_kind_may_sample_otherwise_than_the_checkpoint(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"max_denoising_steps": 24, "t_max": 0.9}')
    (tmp_path / "dgq.json").write_text(
        """{"fill": {"full_width": true, "sampling": {"max_denoising_steps": 8, "t_min": 0.3,
        "stop_to_end": true, "stop_rule": "plateau"}}}"""
    )
    decodings = load_decoding(tmp_path)
    assert decodings.fill.sampling == SamplingConfig(
        max_denoising_steps=8, t_max=0.9, t_min=0.3, stop_to_end=True, stop_rule="plateau"
    )
    assert decodings.fill.full_width and not decodings.rewrite.full_width
    assert decodings.rewrite.sampling is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold an object"),
        (
            '{"reformat": {}}',
            "unknown kind 'reformat'; known are fill, fill_pinned, reformat_python",
        ),
        ('{"fill": 1}', "fill must be an object"),
        ('{"fill": {"noise": 1}}', "unknown field fill.noise; known are draft_noise"),
        ('{"fill": {"draft_noise": [2]}}', "fill.draft_noise must be a list of numbers in 0..1"),
        ('{"fill": {"draft_noise": 0.5}}', "fill.draft_noise must be a list"),
        ('{"fill": {"draft_noise": []}}', "fill.draft_noise must be a list"),
        ('{"fill": {"draft_noise": [true]}}', "fill.draft_noise must be a list"),
        ('{"fill": {"room": "wide"}}', "fill.room must be a number"),
        ('{"fill": {"max_attempts": 1.5}}', "fill.max_attempts must be a whole number"),
        ('{"fill": {"max_attempts": true}}', "whole number"),
        ('{"fill": {"pinned": ["enums"]}}', "fill.pinned must be a list of some of field, note"),
        ('{"fill": {"pinned": "enum"}}', "fill.pinned must be a list"),
        ('{"fill": {"pinned": [["enum"]]}}', "fill.pinned must be a list"),
        ('{"fill": {"full_width": 1}}', "fill.full_width must be true or false"),
        ('{"fill": {"sampling": []}}', "fill.sampling must be an object"),
        (
            '{"fill": {"sampling": {"steps": 1}}}',
            "unknown field fill.sampling.steps; known are max",
        ),
        ('{"fill": {"sampling": {"t_min": "low"}}}', "fill.sampling.t_min must be a number"),
        ('{"fill": {"sampling": {"max_rerolls": 0.5}}}', "max_rerolls must be a whole number"),
        ('{"fill": {"sampling": {"max_rerolls": true}}}', "max_rerolls must be a whole number"),
        ('{"fill": {"sampling": {"stop_to_end": 1}}}', "stop_to_end must be true or false"),
        ('{"fill": {"sampling": {"stop_rule": 1}}}', "stop_rule must be a name"),
        ('{"fill": {"sampling": {"stop_rule": "x"}}}', "fill.sampling: stop_rule must be one of"),
        ("\xff", "cannot read"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path, text, words):
    (tmp_path / "dgq.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DecodingError) as caught:
        load_decoding(tmp_path)
    assert words in str(caught.value) and "dgq.json" in str(caught.value)
