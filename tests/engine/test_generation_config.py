"""generation_config.json as transformers writes it, and as people break it."""

import json

import pytest

from dgq.engine.errors import CheckpointError
from dgq.engine.generation_config import read_generation_config
from dgq.engine.request import SamplingConfig

from .conftest import EOS_IDS


def write(folder, **fields):
    (folder / "generation_config.json").write_text(json.dumps(fields))
    return folder


def test_what_transformers_wrote(checkpoint):
    config = read_generation_config(checkpoint)
    assert config.sampling == SamplingConfig(
        max_denoising_steps=12,
        entropy_bound=4.0,
        t_max=0.9,
        t_min=0.3,
        stability_threshold=1,
        confidence_threshold=0.5,
    )
    assert config.eos_ids == tuple(EOS_IDS) and config.filler_id == EOS_IDS[0]
    assert (config.pad_id, config.bos_id) == (0, 2)


def test_a_missing_file_means_the_published_values(tmp_path):
    config = read_generation_config(tmp_path)
    assert config.sampling == SamplingConfig()
    assert config.eos_ids == (1, 106, 50) and config.pad_id == 0 and config.bos_id == 2


def test_missing_fields_mean_the_published_values(tmp_path):
    config = read_generation_config(write(tmp_path, eos_token_id=3, t_min=None))
    assert config.sampling == SamplingConfig() and config.eos_ids == (3,)
    config = read_generation_config(write(tmp_path, pad_token_id=9))
    assert config.eos_ids == () and config.filler_id == 9


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_denoising_steps": "48"}, "max_denoising_steps is '48', expected a number"),
        ({"max_denoising_steps": 4.5}, "max_denoising_steps"),
        ({"max_denoising_steps": 0}, "max_denoising_steps must be at least 1"),
        ({"t_min": True}, "t_min is True"),
        ({"t_min": 0.9, "t_max": 0.8}, "t_min <= t_max"),
        ({"sampler_config": {"_cls_name": "Other", "entropy_bound": 0.1}}, "Other"),
        ({"sampler_config": 0.1}, "sampler_config is 0.1"),
        ({"sampler_config": {"entropy_bound": None}}, "entropy_bound is None"),
        ({"eos_token_id": "1"}, "eos_token_id is '1'"),
        ({"eos_token_id": [1, -1]}, "eos_token_id"),
    ],
)
def test_wrong_fields_are_named(tmp_path, fields, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        read_generation_config(write(tmp_path, **fields))
    assert "generation_config.json" in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\xff"])
def test_broken_files(tmp_path, content):
    (tmp_path / "generation_config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        read_generation_config(tmp_path)
