"""A fill job's prompts: for one slot, and for the whole template."""

from collections.abc import Sequence

from .fill_slots import said_of
from .job import FillJob
from .prompts import fill_slot_prompt, fill_template_prompt
from .record import record_text
from .template import excerpt


def slot_prompt(job: FillJob, slot: str, template: str) -> str:
    """Ask for one slot. template: the job's, or with values of other slots in it."""
    said = [job.instructions.strip()] if isinstance(job.instructions, str) else []
    instructions = " ".join(part for part in (*said, said_of(job, slot)) if part)
    return fill_slot_prompt(excerpt(template, slot), record_text(job.record), instructions, slot)


def template_prompt(job: FillJob, slots: Sequence[str], first: str) -> str:
    """Ask for several slots together. first: the one around which a long template is cut out.

    Slots of which the same is said are named together, and not named if it is said of all.
    """
    groups: dict[str, list[str]] = {}
    for slot in slots:
        groups.setdefault(said_of(job, slot), []).append("{{" + slot + "}}")
    said = [job.instructions.strip()] if isinstance(job.instructions, str) else []
    for words, names in groups.items():
        if words:
            said.append(words if len(groups) == 1 else f"{', '.join(names)}: {words}")
    instructions = " ".join(part for part in said if part)
    return fill_template_prompt(excerpt(job.template, first), record_text(job.record), instructions)
