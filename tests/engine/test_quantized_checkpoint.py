"""From a 16-bit folder to one in four or eight bits and into the engine; and every way that it must fail."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import bitsandbytes.functional as bnb
import pytest
import torch
from safetensors.torch import load_file, save_file

from dgq.engine import quantized_checkpoint
from dgq.engine.checkpoint import load_model, read_quantization
from dgq.engine.engine import DEFAULT_MODEL_PATH, Engine
from dgq.engine.errors import CheckpointError, EngineError
from dgq.engine.quantization import UNQUANTIZED, Quantization
from dgq.engine.quantized_checkpoint import quantize_checkpoint
from dgq.engine.weight_files import INDEX_NAME, weight_files
from dgq.kernels import nf4

from .conftest import save_checkpoint

NF4 = Quantization("nf4")
DOUBLE = Quantization("nf4", double_quantization=True)
EXPERTS = Quantization("nf4-experts")
FP8 = Quantization("fp8-experts")
ALL = (EXPERTS, NF4, DOUBLE, FP8)
WEIGHT = "model.decoder.layers.0.experts.down_proj"
STATE = f"{WEIGHT}.quant_state.bitsandbytes__nf4"
QUANTIZATIONS = pytest.mark.parametrize("quantization", ALL, ids=str)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """dgq-tiny in each quantization, in several shards."""
    parent = tmp_path_factory.mktemp("quantized")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantized_checkpoint, "MAX_SHARD_BYTES", 500_000)
        folders = {}
        for quantization in ALL:
            folder = folders[quantization] = parent / str(len(folders))
            quantize_checkpoint(DEFAULT_MODEL_PATH, folder, quantization)
    return folders


def all_tensors(folder):
    return {
        name: tensor for path in weight_files(folder) for name, tensor in load_file(path).items()
    }


@QUANTIZATIONS
def test_stored_weights_are_those_quantized_while_loading(made, quantization):
    stored = load_model(made[quantization]).state_dict()
    direct = load_model(DEFAULT_MODEL_PATH, quantization=quantization).state_dict()
    assert stored.keys() == direct.keys()
    for name, tensor in stored.items():
        assert tensor.dtype == direct[name].dtype
        assert torch.equal(tensor, direct[name]), name


@QUANTIZATIONS
def test_what_is_quantized_and_what_is_not(made, quantization):
    original = load_model(DEFAULT_MODEL_PATH).state_dict()
    kept = load_model(made[quantization]).state_dict()
    packed = {name.rpartition(".")[0] for name in kept if name.endswith((".packed", ".values"))}
    linears = [name for name in original if "self_attn." in name or ".mlp." in name]
    linears = [name for name in linears if name.endswith("_proj.weight")]
    experts = [name for name in original if ".experts." in name]
    assert len(experts) == 8
    assert len(linears) == 2 * (3 + 4) + 4 * 3  # a full layer has no v_proj
    assert packed == set(experts if quantization in (EXPERTS, FP8) else experts + linears)
    for name in original.keys() - packed:
        assert torch.equal(kept[name], original[name]), name


@pytest.mark.parametrize("quantization", [EXPERTS, NF4, DOUBLE], ids=str)
def test_bitsandbytes_reads_every_weight(made, quantization):
    tensors = all_tensors(made[quantization])
    original = all_tensors(DEFAULT_MODEL_PATH)
    states = [name for name in tensors if name.endswith("bitsandbytes__nf4")]
    assert len(states) >= 8
    for state_name in states:
        name = state_name.removesuffix(".quant_state.bitsandbytes__nf4")
        facts = {key: value for key, value in tensors.items() if key.startswith(f"{name}.")}
        state = bnb.QuantState.from_dict(facts, torch.device("cpu"))
        theirs = bnb.dequantize_4bit(tensors[name], state)
        ours = nf4.quantize(original[name], quantization.double_quantization)
        assert torch.equal(theirs, nf4.dequantize(ours, torch.bfloat16)), name


def test_a_linear_layer_is_stored_as_bitsandbytes_stores_it(made):
    """Ours beside what its own class writes for the same weight."""
    import bitsandbytes

    name = "model.decoder.layers.0.mlp.up_proj.weight"
    weight = all_tensors(DEFAULT_MODEL_PATH)[name]
    layer = bitsandbytes.nn.Linear4bit(
        *reversed(weight.shape), bias=False, compress_statistics=False, quant_type="nf4"
    )
    layer.weight = bitsandbytes.nn.Params4bit(
        weight.clone(), requires_grad=False, compress_statistics=False, quant_type="nf4"
    )
    theirs = layer.to("cpu").state_dict()
    ours = {
        key.removeprefix(name.removesuffix("weight")): tensor
        for key, tensor in all_tensors(made[NF4]).items()
        if key.startswith(name)
    }
    assert ours.keys() == theirs.keys()
    for key in ours.keys() - {"weight.quant_state.bitsandbytes__nf4"}:
        assert ours[key].dtype == theirs[key].dtype
        assert torch.equal(ours[key], theirs[key]), key
    facts = [
        json.loads(bytes(tensors["weight.quant_state.bitsandbytes__nf4"].tolist()))
        for tensors in (ours, theirs)
    ]
    assert facts[0] == facts[1]


def test_fp8_is_stored_as_compressed_tensors_has_it(made):
    """A tensor of the weight's name and shape, and a scale for each of its rows."""
    tensors, original = all_tensors(made[FP8]), all_tensors(DEFAULT_MODEL_PATH)
    scales = {name for name in tensors if name.endswith("_scale")} - original.keys()
    assert len(scales) == 8 and f"{WEIGHT}_scale" in scales
    for scale_name in scales:
        name = scale_name.removesuffix("_scale")
        weight, scale = tensors[name], tensors[scale_name]
        assert weight.dtype == torch.float8_e4m3fn and weight.shape == original[name].shape
        assert scale.dtype == torch.float32 and scale.shape == (*weight.shape[:-1], 1)
        error = (weight.float() * scale - original[name].float()).norm()
        assert 0.01 < error / original[name].float().norm() < 0.03


def test_the_folder_is_whole(made):
    folder = made[NF4]
    assert len(weight_files(folder)) > 2
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json", "dgq.json"):
        assert (folder / name).read_bytes() == (DEFAULT_MODEL_PATH / name).read_bytes()
    index = json.loads((folder / INDEX_NAME).read_text())
    tensors = all_tensors(folder)
    assert index["weight_map"].keys() == tensors.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    assert not any("vision" in name for name in tensors)
    assert read_quantization(folder) == NF4
    assert sorted(path.name for path in folder.parent.iterdir()) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("quantization", [NF4, FP8], ids=str)
def test_the_engine_loads_it_and_answers_as_when_it_quantizes_itself(made, quantization):
    from dgq.engine.request import Request

    request = Request((2, 40, 41, 42), max_new_tokens=16, seed=3)
    texts = []
    for arguments in ({"model_path": made[quantization]}, {"preset": quantization.preset}):
        with Engine.load(**arguments) as engine:
            texts.append(engine.submit(request).result().token_ids)
    assert texts[0] == texts[1]


def test_a_preset_for_a_folder_that_has_another(made):
    load_model(made[NF4], quantization=NF4)
    with pytest.raises(CheckpointError, match=r"quantized already, as nf4; load it as it is"):
        load_model(made[NF4], quantization=EXPERTS)


def test_an_unknown_preset():
    with pytest.raises(EngineError, match="one of bf16, fp8-experts, nf4-experts, nf4, not 'q4'"):
        Engine.load(preset="q4")


@pytest.mark.parametrize(
    ("source", "target", "quantization", "message"),
    [
        ("tiny", "new", UNQUANTIZED, "bf16 is how .* is stored: nothing to do"),
        ("quantized", "new", NF4, "is quantized already; give the unquantized"),
        ("tiny", "there", NF4, "there exists; give the name"),
        ("tiny", "nowhere/new", NF4, "nowhere is not a folder"),
        ("nothing", "new", NF4, "nothing is not a folder"),
        ("empty", "new", NF4, "is not a checkpoint: it has no config.json"),
    ],
)
def test_refusals(made, tmp_path, source, target, quantization, message):
    (tmp_path / "there").mkdir()
    (tmp_path / "empty").mkdir()
    folders = {"tiny": DEFAULT_MODEL_PATH, "quantized": made[NF4]}
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match=message):
        quantize_checkpoint(folders.get(source, tmp_path / source), tmp_path / target, quantization)
    assert sorted(tmp_path.rglob("*")) == before


def test_no_room(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(
        CheckpointError, match=r"would take [34] MB and .* has 1 MB free; make room"
    ):
        quantize_checkpoint(DEFAULT_MODEL_PATH, tmp_path / "new", NF4)
    assert not any(tmp_path.iterdir())


def test_rows_that_no_block_divides(tmp_path):
    source = save_checkpoint(tmp_path / "odd")  # hidden size 32
    for quantization in (EXPERTS, FP8):
        with pytest.raises(CheckpointError, match=r"gate_up_proj has rows of 32 elements, no mult"):
            quantize_checkpoint(source, tmp_path / "new", quantization)


def test_only_nf4_has_scales_to_quantize():
    with pytest.raises(EngineError, match="double quantization is for NF4; fp8-experts has one"):
        Quantization("fp8-experts", double_quantization=True)


def test_a_broken_source_leaves_nothing_behind(tmp_path):
    source = shutil.copytree(DEFAULT_MODEL_PATH, tmp_path / "broken")
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"model.safetensors is cut off or broken"):
        quantize_checkpoint(source, tmp_path / "new", NF4)
    assert [entry.name for entry in tmp_path.iterdir()] == ["broken"]


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    """A limit on the size of files stands in for the disk."""
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from dgq.engine.quantization import Quantization\n"
        "from dgq.engine.quantized_checkpoint import quantize_checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "quantize_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), Quantization('nf4'))\n"
    )
    command = [sys.executable, "-c", script, str(DEFAULT_MODEL_PATH), str(tmp_path / "new")]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "CheckpointError: cannot write" in process.stderr.splitlines()[-1]
    assert not any(tmp_path.iterdir())


def test_killed_half_way_there_is_no_target(tmp_path):
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from dgq.engine import quantized_checkpoint\n"
        "from dgq.engine.quantization import Quantization\n"
        "quantized_checkpoint.MAX_SHARD_BYTES = 500_000\n"
        "quantized_checkpoint.quantize_checkpoint(\n"
        "    Path(sys.argv[1]), Path(sys.argv[2]), Quantization('nf4'),\n"
        "    lambda done, total: time.sleep(0.05),\n"
        ")\n"
    )
    target = tmp_path / "new"
    process = subprocess.Popen([sys.executable, "-c", script, str(DEFAULT_MODEL_PATH), str(target)])
    while process.poll() is None and len(list(tmp_path.glob(".new*/*.safetensors"))) < 2:
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not target.exists()
    (left,) = tmp_path.iterdir()
    with pytest.raises(CheckpointError, match=r"is not a checkpoint: it has no config.json"):
        load_model(left)


@pytest.fixture
def broken(made, tmp_path):
    """A function that changes a tensor in a copy of a quantized folder."""

    def change(name, tensor, quantization=DOUBLE):
        folder = shutil.copytree(made[quantization], tmp_path / "broken")
        shard = json.loads((folder / INDEX_NAME).read_text())["weight_map"][name]
        tensors = load_file(folder / shard)
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
        save_file(tensors, folder / shard)
        return folder

    return change


def as_bytes(**changes):
    state = {
        "quant_type": "nf4",
        "blocksize": 64,
        "dtype": "bfloat16",
        "shape": [4, 192, 192],
        "nested_blocksize": 256,
        "nested_dtype": "float32",
        "nested_offset": 0.5,
    }
    return torch.tensor(list(json.dumps(state | changes).encode()), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (WEIGHT, None, r"broken lacks decoder.layers.0.experts.down_proj; download"),
        (f"{WEIGHT}.absmax", None, r"lacks decoder.layers.0.experts.down_proj.absmax"),
        (STATE, None, r"lacks decoder.layers.0.experts.down_proj.quant_state"),
        (f"{WEIGHT}.nested_absmax", None, r"lacks .*nested_absmax"),
        (
            WEIGHT,
            torch.zeros(4, 192, 192),
            r"model-0000\d-of-\d+.safetensors: decoder.*down_proj is float32 \[4, 192, 192\], .*uint8",
        ),
        (f"{WEIGHT}.absmax", torch.zeros(2304), r"down_proj.absmax is float32 \[2304\]"),
        (f"{WEIGHT}.quant_map", torch.zeros(16), r"quant_map is another code than NF4's"),
        (STATE, as_bytes(blocksize=128), r"nf4 says that blocksize is 128; this weight needs 64"),
        (STATE, as_bytes(shape=[4, 96, 384]), r"says that shape is \[4, 96, 384\]"),
        (STATE, as_bytes(nested_offset=None), r"says that nested_offset is None"),
        (STATE, torch.zeros(5, dtype=torch.uint8), r"does not hold a JSON object"),
        (STATE, torch.zeros(5), r"is stored as torch.float32, not as the bytes"),
    ],
)
def test_broken_weights_are_named(broken, name, tensor, message):
    folder = broken(name, tensor)
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (WEIGHT, None, r"broken lacks decoder.layers.0.experts.down_proj; download"),
        (f"{WEIGHT}_scale", None, r"lacks decoder.layers.0.experts.down_proj_scale; download"),
        (
            WEIGHT,
            torch.zeros(4, 192, 192, dtype=torch.bfloat16),
            r"down_proj is bfloat16 \[4, 192, 192\], but config.json asks for float8_e4m3fn",
        ),
        (
            f"{WEIGHT}_scale",
            torch.zeros(4, 192),
            r"down_proj_scale is float32 \[4, 192\], but .* float32 \[4, 192, 1\]",
        ),
    ],
)
def test_broken_fp8_weights_are_named(broken, name, tensor, message):
    folder = broken(name, tensor, FP8)
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"quant_method": "fp8"}, r"config.json: .*quant_method is 'fp8'; dgq reads what dgq"),
        ("nf4", r"quant_method is 'nf4'"),
        ({"quant_method": "dgq", "preset": "nf3"}, r"which this dgq does not know"),
        ({"quant_method": "dgq", "preset": ["nf4"]}, r"which this dgq does not know"),
        (FP8.to_config() | {"weight_scale": "tensor"}, r"which this dgq does not know"),
        (
            Quantization("nf4-experts").to_config(),  # not what the files hold
            r"does not have; check that config.json and the weights belong together",
        ),
    ],
)
def test_another_quantization_in_config(made, tmp_path, section, message):
    folder = shutil.copytree(made[NF4], tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = section
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)


def test_a_quantized_folder_without_its_config_is_refused(made, tmp_path):
    folder = shutil.copytree(made[NF4], tmp_path / "copy")
    shutil.copy(DEFAULT_MODEL_PATH / "config.json", folder)
    with pytest.raises(
        CheckpointError, match=r"absmax, which a DiffusionGemma of this config.json"
    ):
        load_model(folder)


def test_a_missing_shard_is_named(made, tmp_path):
    folder = shutil.copytree(made[NF4], tmp_path / "copy")
    shard = weight_files(folder)[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"has no {shard.name}"):
        load_model(folder)
