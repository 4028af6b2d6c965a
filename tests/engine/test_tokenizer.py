"""Tokenizing, and that no user's text becomes a control token."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer

from dgq.engine.errors import CheckpointError, RequestError
from dgq.engine.tokenizer import Tokenizer

SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>"]
TEMPLATE = """{{ bos_token }}{% for message in messages %}<|turn>{{ message['role'] }}
{{ message['content'] | trim }}<turn|>
{% endfor %}{% if add_generation_prompt %}<|turn>model
{% endif %}"""
CORPUS = ["the quick brown fox", "jumps over <the> lazy dog | and turns", "1234567890 {}[]()\n\n"]


def tokenizer_json(**bpe):
    """A byte-level BPE in which the special tokens are ordinary entries too."""
    fast = FastTokenizer(models.BPE(**bpe))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator(CORPUS, trainer)
    return fast.to_str()


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(tokenizer_json(), TEMPLATE, eos_ids=(1, 5), pad_id=0, bos_id=2)


def chat(content, role="user"):
    return [{"role": role, "content": content}]


def plain(tokenizer, text):
    return tokenizer._template_tokenizer.encode(text, add_special_tokens=False).ids


@settings(max_examples=200, deadline=None)
@given(st.text() | st.lists(st.sampled_from([*SPECIALS, " ", "a", "\n", "|>", "<"])).map("".join))
def test_round_trip_without_control_tokens(tokenizer, text):
    ids = tokenizer.encode(text)
    assert not set(ids) & {0, 1, 2, 4, 5}
    assert tokenizer.decode(ids) == text


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([*SPECIALS, " ", "a", "\n", "\v", "\ue000", "\ue0010"])).map("".join)
)
def test_a_chat_has_the_templates_control_tokens_only(tokenizer, content):
    ids = tokenizer.encode_chat(chat(content))
    assert [i for i in ids if i in {0, 1, 2, 4, 5}] == [2, 4, 5, 4]
    wanted = plain(tokenizer, "<bos><|turn>user\n") + tokenizer.encode(content.strip())
    assert ids == wanted + plain(tokenizer, "<turn|>\n<|turn>model\n")


def test_several_messages_keep_their_places(tokenizer):
    messages = chat("first\ue0001\ue001", "system") + chat("second") + chat("third", "assistant")
    text = tokenizer._template_tokenizer.decode(
        tokenizer.encode_chat(messages), skip_special_tokens=False
    )
    assert text == (
        "<bos><|turn>system\nfirst\ue0001\ue001<turn|>\n<|turn>user\nsecond<turn|>\n"
        "<|turn>assistant\nthird<turn|>\n<|turn>model\n"
    )


def test_trimming_follows_the_template():
    untrimmed = TEMPLATE.replace(" | trim", "")
    for template, kept in ((TEMPLATE, "x"), (untrimmed, " \n x \n")):
        tokenizer = Tokenizer(tokenizer_json(), template, eos_ids=(1, 5), bos_id=2)
        assert tokenizer.decode(tokenizer.encode_chat(chat(" \n x \n"))) == (
            f"user\n{kept}\nmodel\n"
        )


def test_thinking_is_off():
    template = "{{ messages[0]['content'] }}{% if not enable_thinking %}<|turn>{% endif %}"
    tokenizer = Tokenizer(tokenizer_json(), template)
    assert tokenizer.encode_chat(chat("a"))[-1] == 4


def test_a_vocabulary_that_would_take_whole_words():
    """ignore_merges looks words up before merging, and finds special tokens there."""
    content = json.loads(tokenizer_json())
    content["model"]["ignore_merges"] = True
    content["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    tokenizer = Tokenizer(json.dumps(content), TEMPLATE, eos_ids=(1, 5), bos_id=2)
    raw = tokenizer._text_tokenizer.encode("a <eos> b", add_special_tokens=False).ids
    assert 1 in raw  # the danger is real
    ids = tokenizer.encode("a <eos> b<|turn> <|turn>")
    assert not set(ids) & {0, 1, 2, 4, 5}
    assert tokenizer.decode(ids) == "a<eos>b<|turn><|turn>"


def test_a_stop_token_that_is_not_marked_special():
    fast = FastTokenizer.from_str(tokenizer_json())
    fast.add_tokens([AddedToken("[end]", normalized=False)])
    end = fast.token_to_id("[end]")
    tokenizer = Tokenizer(fast.to_str(), TEMPLATE, eos_ids=(end,), bos_id=2)
    assert end not in tokenizer.encode("x[end]y") and tokenizer.decode([end]) == ""
    assert tokenizer.decode(tokenizer.encode("x[end]y")) == "x[end]y"


def test_unknown_characters_are_no_control_tokens():
    fast = FastTokenizer(models.WordLevel({"<unk>": 0, "a": 1, "<eos>": 2}, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast.add_special_tokens(["<unk>", "<eos>"])
    tokenizer = Tokenizer(fast.to_str(), eos_ids=(2,), pad_id=2)
    assert tokenizer.encode("a ü a") == [1, 0, 1]


def test_a_character_that_is_a_control_token_is_refused():
    fast = FastTokenizer(models.WordLevel({"<unk>": 0, "a": 1, "§": 2}, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = Tokenizer(fast.to_str(), eos_ids=(2,), pad_id=2)
    with pytest.raises(RequestError, match="'§' is a control token"):
        tokenizer.encode("a §")


def test_text_without_a_utf8_form_is_refused(tokenizer):
    with pytest.raises(RequestError, match="half of a surrogate pair"):
        tokenizer.encode("a\ud800b")


def test_decode_of_partial_utf8(tokenizer):
    ids = tokenizer.encode("ü🦊")
    assert tokenizer.decode(ids) == "ü🦊"
    for cut in range(len(ids)):
        assert isinstance(tokenizer.decode(ids[:cut]), str)
    assert tokenizer.decode(ids[:-1]).startswith("ü") and "\ufffd" in tokenizer.decode(ids[:-1])


def test_decode_skips_special_tokens(tokenizer):
    ids = [2, *tokenizer.encode("fox"), 5, 0, 0]
    assert tokenizer.decode(ids) == tokenizer.decode(tuple(ids)) == "fox"
    assert tokenizer.decode([]) == ""


def test_what_it_says_of_itself(tokenizer):
    assert (tokenizer.eos_ids, tokenizer.pad_id, tokenizer.bos_id) == ((1, 5), 0, 2)
    assert tokenizer.vocab_size == FastTokenizer.from_str(tokenizer_json()).get_vocab_size()


@pytest.mark.parametrize(
    ("template", "error", "message"),
    [
        (None, CheckpointError, "has no chat template; put its chat_template.jinja"),
        ("{% for %}", CheckpointError, "not valid Jinja"),
        ("nothing", CheckpointError, "leaves a message out"),
        ("{{ raise_exception('no system role') }}", RequestError, "no system role"),
        ("{{ messages.append(1) }}", RequestError, "chat template refuses"),
        ("{{ messages.__class__.__mro__ }}", RequestError, "chat template refuses"),
    ],
)
def test_templates_that_do_not_work(template, error, message):
    with pytest.raises(error, match=message):
        Tokenizer(tokenizer_json(), template).encode_chat(chat("a"))


def test_roles_cannot_inject(tokenizer):
    with pytest.raises(RequestError, match="role 'user<eos>' is not a plain word"):
        tokenizer.encode_chat(chat("a", role="user<eos>"))


def write_folder(folder, **files):
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder


def test_from_folder(tmp_path):
    folder = write_folder(
        tmp_path,
        tokenizer__json=tokenizer_json(),
        chat_template__jinja=TEMPLATE,
        generation_config__json='{"eos_token_id": [1, 5], "pad_token_id": 0}',
        config__json='{"text_config": {"bos_token_id": 2}}',
    )
    tokenizer = Tokenizer.from_folder(folder)
    assert (tokenizer.eos_ids, tokenizer.pad_id, tokenizer.bos_id) == ((1, 5), 0, 2)
    assert tokenizer.encode_chat(chat("a"))[0] == 2


def test_names_of_special_tokens_come_from_the_tokenizer_config(tmp_path):
    config = {"bos_token": {"content": "<|turn>"}, "eos_token": "<eos>", "chat_template": TEMPLATE}
    folder = write_folder(
        tmp_path, tokenizer__json=tokenizer_json(), tokenizer_config__json=json.dumps(config)
    )
    assert Tokenizer.from_folder(folder).encode_chat(chat("a"))[0] == 4


def test_folders_without_a_tokenizer(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot read .*tokenizer.json.*copy"):
        Tokenizer.from_folder(tmp_path)
    write_folder(tmp_path, tokenizer__json="{}")
    with pytest.raises(CheckpointError, match=r"tokenizer.json cannot be read"):
        Tokenizer.from_folder(tmp_path)
