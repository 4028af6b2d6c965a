"""The mean of two checkpoints."""

import shutil

import torch
from safetensors.torch import load_file, save_file

from dgq.engine.engine import DEFAULT_MODEL_PATH
from training.average import WEIGHTS, average


def test_every_weight_lies_between_the_two(tmp_path):
    old, new, out = (tmp_path / name for name in ("old", "new", "out"))
    shutil.copytree(DEFAULT_MODEL_PATH, new)
    ours = load_file(new / WEIGHTS)
    old.mkdir()
    save_file({name: tensor + 1 for name, tensor in ours.items()}, old / WEIGHTS)
    average(new, old, out, share=0.75)
    mean = load_file(out / WEIGHTS)
    assert mean.keys() == ours.keys()
    for name, tensor in ours.items():
        wanted = (tensor.float() * 0.75 + (tensor + 1).float() * 0.25).to(tensor.dtype)
        assert torch.equal(mean[name], wanted)
    assert (out / "dgq.json").read_text() == (new / "dgq.json").read_text()
