import pytest
import torch

from dgq.kernels.errors import KernelError
from dgq.kernels.routing import sort_by_expert, sort_by_expert_reference

CASES = [
    (1, 1, 2),
    (5, 2, 3),  # experts are no power of two
    (64, 2, 128),  # one block of slots exactly
    (100, 8, 128),  # several blocks, the last one partial
    (300, 8, 16),
]


def some_experts(rows, top_k, num_experts, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(rows, num_experts, generator=generator)
    return scores.topk(min(top_k, num_experts)).indices


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("case", CASES)
def test_equals_reference(case, dtype, device):
    experts = some_experts(*case).to(device, dtype)
    ours = sort_by_expert(experts, case[2])
    reference = sort_by_expert_reference(experts, case[2])
    assert torch.equal(ours.order, reference.order)
    assert torch.equal(ours.offsets, reference.offsets)


@pytest.mark.parametrize("sort", [sort_by_expert, sort_by_expert_reference])
def test_invariants(sort, device):
    experts = some_experts(70, 4, 12).to(device)
    rows = sort(experts, 12)
    order, offsets = rows.order.long(), rows.offsets.long()
    assert torch.equal(order.sort().values, torch.arange(280, device=device))
    assert offsets[0] == 0 and offsets[-1] == 280
    for expert in range(12):
        mine = order[offsets[expert] : offsets[expert + 1]]
        assert (experts.flatten()[mine] == expert).all()
        assert (mine.diff() > 0).all()


@pytest.mark.parametrize("num_experts", [8, 12])  # with and without room in the power of two
def test_slots_of_no_expert_are_left_out(num_experts, device):
    experts = some_experts(40, 4, num_experts).to(device)
    experts[25:] = num_experts
    rows = sort_by_expert(experts, num_experts)
    reference = sort_by_expert_reference(experts[:25], num_experts)
    assert torch.equal(rows.offsets, reference.offsets)
    assert torch.equal(rows.order[:100], reference.order)


def test_too_many_experts_are_refused(device):
    with pytest.raises(KernelError, match="300 experts"):
        sort_by_expert(torch.zeros(4, 2, dtype=torch.int32, device=device), 300)
