"""dgq-tiny's answers in each format, end to end: how many are right, how many steps, how fast.

Real texts and the checkpoint's own stop rule, unlike the other sections. The texts are of the kinds that
dgq-tiny has learnt, each with the one right answer; all are asked at once.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dgq.engine.engine import DEFAULT_MODEL_PATH, Engine
from dgq.engine.errors import EngineError
from dgq.engine.kernel_choice import check_format, choose_dtype, choose_operations
from dgq.engine.quantization import PRESETS, Quantization
from dgq.engine.request import Request

from .memory_use import forget_peak, peak, peak_in_words
from .section import Group, Measure, Row, Settings
from .tables import as_table, quantity

_NAMES = ("Maria", "Tom", "Ada", "Nils", "Joan", "Peter")
_THINGS = ("lamp", "desk", "chair", "printer", "camera", "blanket")
_NUMBERS = {"two": 2, "three": 3, "five": 5, "seven": 7, "nine": 9, "ten": 10}
_WIDTH = 64


class PresetsSection:
    """One point for each format of dgq-tiny, whatever shape the others measure."""

    name = "presets"
    title = "dgq-tiny, end to end by preset"

    def groups(self, settings: Settings) -> Sequence[Group]:
        """The format that is told first is the plainest."""
        return [Group(preset, (f"{len(questions())} texts",)) for preset in PRESETS]

    @contextmanager
    def open(self, settings: Settings, group: str) -> Iterator[Measure]:
        """An engine as ``dgq run`` has it, where the device has products of the format."""
        dtype = choose_dtype(settings.dtype, settings.device)
        operations = choose_operations("auto", settings.device, dtype)
        try:
            check_format(Quantization(group), operations, settings.device)
        except EngineError as error:
            reason = str(error)
            yield lambda point: {"preset": group, "skipped": reason}
            return
        with Engine.load(
            DEFAULT_MODEL_PATH, dtype=settings.dtype, device=settings.device, preset=group
        ) as engine:
            yield lambda point: _answer(engine, group, settings)

    def table(self, settings: Settings, rows: Sequence[Row]) -> str:
        """By format."""
        lines = [
            [
                row["preset"],
                f"{row['right']} of {row['texts']}",
                quantity(row["steps_per_canvas"]),
                quantity(row["tokens_per_s"]),
                peak_in_words(row),
            ]
            for row in rows
        ]
        return as_table(["preset", "right", "steps per canvas", "tokens/s", "peak GB"], lines)


def questions() -> list[tuple[str, str]]:
    """Prompts and their right answers."""
    found = []
    for name in _NAMES:
        for thing, (word, number) in zip(_THINGS, _NUMBERS.items(), strict=True):
            text = f"{name} did not like the color of the {thing}."
            found.append(
                (
                    f"Rewrite this text. Use British spelling.\n\n{text}",
                    text.replace("color", "colour"),
                )
            )
            text = f"There are {word} rooms for {name}."
            found.append(
                (
                    "Rewrite this text. Write the numbers one to twelve as digits.\n\n" + text,
                    text.replace(word, str(number)),
                )
            )
    return found


def _answer(engine: Engine, preset: str, settings: Settings) -> Row:
    asked = questions()
    tokenizer = engine.tokenizer
    requests = [
        Request(
            tuple(tokenizer.encode_chat([{"role": "user", "content": prompt}])),
            max_new_tokens=_WIDTH,
            seed=seed,
            canvas_length=_WIDTH,
        )
        for seed, (prompt, _) in enumerate(asked)
    ]
    engine.submit(requests[0]).result()  # what is compiled or allocated once
    forget_peak(settings)
    started_s = time.perf_counter()
    futures = [engine.submit(request) for request in requests]
    results = [future.result() for future in futures]
    seconds = time.perf_counter() - started_s
    right = sum(
        tokenizer.decode(result.token_ids) == answer
        for result, (_, answer) in zip(results, asked, strict=True)
    )
    num_tokens = sum(len(result.token_ids) for result in results)
    canvases = sum(result.num_canvases + result.num_rerolls for result in results)
    return {
        "preset": preset,
        "texts": len(asked),
        "right": right,
        "tokens": num_tokens,
        "seconds": seconds,
        "tokens_per_s": num_tokens / seconds,
        "steps_per_canvas": sum(result.num_steps for result in results) / canvases,
        **peak(settings),
    }
