"""The engine: requests in from any thread, results out as futures; one thread owns the device."""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self

import torch

from .canvas import EngineLimits, Generation
from .checkpoint import load_model
from .engine_config import DEFAULT_ENGINE_CONFIG, EngineConfig
from .errors import EngineError, RequestError
from .faults import error_for
from .generation_config import read_generation_config
from .kernel_choice import choose_dtype, choose_operations
from .loop import Loop
from .memory_plan import MemoryPlan, plan_for_folder
from .model import DiffusionGemma
from .quantization import UNQUANTIZED, Quantization
from .request import Request, Result, SamplingConfig
from .stats import EngineStats
from .tokenizer import Tokenizer
from .trace import NO_TRACE, Trace

DEFAULT_MODEL_PATH = Path(__file__).parent / "dgq-tiny"


class Engine:
    """Generates text with one checkpoint. Use Engine.load, and close it or use it in a ``with``."""

    def __init__(
        self,
        model: DiffusionGemma,
        model_path: Path,
        engine_config: EngineConfig,
        trace: Trace = NO_TRACE,
    ) -> None:
        """Take a loaded model; EngineError if its canvas is wider than the row budget."""
        config, generation = model.config, read_generation_config(model_path)
        if engine_config.max_rows < config.canvas_length:
            raise EngineError(
                f"max_rows must be at least the checkpoint's canvas_length, {config.canvas_length}, "
                f"not {engine_config.max_rows}"
            )
        self.model_path = model_path
        self._limits = EngineLimits(
            vocab_size=config.vocab_size,
            canvas_length=config.canvas_length,
            max_position_embeddings=config.max_position_embeddings,
            max_kv_tokens=engine_config.max_kv_tokens,
            eos_ids=frozenset(generation.eos_ids),
            filler_id=generation.filler_id,
            sampling=generation.sampling,
        )
        self._max_in_flight = 2 * engine_config.max_canvases
        self._device = model.decoder.embed_tokens.weight.device
        self._loop = Loop(model, engine_config, self._limits.eos_ids, self._may_start, trace)
        self._futures: dict[int, Future[Result]] = {}
        self._numbers = count()
        self._inbox: list[Generation] = []
        self._changed = threading.Condition()
        self._stopped: EngineError | None = None  # why no more work is taken
        self._thread = threading.Thread(target=self._run, name="dgq-engine", daemon=True)
        self._thread.start()

    @classmethod
    def load(
        cls,
        model_path: Path | None = None,
        *,
        dtype: str = "auto",
        device: str = "cpu",
        kernels: str = "auto",
        preset: str = UNQUANTIZED.preset,
        max_memory_bytes: int | None = None,
        config: EngineConfig = DEFAULT_ENGINE_CONFIG,
        trace: Trace = NO_TRACE,
    ) -> Self:
        """Load a checkpoint folder (None: the shipped dgq-tiny) and start the engine's thread.

        dtype, kernels: see engine_config.py.
        preset: what to hold in fewer bits, see quantization.py; a folder that is quantized stays as
        it is. max_memory_bytes: the engine is made to fit, see memory_plan.py; ``config`` bounds it.
        trace: told of every step, by the engine's thread; to be closed after the engine.
        CheckpointError says what is wrong with the folder, EngineError what is wrong with the
        settings.
        """
        path = DEFAULT_MODEL_PATH if model_path is None else Path(model_path)
        if max_memory_bytes is not None:
            plan = cls.plan(
                path,
                dtype=dtype,
                device=device,
                kernels=kernels,
                preset=preset,
                max_memory_bytes=max_memory_bytes,
                config=config,
            )
            config = plan.engine_config
        kept_as = choose_dtype(dtype, device)
        operations = choose_operations(kernels, device, kept_as)
        # OpenMP keeps a team of threads for each thread that computes, and lets all teams sleep between
        # products once they are more than the cores; the engine's shall be the only one that lives.
        with ThreadPoolExecutor(1) as executor:
            loading = executor.submit(
                load_model, path, kept_as, device, Quantization(preset), operations
            )
            return executor.submit(cls, loading.result(), path, config, trace).result()

    @staticmethod
    def plan(
        model_path: Path | None = None,
        *,
        dtype: str = "auto",
        device: str = "cpu",
        kernels: str = "auto",
        preset: str = UNQUANTIZED.preset,
        max_memory_bytes: int,
        config: EngineConfig = DEFAULT_ENGINE_CONFIG,
    ) -> MemoryPlan:
        """How load would spend this memory; reads config.json alone. Raises as load does."""
        path = DEFAULT_MODEL_PATH if model_path is None else Path(model_path)
        counted_as = choose_dtype(dtype, device)
        operations = choose_operations(kernels, device, counted_as)
        return plan_for_folder(
            path, Quantization(preset), counted_as, max_memory_bytes, config, operations
        )

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer. CheckpointError where the folder has none."""
        return Tokenizer.from_folder(self.model_path)

    @property
    def canvas_length(self) -> int:
        """Rows of the widest canvas, and of a canvas that says nothing."""
        return self._limits.canvas_length

    @property
    def model_name(self) -> str:
        """The checkpoint folder's name."""
        return self.model_path.resolve().name

    @property
    def sampling(self) -> SamplingConfig:
        """The checkpoint's sampling defaults."""
        return self._limits.sampling

    @property
    def stats(self) -> EngineStats:
        """The load at this moment; cheap, from any thread, also after the engine has stopped."""
        return self._loop.stats(num_outside=len(self._inbox))

    def submit(self, request: Request) -> Future[Result]:
        """Queue a request, from any thread; its order among others is kept.

        The future gets the result, or RequestError if this engine cannot serve the request, or
        EngineError if the engine stops first: DeviceError if the device failed under it. It can be
        cancelled while it waits. Raises that EngineError if the engine has stopped.
        """
        future: Future[Result] = Future()
        with self._changed:
            if self._stopped is not None:
                raise _copy(self._stopped)
            try:
                generation = Generation.begin(next(self._numbers), request, self._limits)
            except RequestError as error:
                future.set_exception(error)
                return future
            self._futures[generation.number] = future
            self._inbox.append(generation)
            self._changed.notify_all()
        return future

    def generate(self, requests: Iterable[Request]) -> Iterator[tuple[int, Result]]:
        """Yield (index, result) as requests finish; the input is pulled only as far as needed.

        At most twice as many requests are held as there may be canvases. A request that cannot be served raises
        its RequestError here; use ``submit`` to have errors one by one.
        """
        source = enumerate(requests)
        pending: dict[int, Future[Result]] = {}
        finished: SimpleQueue[int] = SimpleQueue()
        try:
            while True:
                while len(pending) < self._max_in_flight and (item := next(source, None)):
                    index, request = item
                    pending[index] = self.submit(request)
                    pending[index].add_done_callback(partial(_put, finished, index))
                if not pending:
                    return
                index = finished.get()
                yield index, pending.pop(index).result()
        finally:
            for future in pending.values():
                future.cancel()

    def close(self) -> None:
        """Stop the engine; what has not finished gets an EngineError. May be called twice."""
        self._stop(EngineError("the engine is closed"))
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @torch.inference_mode()
    def _run(self) -> None:
        try:
            if self._device.type == "cuda":  # each thread has its own; kernels are launched on it
                torch.cuda.set_device(self._device)
            while self._take_inbox():
                for number, outcome in self._loop.step():
                    future = self._futures.pop(number)
                    if isinstance(outcome, RequestError):
                        future.set_exception(outcome)
                    else:
                        future.set_result(outcome)
        except BaseException as error:  # noqa: BLE001 - callers wait on their futures, whatever it was
            self._stop(error_for(error))
        self._fail_pending()

    def _take_inbox(self) -> bool:
        """Move what was submitted to the scheduler, waiting for it if idle; False to end."""
        with self._changed:
            while not self._inbox and self._loop.is_idle and self._stopped is None:
                self._loop.check()
                self._changed.wait()
            for generation in self._inbox:
                self._loop.add(generation)
            self._inbox.clear()
            return self._stopped is None

    def _may_start(self, generation: Generation) -> bool:
        """False if the caller cancelled while the request waited; one begun before may go on."""
        future = self._futures[generation.number]
        if future.running() or future.set_running_or_notify_cancel():
            return True
        del self._futures[generation.number]
        return False

    def _stop(self, reason: EngineError) -> None:
        with self._changed:
            if self._stopped is None:
                self._stopped = reason
            self._changed.notify_all()

    def _fail_pending(self) -> None:
        with self._changed:
            futures, self._futures = self._futures, {}
            reason = self._stopped or EngineError("the engine stopped")
        for future in futures.values():
            if not future.done() and (future.running() or future.set_running_or_notify_cancel()):
                future.set_exception(_copy(reason))


def _copy(error: EngineError) -> EngineError:
    """A fresh one: each that is raised gathers a traceback of its own."""
    return type(error)(*error.args)


def _put(finished: SimpleQueue[int], index: int, future: Future[Result]) -> None:
    """A future's callback: it gets the future last, and only the index is wanted."""
    finished.put(index)
