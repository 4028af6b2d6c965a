"""dgq-tiny's tokenizer: byte-level BPE whose pieces line up when a layout changes.

A line end and its indent are one piece, digits and punctuation are single, and a contraction's
ending is one piece: so most edits that dgq-tiny is asked for swap tokens in place, and a warm canvas
stays aligned with its source.
"""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer

from .fills import fill_job
from .json_documents import json_job
from .python_functions import python_job
from .rewrites import rewrite_case
from .standard_library import sentences

VOCAB_SIZE = 2048
SPECIAL_TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>"]
PAD_ID, EOS_ID, BOS_ID, UNK_ID, TURN_ID, END_OF_TURN_ID = range(6)
PIECES = r"'(?:t|s|re|ve|ll|m|d)\b|\n[ \t]*| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]|[^\S\n]+|\s"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|turn>{{ message['role'] }}\n"
    "{{ message['content'] }}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)


class TinyTokenizer:
    """dgq-tiny's tokenizer as the pipelines want one."""

    eos_ids = (EOS_ID, END_OF_TURN_ID)
    pad_id = PAD_ID

    def __init__(self, fast: FastTokenizer) -> None:
        self._fast = fast

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens."""
        return list(self._fast.encode(text, add_special_tokens=False).ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ids, special tokens skipped."""
        return self._fast.decode(list(token_ids), skip_special_tokens=True)

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        """What the chat template makes of messages."""
        ids = [BOS_ID]
        for message in messages:
            ids += [TURN_ID, *self.encode(message["role"] + "\n")]
            ids += [*self.encode(message["content"]), END_OF_TURN_ID, *self.encode("\n")]
        return [*ids, TURN_ID, *self.encode("model\n")]


def corpus(num_jobs: int) -> Iterator[str]:
    """Prompts and answers of training jobs, as many of each family."""
    rng = random.Random(7)
    prose = sentences("train")
    for _ in range(num_jobs):
        for job in (fill_job(rng, "train"), json_job(rng, "train"), python_job(rng, "train")):
            yield job.cases[0].prompt
            yield job.expected
        case = rewrite_case(rng, "train", prose)[1]
        yield case.prompt
        yield case.answer


def train_tokenizer(num_jobs: int = 12_000) -> FastTokenizer:
    """Learn the merges."""
    tokenizer = FastTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(num_jobs), trainer)
    return tokenizer


def save_tokenizer(tokenizer: FastTokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "model_max_length": 4096,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
