"""Every section on a micro shape in this process: what is asked for is what is done."""

import json
import shutil
from dataclasses import replace

import pytest

from dgq.bench.beside_transformers import EXPERTS, TransformersSection
from dgq.bench.engines import StepTimes, answer_all, fixed_steps, open_engine, room_for
from dgq.bench.kernel_speed import KernelsSection
from dgq.bench.memory_bar import MemorySection
from dgq.bench.presets import PresetsSection, questions
from dgq.bench.profiling import StepProfiler, group_of, summarise
from dgq.bench.protocol import ProtocolSection
from dgq.bench.section import Group, Settings
from dgq.bench.sections import SECTIONS
from dgq.bench.short_answers import ShortSection
from dgq.engine.engine import DEFAULT_MODEL_PATH
from dgq.engine.engine_config import EngineConfig
from dgq.engine.errors import EngineError
from dgq.engine.request import Request
from dgq.worker.commands import bench_command

SETTINGS = Settings("cpu", "micro", "float32", ("nf4",), (1, 2), 40, 64)


def measured(section, settings, group=None, points=None):
    """Rows of a group's points, and the table that shows them."""
    groups = {found.name: found for found in section.groups(settings)}
    chosen = groups[group] if group else next(iter(groups.values()))
    rows = []
    with section.open(settings, chosen.name) as measure:
        for point in points or chosen.points:
            assert point in chosen.points
            rows.append({"point": point, "group": chosen.name, **measure(point)})
    return rows, section.table(settings, rows)


def test_the_command_names_the_sections():
    assert tuple(SECTIONS) == bench_command._SECTIONS


def test_the_protocol_fixes_steps_and_commits():
    rows, table = measured(ProtocolSection(), SETTINGS)
    one, two, profile = rows
    for count, row in ((1, one), (2, two)):
        assert row["canvases"] == count
        assert row["tokens"] == count * 64
        assert row["steps"] == count * 2 * 16  # two canvases of 32 rows each
        assert row["tokens_per_s"] == pytest.approx(row["tokens"] / row["seconds"])
        assert 0 < row["step_s"] < row["seconds"]
        assert 0 <= row["host_share"] < 1
        assert row["peak_process_bytes"] > 50e6
    assert profile["seconds_by_component"]["linear products"] > 0
    assert sum(profile["seconds_by_component"].values()) <= profile["step_s"] * 1.5
    assert "| nf4    |        2 |" in table
    assert "linear products" in table


def test_steady_steps_are_those_with_all_canvases():
    """Ten steps of 10 ms; the first two lack a canvas, and the sixth reads for a commit and takes 30."""
    times = StepTimes()
    began_s = 0.0
    for number in range(10):
        rows = 32 if number < 2 else 64
        times.steps.append((began_s, 64 if number == 5 else 0, rows, 0.001))
        began_s += 0.03 if number == 5 else 0.01
    full = times.full_steps(64)
    assert full is not None
    assert full.num_steps == 7  # eight begin, of which the last one's end is not known
    assert full.step_s == pytest.approx(0.01)
    assert full.seconds == pytest.approx(6 * 0.01 + 0.03)
    assert full.host_share == pytest.approx(0.007 / 0.09)
    assert times.full_steps(128) is None


def test_short_answers_are_counted_by_concurrency():
    rows, table = measured(ShortSection(), SETTINGS, points=["8 at once, steps: 4"])
    (row,) = rows
    assert row["requests"] == 16
    assert row["requests_per_s"] == pytest.approx(16 / row["seconds"])
    assert "| nf4    |     4 |       8 |" in table


def test_memory_of_eight_canvases():
    rows, table = measured(MemorySection(), SETTINGS, "nf4, double")
    assert rows[0]["context_tokens"] == 256
    assert "nf4, double" in table
    assert [group.name for group in MemorySection().groups(SETTINGS)] == ["nf4", "nf4, double"]


def test_presets_answer_real_texts():
    rows, table = measured(PresetsSection(), SETTINGS, "bf16")
    (row,) = rows
    assert row["texts"] == len(questions()) == 72
    assert row["right"] >= 65
    assert 1 <= row["steps_per_canvas"] < 10
    assert f"{row['right']} of 72" in table


def test_transformers_under_the_same_protocol():
    pytest.importorskip("transformers")
    rows, table = measured(TransformersSection(), SETTINGS)
    assert [row["tokens"] for row in rows] == [64, 128]
    assert {row["experts"] for row in rows} <= set(EXPERTS)
    assert "best" in table


def test_on_a_cpu_references_are_timed():
    point = "router, 64 rows"
    rows, table = measured(KernelsSection(), SETTINGS, points=[point])
    assert rows[0]["reference_s"] > 0 and rows[0]["plain_s"] > 0
    assert point in table and "TB/s" not in table


def test_a_checkpoint_never_ends_a_text(tmp_path):
    """Its stop tokens are dropped, and nothing else of it."""
    settings = replace(SETTINGS, shape=str(DEFAULT_MODEL_PATH))
    request = Request(tuple(range(3, 40)), 48, 0, canvas_length=16, sampling=fixed_steps(2))
    with open_engine(settings, "nf4-experts", room_for(1, 256, 128)) as engine:
        assert engine.model_name == "dgq-tiny"
        assert engine.sampling.max_denoising_steps == 24  # from its generation_config.json
        (result,), _ = answer_all(engine, [request])
    assert len(result.token_ids) == 48
    assert result.finish_reason == "length"
    folder = tmp_path / "plain"
    shutil.copytree(DEFAULT_MODEL_PATH, folder)
    (folder / "generation_config.json").unlink()
    with open_engine(replace(settings, shape=str(folder)), "bf16", room_for(1, 256, 128)) as engine:
        assert len(answer_all(engine, [request])[0][0].token_ids) == 48
    assert json.loads((DEFAULT_MODEL_PATH / "generation_config.json").read_text())["eos_token_id"]


def test_canvases_that_are_not_numbers_are_no_figures():
    with open_engine(SETTINGS, "bf16", room_for(1, 32, 64)) as engine:
        embedding = engine._loop._runner._model.decoder.embed_tokens.weight
        embedding.fill_(float("nan"))
        with pytest.raises(EngineError, match="its entropy is not a number"):
            answer_all(engine, [Request((1, 2), 32, 0, sampling=fixed_steps(2))])


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("_gate_up_kernel", "experts"),
        ("_down_kernel", "experts"),
        ("_fp8_gate_up_kernel", "experts"),
        ("_quantize_rows_kernel", "experts"),
        ("_attention_kernel", "attention"),
        ("_tiles_kernel", "head"),
        ("_combine_kernel", "head"),
        ("_dense_kernel", "soft embeddings"),
        ("_survivors_kernel", "soft embeddings"),
        ("_nf4_linear_kernel", "linear products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "linear products"),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNT", "linear products"),
        ("_rms_norm_kernel", "router, norms"),
        ("_rotate_kernel", "router, norms"),
        ("_route_kernel", "router, norms"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        ("void at::native::vectorized_gather_kernel<16, long>(char*, char*)", "copies"),
        ("aten::addmm", "linear products"),
        ("aten::where", "others"),
    ],
)
def test_kernels_belong_to_components(name, group):
    assert group_of(name) == group


def test_a_profile_is_per_step_and_names_the_rest():
    found = summarise([("_tiles_kernel", 0.8), ("_down_kernel", 0.4), ("strange", 0.2)], 4)
    assert found["seconds"] == pytest.approx({"head": 0.2, "experts": 0.1, "others": 0.05})
    assert found["largest_others"] == [{"name": "strange", "seconds": pytest.approx(0.05)}]


def test_a_profiler_that_is_not_armed_profiles_nothing():
    times = StepProfiler()
    config = EngineConfig(max_canvases=1, max_rows=32, max_kv_tokens=256)
    with open_engine(SETTINGS, "bf16", config, times) as engine:
        answer_all(engine, [Request((1, 2), 32, 0, sampling=fixed_steps(3))])
    assert len(times.steps) >= 3 and times.result is None


def test_what_a_gpu_gets():
    """More points, the real sizes, and sweeps."""
    gpu = replace(SETTINGS, device="cuda:0", shape="26b-a4b", canvases=(1, 2, 4, 8, 16, 32))
    names = {name: section.groups(gpu) for name, section in SECTIONS.items()}
    assert [group.name for group in names["checks"]] == ["small", "real"]
    assert [group.name for group in names["kernels"]] == ["speeds", "crossover", "tile heights"]
    assert names["memory"][0] == Group("nf4", ("8 canvases behind 4,096 tokens",))
    assert len(names["protocol"][0].points) == 6 + 3
    assert len(names["transformers"][0].points) == 4
