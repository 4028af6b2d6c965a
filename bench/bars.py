"""What the published model has to reach on one H100, and whether a run did."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .section import Row
from .tables import NOT_MEASURED, quantity


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure that is wanted, at least or at most, and what was measured."""

    name: str
    wanted: float
    at_most: bool
    measured: float | None

    @property
    def met(self) -> bool | None:
        """None where nothing was measured."""
        if self.measured is None:
            return None
        return self.measured <= self.wanted if self.at_most else self.measured >= self.wanted

    def cells(self) -> list[str]:
        """For a table."""
        measured = NOT_MEASURED if self.measured is None else quantity(self.measured)
        words = {None: "", True: "yes", False: "no"}
        sense = "at most" if self.at_most else "at least"
        return [self.name, f"{sense} {quantity(self.wanted)}", measured, words[self.met]]


def bars(found: Mapping[str, Sequence[Row]]) -> list[Bar]:
    """found: the rows of each section that ran."""

    def figures(section: str, figure: str, **facts: object) -> Iterator[float]:
        for row in found.get(section, ()):
            if figure in row and all(row.get(name) == fact for name, fact in facts.items()):
                yield row[figure]

    speeds = {
        count: max(figures("protocol", "tokens_per_s", canvases=count), default=None)
        for count in (1, 16)
    }
    requests = max(figures("short", "requests_per_s"), default=None)
    held = min(figures("memory", "device_used_bytes"), default=None)
    return [
        Bar("tokens/s, 1 canvas", 1500, False, speeds[1]),
        Bar("tokens/s, 16 canvases", 3000, False, speeds[16]),
        Bar("requests/s, 32-token answers", 300, False, requests),
        Bar("GB, 8 canvases behind 4,096 tokens", 18.0, True, None if held is None else held / 1e9),
    ]
