"""A step that the device has been told to do, and what comes of it.

On a GPU the host goes on while the device works. A step's flags may so be read when the next one, or
a few, are already under way, with canvases in them that had finished. What comes of those is *stale*:
a canvas is known by the place that it had when the step was launched, and once its generation has
moved on, to another attempt, another canvas or its end, no outcome of that place counts.

Scores and candidates are computed when a step is read, for the few canvases that finished and ask for
them; on a GPU they wait behind the step that is under way.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .canvas import Generation, Outcome
from .model import DiffusionGemma
from .readout import candidates_of, scores_of


@dataclass(frozen=True, slots=True)
class DenoisedCanvas:
    """One canvas of a step, as it was at the launch.

    hidden: [width, d], its rows' in this very step, where its request asks what they say.
    """

    generation: Generation
    place: tuple[int, int, int]
    width: int
    hidden: Tensor | None

    @property
    def is_stale(self) -> bool:
        """Its generation has moved on since."""
        return self.generation.result is not None or self.generation.place != self.place


class StepInFlight:
    """One launched step. Holds device memory only for canvases of which more is asked."""

    def __init__(
        self,
        model: DiffusionGemma,
        canvases: list[DenoisedCanvas],
        facts: Tensor,
        argmax: Tensor,
    ) -> None:
        """facts [B, 4]: done, converged, mean entropy, steps; argmax int64 [B, W]; of the device.

        They are copied to the host in the stream's order, into memory of this step's own, as the
        next step may use theirs again.
        """
        self._model = model
        self._canvases = canvases
        self._facts, self._argmax = _to_host(facts), _to_host(argmax)
        self._copied = (
            torch.cuda.current_stream(facts.device).record_event() if facts.is_cuda else None
        )

    def outcomes(self) -> list[tuple[Generation, Outcome]]:
        """Wait for the step; the canvases that it finished, as long as they are not stale."""
        if self._copied is not None:
            self._copied.synchronize()
        facts = self._facts.tolist()
        finished = [
            i for i, canvas in enumerate(self._canvases) if facts[i][0] and not canvas.is_stale
        ]
        return [(self._canvases[i].generation, self._outcome(i, *facts[i][1:])) for i in finished]

    def _outcome(self, i: int, converged: float, mean_entropy: float, num_steps: float) -> Outcome:
        canvas = self._canvases[i]
        outcome = Outcome(
            ids=self._argmax[i, : canvas.width].tolist(),
            num_steps=int(num_steps),
            mean_entropy=mean_entropy,
            converged=bool(converged),
        )
        if canvas.hidden is None:
            return outcome
        return replace(
            outcome,
            scores=scores_of(self._model, canvas.hidden, canvas.generation),
            candidates=candidates_of(self._model, canvas.hidden, canvas.generation),
        )


def _to_host(tensor: Tensor) -> Tensor:
    """A copy in the host's memory, pinned where it comes from a GPU, which is not waited for."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return host.copy_(tensor, non_blocking=True)
