"""Loading: the layouts that exist, and a clear answer to every broken folder."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from dgq.engine.checkpoint import load_model
from dgq.engine.errors import CheckpointError
from dgq.engine.weight_files import INDEX_NAME, WEIGHTS_NAME, weight_files

from .conftest import save_checkpoint


def all_tensors(folder):
    return {
        name: tensor
        for path in folder.glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


@pytest.fixture
def folder(checkpoint, tmp_path):
    """A copy of the sharded checkpoint, to be broken."""
    return shutil.copytree(checkpoint, tmp_path / "checkpoint")


@pytest.fixture
def single(checkpoint, tmp_path):
    """The same in one file, and a function that rewrites its tensors."""
    folder = tmp_path / "single"
    folder.mkdir()
    shutil.copy(checkpoint / "config.json", folder)
    tensors = all_tensors(checkpoint)

    def rewrite(change=lambda tensors: None):
        change(tensors)
        save_file(tensors, folder / WEIGHTS_NAME)
        return folder

    return rewrite


def assert_same_weights(model, other):
    wanted = other.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


def test_shards_fill_every_tensor(checkpoint):
    model = load_model(checkpoint)
    assert len(weight_files(checkpoint)) >= 3
    stored = all_tensors(checkpoint)
    for name, tensor in model.state_dict().items():
        assert not tensor.is_meta
        assert torch.equal(tensor, stored[f"model.{name}"]), name
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_vision_tensors_are_skipped(checkpoint):
    skipped = {name for name in all_tensors(checkpoint) if "vision" in name}
    assert any("vision_tower" in name for name in skipped)
    assert any("embed_vision" in name for name in skipped)
    assert not any("vision" in name for name in load_model(checkpoint).state_dict())


def test_one_file_and_bare_names(single, checkpoint):
    def strip(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    assert_same_weights(load_model(single()), load_model(checkpoint))
    assert_same_weights(load_model(single(strip)), load_model(checkpoint))


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_16_bit_files_become_the_engines_dtype(single, checkpoint, stored):
    def convert(tensors):
        for name, tensor in tensors.items():
            tensors[name] = tensor.to(stored)

    model = load_model(single(convert))
    for name, tensor in load_model(checkpoint).state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor.to(stored).float()), name
    half = load_model(checkpoint, torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}


def test_weights_do_not_depend_on_the_file_after_loading(single, checkpoint):
    folder = single()
    model = load_model(folder)
    (folder / WEIGHTS_NAME).write_bytes(b"")
    assert_same_weights(model, load_model(checkpoint))


def test_tied_copies_are_accepted_if_equal(single, checkpoint):
    def duplicate(tensors):
        for name in list(tensors):
            if name.startswith("model.decoder.layers.") and "layer_scalar" not in name:
                copy = name.replace("model.decoder.", "model.encoder.language_model.")
                tensors[copy] = tensors[name].clone()
        tensors["lm_head.weight"] = tensors["model.decoder.embed_tokens.weight"].clone()

    assert_same_weights(load_model(single(duplicate)), load_model(checkpoint))


def test_untied_copies_are_refused(single):
    def untie(tensors):
        tensors["lm_head.weight"] = tensors["model.decoder.embed_tokens.weight"] + 1

    with pytest.raises(CheckpointError, match=r"lm_head.weight differs from .*embed_tokens.*tied"):
        load_model(single(untie))


def changed(name, change):
    def apply(tensors):
        change(tensors, f"model.{name}")

    return apply


def drop(tensors, name):
    del tensors[name]


def reshape(tensors, name):
    tensors[name] = torch.zeros(3, 5)


def add(tensors, name):
    tensors[name] = torch.zeros(3)


def make_integer(tensors, name):
    tensors[name] = torch.zeros(tensors[name].shape, dtype=torch.int8)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("decoder.norm.weight", drop, r"lacks decoder.norm.weight; download or copy"),
        ("encoder.language_model.layers.1.layer_scalar", drop, r"lacks encoder.*1.layer_scalar"),
        (
            "decoder.layers.0.self_attn.q_proj.weight",
            reshape,
            r"decoder.layers.0.self_attn.q_proj.weight has shape \[3, 5\], .* asks for \[32, 32\]",
        ),
        ("decoder.layers.9.mlp.up_proj.weight", add, r"holds decoder.layers.9.* does not have"),
        ("decoder.layers.1.self_attn.v_proj.weight", add, r"layers.1.self_attn.v_proj"),
        ("other.weight", add, r"holds other.weight"),
        ("decoder.norm.weight", make_integer, r"stored as torch.int8.*use the unquantized one"),
    ],
)
def test_wrong_tensors_are_named(single, name, change, message):
    with pytest.raises(CheckpointError, match=message):
        load_model(single(changed(name, change)))


def test_many_missing_tensors_are_counted(single):
    def drop_layer(tensors):
        for name in [name for name in tensors if ".layers.2." in name]:
            del tensors[name]

    with pytest.raises(CheckpointError, match=r"and \d+ more tensors"):
        load_model(single(drop_layer))


def test_no_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing is not a folder; give the folder"):
        load_model(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file is not a folder"):
        load_model(tmp_path / "file")


def test_a_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"not a checkpoint: it has no config.json"):
        load_model(tmp_path)


def test_wrong_model_type(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "gemma4"}))
    with pytest.raises(
        CheckpointError, match=r"model_type is 'gemma4'; dgq runs 'diffusion_gemma'"
    ):
        load_model(folder)


def test_missing_weights(folder):
    (folder / INDEX_NAME).unlink()
    for path in folder.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"has no model.safetensors; download or copy"):
        load_model(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"only pickled weights, which dgq never reads; save"):
        load_model(folder)


def test_missing_shard(folder):
    shard = weight_files(folder)[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"has no {shard.name}; download or copy"):
        load_model(folder)


@pytest.mark.parametrize("size", [0, 5, 100, -10])
def test_truncated_shard(folder, size):
    shard = weight_files(folder)[1]
    content = shard.read_bytes()
    shard.write_bytes(content[:size])
    with pytest.raises(CheckpointError, match=rf"{shard.name} is cut off or broken .*again"):
        load_model(folder)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": []}'])
def test_broken_index(folder, index):
    (folder / INDEX_NAME).write_text(index)
    with pytest.raises(CheckpointError, match=INDEX_NAME):
        load_model(folder)


def test_index_cannot_point_outside(folder):
    (folder / INDEX_NAME).write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    with pytest.raises(CheckpointError, match="points outside of its folder"):
        load_model(folder)


def test_a_tensor_in_two_shards(folder):
    first = weight_files(folder)[0]
    shutil.copy(first, folder / "twice.safetensors")
    index = json.loads((folder / INDEX_NAME).read_text())
    index["weight_map"]["x"] = "twice.safetensors"
    (folder / INDEX_NAME).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="a second time"):
        load_model(folder)


def test_a_checkpoint_without_shards_from_transformers(tmp_path):
    folder = save_checkpoint(tmp_path, max_shard_size="1GB")
    assert [path.name for path in weight_files(folder)] == [WEIGHTS_NAME]
    load_model(folder)
