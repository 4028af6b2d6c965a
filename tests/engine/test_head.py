"""The tiled head against the whole-matrix definition."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dgq.engine import head
from dgq.engine.checkpoint import load_model
from dgq.engine.feedforward import LEAST_ROWS
from dgq.engine.head import DROPPED_MASS, TILE_ELEMENTS, TILE_TOKENS, HeadTiling
from dgq.engine.model import DiffusionGemma
from dgq.engine.sampler import InverseCdf

LARGE_VOCABULARY = 262_144
FREQUENT = [5, 4095, 4096, 70_000, 123_456, 200_000, 262_143]  # tokens that a row may be sure of


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_model(checkpoint)


@pytest.fixture(scope="module")
def large(checkpoint):
    """A head of DiffusionGemma's vocabulary on a small hidden size, and nothing else."""
    config = replace(
        load_model(checkpoint).config, vocab_size=LARGE_VOCABULARY, hidden_size=16, layer_types=()
    )
    model = DiffusionGemma(config).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(LARGE_VOCABULARY, 16, generator=generator)
    weight[FREQUENT] *= 3.0
    model.decoder.embed_tokens.weight.copy_(weight)
    return model


def read_rows(model, hidden, temperature, uniforms, *tiling):
    """The head of a model on some rows."""
    embedding, cap = model.decoder.embed_tokens.weight, model.config.final_logit_softcapping
    return head.read_rows(hidden, embedding, cap, temperature, uniforms, *tiling)


def rows_of(model, count, scale=1.0):
    """Hidden states, temperatures and uniforms of rows; scale: about how certain rows are."""
    generator = torch.Generator().manual_seed(count)
    hidden = scale * torch.randn(count, model.config.hidden_size, generator=generator)
    temperature = 0.4 + 0.4 * torch.rand(count, generator=generator)
    return hidden, temperature, torch.rand(count, generator=generator)


def mixed_rows(model, count):
    """From rows that know nothing to rows that are sure of one of a few tokens."""
    hidden, temperature, uniforms = rows_of(model, count)
    hidden *= torch.logspace(-2, 1, count)[:, None]
    return hidden, temperature, uniforms


@pytest.mark.parametrize(
    "tiling",
    [
        HeadTiling(sparse=False),
        HeadTiling(tile_elements=1, sparse=False),
        HeadTiling(tile_elements=200 * 17, sparse=False),
        HeadTiling(tile_tokens=64, tile_elements=1, sparse=False),
        HeadTiling(tile_tokens=7, tile_elements=7 * 23, sparse=False),
    ],
)
@pytest.mark.parametrize("num_rows", [1, 15, 16, 17, 50])
def test_tiles_equal_the_whole(model, tiling, num_rows):
    hidden, temperature, uniforms = rows_of(model, num_rows)
    readings = read_rows(model, hidden, temperature, uniforms, tiling)

    processed = model.logits(hidden) / temperature[:, None]
    distribution = torch.distributions.Categorical(logits=processed)
    assert torch.equal(readings.argmax, processed.argmax(dim=-1))
    assert torch.equal(readings.sampled, InverseCdf().sample(distribution.probs, uniforms))
    torch.testing.assert_close(readings.entropy, distribution.entropy(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        readings.soft_embeddings, model.soft_embeddings(processed), atol=1e-5, rtol=1e-5
    )


def test_no_rows_at_all(model):
    readings = read_rows(model, *rows_of(model, 0))
    assert len(readings.argmax) == len(readings.entropy) == len(readings.soft_embeddings) == 0


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("tile_tokens", [4096, 64])
def test_a_row_does_not_depend_on_its_company(model, sparse, tile_tokens):
    """To the bit: alone, in any company, and whoever else of it is sparse."""
    tiling = HeadTiling(tile_tokens=tile_tokens, tile_elements=200 * 40, sparse=sparse)
    inputs = mixed_rows(model, 100)
    together = read_rows(model, *inputs, tiling)
    generator = torch.Generator().manual_seed(0)
    for count in (1, 2, 7, 15, 16, 17, 31, 40, 41, 56, 99):
        rows = torch.randperm(100, generator=generator)[:count]
        some = read_rows(model, *(values[rows] for values in inputs), tiling)
        for name in ("argmax", "sampled", "entropy", "soft_embeddings"):
            assert torch.equal(getattr(some, name), getattr(together, name)[rows]), (name, count)


@pytest.mark.parametrize("num_dense", [1, 8, 15, 16])
def test_sparse_and_dense_rows_beside_each_other(model, num_dense):
    """As many rows as one product needs at least, some of them sparse."""
    hidden, temperature, uniforms = rows_of(model, LEAST_ROWS)
    hidden[num_dense:] = 40 * model.decoder.embed_tokens.weight[50 : 50 + LEAST_ROWS - num_dense]
    soft = read_rows(model, hidden, temperature, uniforms).soft_embeddings
    wanted = model.soft_embeddings(model.logits(hidden) / temperature[:, None])
    torch.testing.assert_close(soft, wanted, atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(soft[:num_dense], wanted[:num_dense], atol=1e-5, rtol=1e-5)


def test_a_certain_row_has_no_entropy(model):
    weight = model.decoder.embed_tokens.weight
    hidden = 1000.0 * weight[:20]  # every logit at the softcap's ends
    readings = read_rows(model, hidden, torch.full((20,), 0.01), torch.rand(20))
    assert (readings.entropy >= 0).all()
    assert torch.isfinite(readings.entropy).all() and torch.isfinite(readings.soft_embeddings).all()
    assert (readings.entropy < 6).all()


def test_a_16_bit_model_conditions_on_rounded_logits(checkpoint):
    model = load_model(checkpoint, torch.bfloat16)
    hidden, temperature, uniforms = rows_of(model, 8)
    hidden, temperature = hidden.bfloat16(), torch.full((8,), 0.5)
    readings = read_rows(model, hidden, temperature, uniforms, HeadTiling(sparse=False))
    processed = model.logits(hidden) / 0.5
    assert readings.soft_embeddings.dtype == torch.bfloat16
    wanted = model.soft_embeddings(processed.bfloat16())
    torch.testing.assert_close(readings.soft_embeddings, wanted, atol=2e-2, rtol=2e-2)
    not_rounded = model.soft_embeddings(processed)
    assert (not_rounded - wanted).abs().max() > 5e-2  # so the test can tell


def exact_probabilities(model, hidden, temperature):
    """softmax(logits / temperature) in fp64, from the fp32 logits; [R, V]."""
    return (model.logits(hidden).double() / temperature[:, None].double()).softmax(dim=-1)


def test_a_large_vocabulary(large):
    """Argmax, entropy, sample and expected embedding of 262,144 tokens, in 64 tiles."""
    assert large.config.vocab_size // TILE_TOKENS == 64
    hidden, temperature, uniforms = mixed_rows(large, 40)
    sure = torch.nn.functional.normalize(large.decoder.embed_tokens.weight[FREQUENT])
    hidden[-14:] = torch.cat([1.7 * sure, 2.5 * sure])
    readings = read_rows(large, hidden, temperature, uniforms)
    probabilities = exact_probabilities(large, hidden, temperature)
    assert torch.equal(readings.argmax, probabilities.argmax(dim=-1))
    entropy = torch.special.entr(probabilities).sum(dim=-1)
    assert entropy.min() < 0.1 and entropy.max() > 12  # nats; log(262,144) is 12.5
    torch.testing.assert_close(readings.entropy.double(), entropy, atol=1e-5, rtol=2e-6)

    cdf = probabilities.cumsum(dim=-1)
    upper = cdf.gather(1, readings.sampled[:, None])[:, 0]
    lower = upper - probabilities.gather(1, readings.sampled[:, None])[:, 0]
    assert (lower - 2e-6 <= uniforms).all() and (uniforms <= upper + 2e-6).all()

    scale = large.config.hidden_size**0.5
    weight = large.decoder.embed_tokens.weight.double()
    soft = probabilities @ weight * scale
    most = 2 * DROPPED_MASS * scale * weight.norm(dim=1).max()
    assert ((readings.soft_embeddings.double() - soft).norm(dim=1) < most).all()
    dense = read_rows(large, hidden, temperature, uniforms, HeadTiling(sparse=False))
    torch.testing.assert_close(dense.soft_embeddings.double(), soft, atol=2e-5, rtol=1e-4)
    is_sparse = (readings.soft_embeddings != dense.soft_embeddings).any(dim=1)
    assert 0 < is_sparse.sum() < len(hidden)
    kept = probabilities.view(len(hidden), 64, TILE_TOKENS).amax(dim=2).sum(dim=1)
    assert (kept[is_sparse] > 1 - DROPPED_MASS - 1e-6).all()


def test_samples_of_a_large_vocabulary_are_distributed_as_the_softmax(large):
    """One row, asked at 600 evenly spaced uniforms: each tile gets its share, in order."""
    count = 600
    hidden, temperature, _ = rows_of(large, 1, scale=0.4)
    uniforms = (torch.arange(count) + 0.5) / count
    sampled = read_rows(
        large, hidden.expand(count, -1), temperature.expand(count), uniforms
    ).sampled
    assert (sampled.diff() >= 0).all()  # a larger uniform never gives an earlier token
    shares = exact_probabilities(large, hidden, temperature).view(64, TILE_TOKENS).sum(dim=1)
    got = torch.bincount(sampled // TILE_TOKENS, minlength=64) / count
    assert (got - shares).abs().max() <= 1.01 / count
    assert len(sampled.unique()) > 300


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements of any tensor that an operation made."""

    def __init__(self):
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.num_elements = max(self.num_elements, leaf.numel())
        return result


def test_no_tensor_of_rows_by_vocabulary_is_made(large):
    with LargestTensor() as whole:
        large.logits(rows_of(large, 2)[0])
    assert whole.num_elements == 2 * LARGE_VOCABULARY  # it sees what it should
    with LargestTensor() as tiled:
        read_rows(large, *mixed_rows(large, 200))
    assert tiled.num_elements == TILE_ELEMENTS == LARGE_VOCABULARY  # 64 rows of 4,096 tokens
