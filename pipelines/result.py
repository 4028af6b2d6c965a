"""What comes out for a job: one row, whatever happened to it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Status = Literal["ok", "invalid_output", "error", "cancelled"]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Check(_Row):
    """One verdict. passed is None where nothing could be checked; detail says why or how."""

    name: str
    passed: bool | None
    detail: str = ""


class ErrorInfo(_Row):
    """Why a job has status ``error``: a class of error, a sentence, the field it is about."""

    type: str
    message: str
    field: str | None = None


class Stats(_Row):
    """What a job cost. Sums over all of its requests, failed attempts included.

    tokens: answer tokens. attempts: rounds of asking, 0 when no model was asked.
    mean_entropy: nats, weighted by canvases. seconds: from admission to result.
    """

    tokens: int = 0
    canvases: int = 0
    steps: int = 0
    rerolls: int = 0
    attempts: int = 0
    requests: int = 0
    mean_entropy: float | None = None
    seconds: float = 0.0
    seed: int | None = None
    model: str | None = None


class JobResult(_Row):
    """The row of one job; ``line`` is its line number in the input, where it came from a file."""

    id: str | None
    line: int | None = None
    kind: str | None = None
    status: Status
    output: str | None = None
    checks: tuple[Check, ...] = ()
    error: ErrorInfo | None = None
    stats: Stats = Stats()

    def to_json_line(self) -> str:
        """The row as one line of JSON, without a line end."""
        return self.model_dump_json()
