"""Steps planned and laid out without a model, of which it is known by name who stands where."""

import torch

from dgq.engine.canvas import EngineLimits, Generation, Outcome
from dgq.engine.kv_pages import KVPages, PageCounts
from dgq.engine.layout import LayoutBuilder
from dgq.engine.request import Request, SamplingConfig
from dgq.engine.scheduler import Scheduler

CANVAS_LENGTH = 128
LIMITS = EngineLimits(
    1000, CANVAS_LENGTH, 4096, 4096, frozenset({1}), 1, SamplingConfig(max_rerolls=0)
)


class Steps:
    """Plans and lays out steps; knows by name what each row of the KV pool holds, in full layers and
    in sliding ones.
    """

    def __init__(
        self,
        texts,
        window,
        max_rows=10_000,
        max_canvases=8,
        share=False,
        num_sliding=2000,
        follows_pages=False,
    ):
        """texts: (length of the prompt, canvas_length, max_new_tokens) each."""
        self.window = window
        self.pages = KVPages(PageCounts(2000, num_sliding), window, share=share)
        self.scheduler = Scheduler(max_canvases, max_rows, self.pages)
        self.builder = LayoutBuilder(
            window, CANVAS_LENGTH, torch.float32, torch.device("cpu"), follows_pages
        )
        self.slots = {}
        self.written = {True: {}, False: {}}
        for number, (length, width, tokens) in enumerate(texts):
            prompt = tuple(2 + (number + i) % 900 for i in range(length))
            request = Request(prompt, tokens, seed=0, canvas_length=width)
            self.scheduler.add(Generation.begin(number, request, LIMITS))

    def next(self):
        plan = self.scheduler.schedule()
        for generation in plan.start:
            self.slots.setdefault(generation.number, 3 * len(self.slots) + 1)
            generation.needs_start = False
        slots = [self.slots[generation.number] for generation in plan.canvases]
        return plan, self.builder.build(plan, slots), slots

    def finish(self, generation):
        ids = [9] * generation.width
        verdict = generation.finish_canvas(Outcome(ids, 1, 0.0, True))
        self.scheduler.resize(generation)
        return verdict

    def names(self, plan):
        """Of the step's rows: (text, place in it), or (text, place of its prefix's end, row)."""
        owners = {id(g.pages): g.number for g in self.scheduler.running}
        names = [(g.number, g.prefix_length, row) for g in plan.canvases for row in range(g.width)]
        for chunk in plan.chunks:
            names += [(owners[id(chunk.pages)], chunk.start + i) for i in range(len(chunk.ids))]
        return names

    def sees(self, name, width, full):
        """The definition: names of the rows that a row sees."""
        text, place, *row = name
        first = 0 if full else max(place - self.window + 1, 0)
        if not row:
            return {(text, i) for i in range(first, place + 1)}
        return {(text, i) for i in range(first, place)} | {(text, place, i) for i in range(width)}
