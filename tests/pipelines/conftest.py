"""A scripted engine: it answers by a function from the prompt's text, at once or from threads."""

import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dgq.engine.errors import EngineError
from dgq.engine.request import Request, Result
from dgq.pipelines.asking import Context
from dgq.pipelines.run import RunOptions, run_jobs

Script = Callable[[str], Any]


class WordTokenizer:
    """Words, runs of blanks and single signs, numbered as they come; exact both ways."""

    START, END = 1, 2
    eos_ids = (END,)
    pad_id = 0

    def __init__(self, pieces: str = r"\w+|\s+|[^\w\s]") -> None:
        self.pieces = re.compile(pieces)
        self.ids: dict[str, int] = {}
        self.words: list[str] = ["", "<start>", "<end>"]
        self.lock = threading.Lock()

    def encode(self, text: str) -> list[int]:
        with self.lock:
            return [self._id(word) for word in self.pieces.findall(text)]

    def _id(self, word: str) -> int:
        if word not in self.ids:
            self.ids[word] = len(self.words)
            self.words.append(word)
        return self.ids[word]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(self.words[i] for i in token_ids if i > 2)

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        (message,) = messages
        return [self.START, *self.encode(message["content"]), self.END]


class FakeEngine:
    """script: prompt -> answer, (answer, finish_reason), or an exception to put in the future."""

    def __init__(self, script: Script, threads: int = 0) -> None:
        self.tokenizer = WordTokenizer()
        self.canvas_length = 256
        self.model_name = "fake"
        self.model_path = Path("/nowhere")
        self.script = script
        self.requests: list[Request] = []
        self.prompts: list[str] = []
        self.running = self.most_running = 0
        self.dead = False
        self.lock = threading.Lock()
        self.pool = ThreadPoolExecutor(threads) if threads else None

    def submit(self, request: Request) -> Future[Result]:
        if self.dead:
            raise EngineError("the engine is dead")
        prompt = self.tokenizer.decode(request.prompt_ids)
        with self.lock:
            self.requests.append(request)
            self.prompts.append(prompt)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        future: Future[Result] = Future()
        if self.pool:
            self.pool.submit(self._resolve, future, prompt, random.Random(request.seed))
        else:
            self._resolve(future, prompt, None)
        return future

    def _resolve(self, future: Future[Result], prompt: str, rng: random.Random | None) -> None:
        if rng:
            time.sleep(rng.random() * 0.002)
        answer = self.script(prompt)
        with self.lock:
            self.running -= 1
        if not future.set_running_or_notify_cancel():
            return
        if isinstance(answer, Exception):
            future.set_exception(answer)
            return
        text, reason = answer if isinstance(answer, tuple) else (answer, "stop")
        ids = tuple(self.tokenizer.encode(text))
        future.set_result(Result(ids, reason, 1, 5, 0, 0.01, 0.001))


@pytest.fixture
def engine():
    """Makes engines: engine(script, threads=0)."""
    made: list[FakeEngine] = []

    def make(script: Script, threads: int = 0) -> FakeEngine:
        made.append(FakeEngine(script, threads))
        return made[-1]

    yield make
    for each in made:
        if each.pool:
            each.pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def run_one():
    """Runs one job over a scripted engine: run_one(job, script) -> (result, engine)."""

    def run(job, script: Script):
        fake = FakeEngine(script)
        (result,) = run_jobs([job], fake, options=RunOptions())
        return result, fake

    return run


@pytest.fixture(scope="session")
def blank_first() -> WordTokenizer:
    """A tokenizer whose blanks belong to the word behind them, as most models' do."""
    return WordTokenizer(r" ?\w+|\s|[^\w\s]")


@pytest.fixture(scope="session")
def context() -> Context:
    return Context(WordTokenizer())


@pytest.fixture(scope="session")
def source_of():
    """The text that a reformat or rewrite prompt is about."""
    return lambda prompt: prompt.split("\n\n", 1)[1]
