"""Work and time by hand: every number here is written out, none comes from the code under test."""

import pytest

from dgq.bench.devices import DEVICES, Device, find_device
from dgq.bench.roofline import BOUND, LIKELY, Roofline, plan_for, predict
from dgq.bench.work import StepShape, Work, count_step
from dgq.engine.quantization import Quantization
from dgq.engine.shapes import PUBLISHED

BF16, EXPERTS, NF4 = map(Quantization, ("bf16", "nf4-experts", "nf4"))
ONE = StepShape(num_canvases=1, context_tokens=1024)
ROWS = 256
RESEARCH_H100 = Device("H100 of the table", 80 * 10**9, 3.35e12, 800e12, 1400e12, 132, 1.83e9)


def per_token(step, component):
    return getattr(count_step(PUBLISHED, BF16, step), component).operations / ROWS / 1e9


def test_operations_of_a_canvas_token():
    """GFLOP, as arithmetic on the published shapes has them."""
    assert per_token(ONE, "experts") == pytest.approx(2 * 30 * 8 * 3 * 704 * 2816 / 1e9)
    assert per_token(ONE, "experts") == pytest.approx(2.855, abs=0.001)
    sliding = 2816 * 256 * (16 + 8 + 8 + 16)
    full = 2816 * 512 * (16 + 2 + 16)
    projections = 2 * (25 * sliding + 5 * full) / 1e9
    mlp = 2 * 30 * 3 * 2816 * 2112 / 1e9
    router = 2 * 30 * 128 * 2816 / 1e9
    assert per_token(ONE, "attention_projections") == pytest.approx(projections)
    assert per_token(ONE, "dense_mlp") == pytest.approx(mlp)
    assert per_token(ONE, "router_and_norms") == pytest.approx(router)
    assert projections + mlp + router == pytest.approx(3.313, abs=0.001)
    attention = (25 * 4 * 16 * 256 * (1023 + 256) + 5 * 4 * 16 * 512 * (1024 + 256)) / 1e9
    assert per_token(ONE, "attention") == pytest.approx(attention)
    assert attention == pytest.approx(0.734, abs=0.001)
    assert per_token(ONE, "head") == pytest.approx(1.476, abs=0.001)
    assert per_token(ONE, "self_conditioning_product") == pytest.approx(1.476, abs=0.001)
    assert per_token(ONE, "self_conditioning_mlp") == pytest.approx(0.036, abs=0.001)
    total = count_step(PUBLISHED, BF16, ONE).total.operations
    assert total / 1e12 == pytest.approx(2.532, abs=0.001)


def test_a_commit_has_no_head_and_sees_the_past_only():
    commit = count_step(PUBLISHED, BF16, StepShape(1, 1024, reads=True))
    assert commit.head == commit.self_conditioning_product == Work()
    seen_full = sum(range(1025, 1281))
    seen_sliding = 256 * 1024
    attention = 4 * 16 * (25 * 256 * seen_sliding + 5 * 512 * seen_full)
    assert commit.attention.operations == attention
    assert commit.total.operations / 1e12 == pytest.approx(1.735, abs=0.01)


@pytest.mark.parametrize(
    ("quantization", "bits"), [(BF16, 16), (EXPERTS, 4.5), (Quantization("nf4", True), 4.127)]
)
def test_bytes_of_the_experts(quantization, bits):
    """Weights once; of each of 8 x 256 slots the inner and outer row written and read; rows in, out."""
    weights = 30 * 128 * 3 * 704 * 2816 * bits / 8
    rows = 30 * 2 * (2 * 8 * 256 * (704 + 2816) + 2 * 256 * 2816)
    found = count_step(PUBLISHED, quantization, ONE).experts.num_bytes
    assert found == pytest.approx(weights + rows, rel=1e-3)


def test_bytes_of_keys_and_values():
    """A canvas reads its text's keys and its own, and writes its own."""
    sliding = 25 * 2 * 8 * 256 * 2 * (1023 + 2 * 256)
    full = 5 * 2 * 2 * 512 * 2 * (4096 + 2 * 256)
    queries = 2 * 2 * 256 * 16 * (25 * 256 + 5 * 512)
    found = count_step(PUBLISHED, NF4, StepShape(8, 4096)).attention.num_bytes
    assert found == 8 * (sliding + full + queries)


def test_an_nf4_linear_is_decoded_once_where_rows_are_many():
    """4.5 bits read, 16 written and read again; the rows' own bytes are those of bf16."""
    weights = 30 * 3 * 2816 * 2112
    more = (
        count_step(PUBLISHED, NF4, ONE).dense_mlp.num_bytes
        - count_step(PUBLISHED, BF16, ONE).dense_mlp.num_bytes
    )
    assert more == pytest.approx(weights * (4.5 / 8 + 4 - 2))


def test_decoding_is_paid_for_every_tile_of_an_experts_rows():
    weights = 30 * 128 * 3 * 704 * 2816
    one, many = (
        count_step(PUBLISHED, NF4, StepShape(n, 1024)).experts.instructions for n in (1, 32)
    )
    assert one == pytest.approx(5.7 * weights, rel=1e-3)  # 16 rows an expert, one tile
    assert many == pytest.approx(4 * one, rel=1e-3)  # 512 rows in tiles of 128


def test_sparse_rows_leave_the_vocabulary_alone():
    sparse = count_step(PUBLISHED, NF4, StepShape(1, 1024, dense_share=0.0))
    dense = count_step(PUBLISHED, NF4, ONE)
    assert sparse.self_conditioning_product.operations < 0.001 * dense.head.operations
    assert sparse.self_conditioning_product.num_bytes < 0.01 * dense.head.num_bytes
    assert sparse.head == dense.head


@pytest.mark.parametrize(
    ("preset", "canvases", "experts_ms", "other_ms", "attention_ms", "head_ms"),
    [
        (EXPERTS, 1, 4.12, 1.14, 0.23, 0.48),
        (EXPERTS, 16, 14.6, 17.1, 3.8, 7.6),
        (BF16, 1, 13.9, 1.14, 0.23, 0.48),
        (BF16, 8, 15.9, 8.57, 1.88, 3.78),
        (BF16, 32, 29.2, 34.3, 7.5, 15.1),
    ],
)
def test_times_of_an_earlier_table(preset, canvases, experts_ms, other_ms, attention_ms, head_ms):
    """Another count of the same shapes, made by hand for 3.35 TB/s and 800 TFLOP/s.

    It left out decoding (2 % more at one canvas) and what norms read and write.
    """
    found = predict(RESEARCH_H100, PUBLISHED, preset, StepShape(canvases, 1024)).seconds
    ms = {name: 1e3 * seconds for name, seconds in found.items()}
    assert ms["experts"] == pytest.approx(experts_ms, rel=0.03)
    assert ms["attention_projections"] + ms["dense_mlp"] == pytest.approx(other_ms, rel=0.06)
    assert ms["attention"] == pytest.approx(attention_ms, rel=0.05)
    assert ms["head"] == pytest.approx(head_ms, rel=0.05)


def test_tokens_per_second_follow_from_steps_and_a_commit():
    found = predict(DEVICES[0], PUBLISHED, EXPERTS, StepShape(4, 1024))
    assert found.step_s == pytest.approx(sum(found.seconds.values()))
    assert found.tokens_per_s == pytest.approx(4 * 256 / (16 * found.step_s + found.commit_s))
    assert found.commit_s < found.step_s
    likely = predict(DEVICES[0], PUBLISHED, EXPERTS, StepShape(4, 1024), LIKELY)
    assert likely.tokens_per_s < found.tokens_per_s


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 5090", "RTX 5090"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", None),
        ("NVIDIA H200", None),
        ("Tesla T4", None),
    ],
)
def test_a_driver_s_name_for_a_device(name, wanted):
    device = find_device(name)
    assert (device.name if device else None) == wanted


def test_which_presets_fit_which_device():
    """Weights of 50.5, 17.7 and 15.3 GB."""
    fits = {
        (device.name, quantization.preset): plan_for(device, PUBLISHED, quantization) is not None
        for device in DEVICES
        for quantization in (BF16, EXPERTS, NF4)
    }
    assert fits[("H100 SXM", "bf16")]
    assert not any(fits[(name, "bf16")] for name in ("RTX 5090", "RTX 4090", "L4"))
    assert all(fits[(device.name, "nf4")] for device in DEVICES)


def test_the_report_says_what_it_assumes():
    roofline = Roofline("26b-a4b", PUBLISHED, ("nf4",), (1, 8), 1024)
    text, report = roofline.text(), roofline.report()
    assert "predicted from shapes and published limits, not measured" in text
    for device in DEVICES:
        assert f"{device.name}: predicted" in text
    assert len(report["predicted"]) == 4 * 1 * 2 * 2 * 2
    one = next(
        entry
        for entry in report["predicted"]
        if (entry["device"], entry["canvases"], entry["assuming"], entry["dense_share"])
        == ("H100 SXM", 8, "bound", 1.0)
    )
    expected = predict(DEVICES[0], PUBLISHED, NF4, StepShape(8, 1024), BOUND)
    assert one["tokens_per_s"] == expected.tokens_per_s
    assert sum(one["seconds"].values()) == pytest.approx(one["step_s"])
