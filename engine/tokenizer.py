"""Text to token ids and back, and chats to prompts, from the checkpoint's own files. No torch.

A user's text can never become a control token. The chat template is rendered with a placeholder in
place of each content; the template's own text is then tokenized with its special tokens, each
content without any, and the ids are joined. (Tokens therefore never reach across the border of a
content. The price is small; the gain is that no text needs escaping.)
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .errors import CheckpointError, RequestError
from .generation_config import read_generation_config, read_json

# Private-use characters mark a content's place. The vertical tabs, which any trimming removes,
# tell whether the template trims the content.
_OPEN, _CLOSE, _PAD = "\ue000", "\ue001", "\v"


class Tokenizer:
    """tokenizer.json and chat_template.jinja of one checkpoint folder. Thread-safe."""

    def __init__(
        self,
        tokenizer_json: str,
        chat_template: str | None = None,
        *,
        eos_ids: tuple[int, ...] = (),
        pad_id: int = 0,
        bos_id: int | None = None,
        special_texts: dict[str, str] | None = None,
    ) -> None:
        """Take the files' texts. CheckpointError if one cannot be used.

        special_texts: what the template knows by name, such as ``bos_token``; by default, the
        texts of the ids given.
        """
        try:
            self._template_tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
            self._text_tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
        except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception
            raise CheckpointError(f"tokenizer.json cannot be read: {error}") from None
        for tokenizer in (self._template_tokenizer, self._text_tokenizer):
            tokenizer.no_padding()
            tokenizer.no_truncation()
        self._text_tokenizer.encode_special_tokens = True
        added = self._template_tokenizer.get_added_tokens_decoder()
        named = {i for i in (*eos_ids, pad_id, bos_id) if i is not None}
        self._control_ids = {i for i, token in added.items() if token.special} | named
        self._control_ids.discard(self._unknown_id())
        self.eos_ids = eos_ids
        self.pad_id = pad_id
        self.bos_id = bos_id
        self._special_texts = {
            "bos_token": self._token_text(bos_id),
            "eos_token": self._token_text(eos_ids[0] if eos_ids else None),
            "pad_token": self._token_text(pad_id),
            **(special_texts or {}),
        }
        self._template = None
        if chat_template is not None:
            try:
                self._template = _environment().from_string(chat_template)
            except TemplateError as error:
                raise CheckpointError(f"the chat template is not valid Jinja: {error}") from None

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Read a checkpoint's tokenizer. CheckpointError names the file that is missing or bad."""
        path = folder / "tokenizer.json"
        try:
            tokenizer_json = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CheckpointError(
                f"cannot read {path}: {reason}; copy the checkpoint's tokenizer.json into its folder"
            ) from None
        generation = read_generation_config(folder)
        bos_id = generation.bos_id
        if bos_id is None and (folder / "config.json").exists():
            text_config = read_json(folder / "config.json").get("text_config")
            found = text_config.get("bos_token_id") if isinstance(text_config, dict) else None
            bos_id = found if isinstance(found, int) else None
        try:
            return cls(
                tokenizer_json,
                _chat_template(folder),
                eos_ids=generation.eos_ids,
                pad_id=generation.pad_id,
                bos_id=bos_id,
                special_texts=_special_texts(folder),
            )
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {error}") from None

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return self._template_tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, nothing added; what looks like a special token is plain text."""
        try:
            encoding = self._text_tokenizer.encode(text, add_special_tokens=False)
        except TypeError:  # what tokenizers makes of text that has no UTF-8 form
            raise RequestError(
                "the text holds half of a surrogate pair; repair its encoding"
            ) from None
        if self._control_ids.isdisjoint(encoding.ids):
            return list(encoding.ids)
        return self._without_control_tokens(text, encoding)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out; bytes that are no UTF-8 become U+FFFD."""
        return self._template_tokenizer.decode(
            [token for token in token_ids if token not in self._control_ids],
            skip_special_tokens=True,
        )

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        """The prompt of a chat: messages of ``role`` and ``content``, up to where the model speaks.

        CheckpointError if the checkpoint has no usable chat template; RequestError if the template
        refuses these messages.
        """
        ids: list[int] = []
        for part, is_content in self._rendered_parts(messages):
            if is_content:
                ids += self.encode(part)
            else:
                ids += self._template_tokenizer.encode(part, add_special_tokens=False).ids
        return ids

    def _rendered_parts(self, messages: list[dict[str, str]]) -> list[tuple[str, bool]]:
        """(text, whether it is a message's content) in order; empty texts are left out."""
        if self._template is None:
            raise CheckpointError(
                "the checkpoint has no chat template; put its chat_template.jinja into its folder"
            )
        if odd := [m["role"] for m in messages if not m["role"].isidentifier()]:
            raise RequestError(f"role {odd[0]!r} is not a plain word such as 'user'")
        marked = [
            {**message, "content": f"{_PAD}{_OPEN}{i}{_CLOSE}{_PAD}"}
            for i, message in enumerate(messages)
        ]
        try:
            rest = self._template.render(
                messages=marked,
                add_generation_prompt=True,
                enable_thinking=False,
                **self._special_texts,
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise RequestError(f"the chat template refuses these messages: {error}") from None
        parts: list[tuple[str, bool]] = []
        used: set[int] = set()
        while _OPEN in rest:
            before, _, rest = rest.partition(_OPEN)
            number, _, rest = rest.partition(_CLOSE)
            content = messages[int(number)]["content"]
            content = content if before.endswith(_PAD) else content.lstrip()
            content = content if rest.startswith(_PAD) else content.rstrip()
            parts += [(before.removesuffix(_PAD), False), (content, True)]
            rest = rest.removeprefix(_PAD)
            used.add(int(number))
        if len(used) < len(messages):
            raise CheckpointError("the chat template leaves a message out; use the model's own one")
        parts.append((rest, False))
        return [part for part in parts if part[0]]

    def _without_control_tokens(self, text: str, encoding: tokenizers.Encoding) -> list[int]:
        """Cut the text inside each control token, which then cannot be one token again."""
        ids: list[int] = []
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token not in self._control_ids:
                ids.append(token)
            elif end - start > 1:
                ids += self.encode(text[start : start + 1]) + self.encode(text[start + 1 : end])
            else:
                raise RequestError(
                    f"the text's character {text[start:end]!r} is a control token of this model; "
                    "remove it"
                )
        return ids

    def _unknown_id(self) -> int | None:
        """What stands for characters outside the vocabulary; harmless, so no control token."""
        text = getattr(self._template_tokenizer.model, "unk_token", None)
        return None if text is None else self._template_tokenizer.token_to_id(text)

    def _token_text(self, token_id: int | None) -> str:
        text = None if token_id is None else self._template_tokenizer.id_to_token(token_id)
        return text or ""


def _chat_template(folder: Path) -> str | None:
    path = folder / "chat_template.jinja"
    if path.exists():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {path}: {error}") from None
    if (folder / "tokenizer_config.json").exists():
        template = read_json(folder / "tokenizer_config.json").get("chat_template")
        return template if isinstance(template, str) else None
    return None


def _special_texts(folder: Path) -> dict[str, str]:
    """tokenizer_config.json's bos_token and the like, each a text or an object that holds one."""
    path = folder / "tokenizer_config.json"
    if not path.exists():
        return {}
    values = {
        name: value["content"] if isinstance(value, dict) and "content" in value else value
        for name, value in read_json(path).items()
        if name.endswith("_token")
    }
    return {name: value for name, value in values.items() if isinstance(value, str)}


def _environment() -> ImmutableSandboxedEnvironment:
    """As transformers sets it up, so that templates written for it work."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    return environment


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
