"""The shipped dgq-tiny: a checkpoint that transformers loads unchanged."""

import torch
from transformers import AutoTokenizer
from transformers.models.diffusion_gemma import DiffusionGemmaForBlockDiffusion


def test_it_is_small(shipped_model) -> None:
    assert sum(path.stat().st_size for path in shipped_model.iterdir()) < 12_000_000


def test_transformers_finds_every_tensor_and_no_other(shipped_model) -> None:
    model, report = DiffusionGemmaForBlockDiffusion.from_pretrained(
        shipped_model, output_loading_info=True
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not report[kind], (kind, report[kind])
    assert model.config.canvas_length == 256
    assert model.generation_config.eos_token_id == [1, 5]


def test_it_has_the_real_models_traits(shipped_model) -> None:
    model = DiffusionGemmaForBlockDiffusion.from_pretrained(shipped_model)
    text = model.config.text_config
    assert set(text.layer_types) == {"sliding_attention", "full_attention"}
    assert text.num_experts > text.top_k_experts > 1
    full = text.layer_types.index("full_attention")
    assert model.model.decoder.layers[full].self_attn.v_proj is None
    encoder, decoder = model.model.encoder.language_model.layers, model.model.decoder.layers
    scalars = [(e.layer_scalar, d.layer_scalar) for e, d in zip(encoder, decoder, strict=True)]
    assert not all(torch.equal(e, d) for e, d in scalars)


def test_transformers_reads_its_tokenizer_and_chat_template(shipped_model) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shipped_model)
    text = "def f(a):\n    return a + 1\n\n\tÜnïcödé 你好 <1> don't 42"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    chat = [{"role": "user", "content": "Hi"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert tokenizer.decode(ids) == "<bos><|turn>user\nHi<turn|>\n<|turn>model\n"
