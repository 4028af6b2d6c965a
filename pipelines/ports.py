"""What the pipelines need of an engine, as protocols: tests hand in a scripted fake."""

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

from dgq.engine.request import Request, Result


class TextTokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer; the first one fills the rest of a canvas."""
        ...

    @property
    def pad_id(self) -> int:
        """The token that means nothing; it fills the spare rows of a slot."""
        ...

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ids, special tokens skipped."""
        ...

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        """The ids of a conversation, up to where the model's answer starts."""
        ...


class TextEngine(Protocol):
    """Makes tokens. ``submit`` is thread-safe and returns at once."""

    @property
    def tokenizer(self) -> TextTokenizer:
        """The checkpoint's tokenizer."""
        ...

    @property
    def canvas_length(self) -> int:
        """The most rows of one canvas."""
        ...

    @property
    def model_name(self) -> str:
        """The name that results carry."""
        ...

    @property
    def model_path(self) -> Path:
        """The checkpoint's folder."""
        ...

    def submit(self, request: Request) -> Future[Result]:
        """Queue a request; raises or resolves to RequestError for one that cannot be served."""
        ...
