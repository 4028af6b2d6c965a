"""The contract of a job: one model per kind, strict, frozen, no unknown fields.

Build jobs from Python with these classes (pydantic raises ValidationError), or from parsed JSON
with ``parsing.parse_job`` (which raises JobError in plain sentences).
"""

from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PrivateAttr,
    model_validator,
)

from .record import is_blank_field, with_spellings
from .rules import Rule
from .template import parse_template


def _text_id(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value


def _text_or_object(value: object) -> object:
    if value is not None and not isinstance(value, (str, dict)):
        raise ValueError("must be an object or a text")
    return with_spellings(value)


class _JobBase(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: Annotated[str, Field(min_length=1, max_length=200), BeforeValidator(_text_id)]
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    max_attempts: Annotated[int, Field(ge=1, le=100)] | None = None
    _line: int | None = PrivateAttr(default=None)

    @property
    def line(self) -> int | None:
        """The line of the input file that the job stood in, or None."""
        return self._line

    def at_line(self, line: int) -> Self:
        """Remember the line that the job came from; returns the job itself."""
        self._line = line
        return self


class FillJob(_JobBase):
    """A template to fill from a record, from instructions, or both.

    record: facts, as an object or as free text. instructions: for all slots (a text) or for
    some (an object of slot names). slots: rules for the values.
    """

    kind: Literal["fill"] = "fill"
    template: str
    record: Annotated[str | dict[str, JsonValue] | None, BeforeValidator(_text_or_object)] = None
    instructions: Annotated[str | dict[str, str] | None, BeforeValidator(_text_or_object)] = None
    slots: dict[str, Rule] = {}

    @model_validator(mode="after")
    def _slots_have_values(self) -> Self:
        names = parse_template(self.template).names
        own = self.instructions if isinstance(self.instructions, dict) else {}
        self._check_dependencies(names)
        for field, keys in (("slots", self.slots), ("instructions", own)):
            for name in keys:
                if name not in names:
                    raise ValueError(f"'{field}' names '{name}', but the template has no such slot")
        if isinstance(self.instructions, str) and self.instructions.strip():
            return self
        asked = [name for name in names if not own.get(name, "").strip()]
        bare = [name for name in asked if not self.record or is_blank_field(self.record, name)]
        if bare:
            raise ValueError(
                f"slots without values: {', '.join(bare)} "
                "(neither a value in 'record' nor a word in 'instructions')"
            )
        return self

    def _check_dependencies(self, names: tuple[str, ...]) -> None:
        """Raise ValueError for a dependency on no slot, or in a circle."""
        pending = {name: self.rule(name).depends_on for name in names}
        for name, others in pending.items():
            if unknown := [other for other in others if other not in names]:
                raise ValueError(
                    f"slot '{name}' depends on '{unknown[0]}', but the template has no such slot"
                )
        while free := [name for name, others in pending.items() if not pending.keys() & others]:
            for name in free:
                del pending[name]
        if pending:
            raise ValueError(f"slots that depend on each other in a circle: {', '.join(pending)}")

    def rule(self, slot: str) -> Rule:
        """The slot's rule; any text where none is given."""
        return self.slots.get(slot, Rule())

    def own_instruction(self, slot: str) -> str:
        """What the caller said about this very slot; empty if nothing."""
        own = self.instructions
        return own.get(slot, "").strip() if isinstance(own, dict) else ""


class ReformatJob(_JobBase):
    """Code to lay out anew: the same program. style: a known name, or words for the model."""

    kind: Literal["reformat"] = "reformat"
    code: Annotated[str, Field(min_length=1)]
    language: Annotated[str, Field(min_length=1, max_length=50)]
    style: Annotated[str, Field(min_length=1, max_length=2000)] | None = None


class RewriteJob(_JobBase):
    """A text or a Markdown document to change as the instruction says.

    keep_numbers: numbers come through untouched. format: "text" has no headings, lists or tables.
    """

    kind: Literal["rewrite"] = "rewrite"
    text: Annotated[str, Field(min_length=1)]
    instruction: Annotated[str, Field(min_length=1, max_length=10_000)]
    keep_numbers: bool = False
    format: Literal["text", "markdown"] = "markdown"


Job = FillJob | ReformatJob | RewriteJob


KINDS: dict[str, type[FillJob] | type[ReformatJob] | type[RewriteJob]] = {
    "fill": FillJob,
    "reformat": ReformatJob,
    "rewrite": RewriteJob,
}
