"""transformers' ``generate`` behind ``submit``, so that it can do the very jobs that dgq does.

Requests are gathered until no more come, sorted by length, padded on the left, and generated in
batches with the settings of generation_config.json. A draft becomes the starting canvas
(``decoder_input_ids``), noised as dgq does; widths, re-rolls and pins are dgq's own.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from dgq.engine.engine import DEFAULT_MODEL_PATH
from dgq.engine.errors import RequestError
from dgq.engine.generation_config import read_generation_config
from dgq.engine.request import Request, Result
from dgq.engine.tokenizer import Tokenizer

EXPERTS = ("eager", "batched_mm", "grouped_mm")
QUIET_S = 0.05


@dataclass(frozen=True, slots=True)
class Setting:
    """How transformers is run. canvas_length: rows of its canvases, the checkpoint's unless said."""

    batch_size: int
    experts: str
    canvas_length: int = 256

    def __str__(self) -> str:
        return f"batch {self.batch_size}, {self.experts}, canvases of {self.canvas_length}"


def load_reference() -> Any:
    """The shipped checkpoint in transformers, fp32."""
    from transformers.models.diffusion_gemma import DiffusionGemmaForBlockDiffusion

    model = DiffusionGemmaForBlockDiffusion.from_pretrained(DEFAULT_MODEL_PATH, dtype=torch.float32)
    return model.eval()


class ReferenceEngine:
    """A TextEngine answered by transformers, in one thread; use it in a ``with``."""

    def __init__(self, model: Any, setting: Setting) -> None:
        """model: from load_reference; the setting's experts and canvas length are set on it."""
        self.model_path: Path = DEFAULT_MODEL_PATH
        self.model_name = "transformers"
        self.tokenizer = Tokenizer.from_folder(DEFAULT_MODEL_PATH)
        self.canvas_length = setting.canvas_length
        self._model = model
        self._batch_size = setting.batch_size
        self._generation = read_generation_config(DEFAULT_MODEL_PATH)
        model.set_experts_implementation(setting.experts)
        model.config.canvas_length = setting.canvas_length
        torch.manual_seed(0)
        self._pending: list[tuple[Request, Future[Result]]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Future[Result]:
        """As Engine.submit; what transformers cannot do is refused."""
        future: Future[Result] = Future()
        if request.pins or request.scored or request.num_candidates:
            future.set_exception(RequestError("transformers has no pins and no scores"))
            return future
        with self._changed:
            self._pending.append((request, future))
            self._changed.notify()
        return future

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next_requests():
            batch.sort(key=lambda item: len(item[0].prompt_ids))
            for start in range(0, len(batch), self._batch_size):
                self._answer(batch[start : start + self._batch_size])

    def _next_requests(self) -> list[tuple[Request, Future[Result]]]:
        """All that wait, once no more have come for a while; none when closed."""
        with self._changed:
            while not self._pending and not self._closed:
                self._changed.wait()
            while self._changed.wait(QUIET_S) and not self._closed:
                pass
            requests, self._pending = self._pending, []
            return requests

    def _answer(self, batch: Sequence[tuple[Request, Future[Result]]]) -> None:
        try:
            results = self._generate([request for request, _ in batch])
        except BaseException as error:  # noqa: BLE001 - the benchmark waits on these futures
            for _, future in batch:
                future.set_exception(error)
            return
        for result, (_, future) in zip(results, batch, strict=True):
            future.set_result(result)

    def _generate(self, requests: list[Request]) -> list[Result]:
        longest = max(len(request.prompt_ids) for request in requests)
        pads = [longest - len(request.prompt_ids) for request in requests]
        ids = [[0] * pad + list(r.prompt_ids) for pad, r in zip(pads, requests, strict=True)]
        mask = [[0] * pad + [1] * (longest - pad) for pad in pads]
        inputs: dict[str, Any] = {}
        if any(request.draft_ids for request in requests):
            inputs["decoder_input_ids"] = self._starting_canvases(requests)
        output = self._model.generate(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            max_new_tokens=max(request.max_new_tokens for request in requests),
            return_dict_in_generate=True,
            **inputs,
        )
        answers = output.sequences[:, longest:]
        num_steps = (answers != self._generation.pad_id).sum(dim=1) / output.tokens_per_forward
        return [
            self._result(row, round(steps))
            for row, steps in zip(answers.tolist(), num_steps.tolist(), strict=True)
        ]

    def _starting_canvases(self, requests: list[Request]) -> torch.Tensor:
        """Drafts followed by the filler, a part of them noised; noise where there is no draft."""
        vocab_size = self._model.config.text_config.vocab_size
        canvases = torch.randint(0, vocab_size, (len(requests), self.canvas_length))
        for row, request in enumerate(requests):
            if request.draft_ids:
                draft = torch.full((self.canvas_length,), self._generation.filler_id)
                draft[: len(request.draft_ids)] = torch.tensor(request.draft_ids)
                kept = torch.rand(self.canvas_length) >= request.draft_noise
                canvases[row] = torch.where(kept, draft, canvases[row])
        return canvases

    def _result(self, row: list[int], num_steps: int) -> Result:
        """What stands before the first stop token."""
        end = next((i for i, token in enumerate(row) if token in self._generation.eos_ids), None)
        return Result(
            token_ids=tuple(row[:end]),
            finish_reason="length" if end is None else "stop",
            num_canvases=-(-len(row[:end]) // self.canvas_length) or 1,
            num_steps=num_steps,
            num_rerolls=0,
            mean_entropy_nats=0.0,
            seconds=0.0,
        )
