"""Fill jobs: a short letter and a record that names its fields otherwise, or a free-text note."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from dgq.pipelines.fill_prompts import slot_prompt
from dgq.pipelines.job import FillJob
from dgq.pipelines.template import parse_template

from . import values
from .case import Case, JobCase, Split, pick


@dataclass(frozen=True, slots=True)
class Concept:
    """A kind of value: names a slot or a field may have, and sentences that carry it.

    is_closed: the values are a few words, known in both splits.
    """

    make: Callable[[random.Random], str]
    names: tuple[str, ...]
    letter: tuple[str, ...]
    note: tuple[str, ...]
    is_closed: bool = False

    def draw(self, rng: random.Random, split: Split) -> str:
        """A value of the split."""
        return self.make(rng) if self.is_closed else pick(rng, self.make, split)


CONCEPTS = (
    Concept(
        values.person,
        ("customer", "client", "recipient", "name", "full_name", "contact", "buyer"),
        ("Dear {},", "Hello {},", "To {}:", "Hi {},", "This is for {}."),
        ("Spoke with {}.", "The customer is {}.", "{} called today.", "Call from {}."),
    ),
    Concept(
        values.company,
        ("company", "firm", "employer", "organisation", "supplier", "business"),
        ("Thank you for choosing {}.", "We work with {}.", "Signed for {}.", "It comes from {}."),
        ("They work at {}.", "The firm is {}.", "Goods come from {}.", "Ordered through {}."),
    ),
    Concept(
        values.city,
        ("city", "town", "place", "location", "destination"),
        ("It will go to {}.", "We meet in {}.", "Our office in {} will help.", "Sent from {}."),
        ("Lives in {}.", "The parcel goes to {}.", "Office is in {}.", "They moved to {}."),
    ),
    Concept(
        values.code,
        ("order", "order_id", "order_number", "reference", "ticket", "number", "case_id"),
        ("Your order {} is ready.", "Reference: {}.", "We closed ticket {}.", "About {}:"),
        ("Order {} was placed.", "The number is {}.", "See ticket {}.", "It is filed as {}."),
    ),
    Concept(
        values.date,
        ("date", "day", "delivery_date", "due", "deadline", "when"),
        ("It arrives on {}.", "Please pay by {}.", "The date is {}.", "We expect you on {}."),
        ("Delivery on {}.", "They want it by {}.", "Agreed on {}.", "It is due {}."),
    ),
    Concept(
        values.time,
        ("time", "hour", "start", "starts_at"),
        ("We start at {}.", "Please be there at {}.", "The call is at {}."),
        ("It begins at {}.", "Set for {}.", "Be there by {}."),
    ),
    Concept(
        values.amount,
        ("total", "amount", "price", "sum", "cost", "fee"),
        ("The total is {}.", "You paid {}.", "Please send {}.", "It costs {}."),
        ("They owe {}.", "The bill is {}.", "Price agreed: {}.", "Paid {} so far."),
    ),
    Concept(
        values.product,
        ("product", "item", "goods", "article", "thing"),
        ("You bought: {}.", "The {} is on its way.", "We repaired the {}.", "Item: {}."),
        ("Wants the {}.", "Bought one {}.", "The {} is broken.", "Asked about the {}."),
    ),
    Concept(
        values.email,
        ("email", "mail", "email_address", "write_to"),
        ("Write to {}.", "We sent it to {}.", "Questions? {}"),
        ("Mail is {}.", "Reach them at {}.", "Use {} for mail."),
    ),
    Concept(
        values.address,
        ("address", "street", "ship_to", "home"),
        ("We deliver to {}.", "Your address: {}.", "Come to {}."),
        ("Lives at {}.", "Send it to {}.", "The house is {}."),
    ),
    Concept(
        values.room,
        ("room", "venue", "hall", "meeting_room"),
        ("We meet in {}.", "Please go to {}.", "Your seat is in {}."),
        ("The meeting is in {}.", "Booked {}.", "They sit in {}."),
    ),
)
OPENINGS = ("", "", "Notice\n\n", "Hello,\n", "# Letter\n\n", "Good morning.\n")
CLOSINGS = ("", "", "\nKind regards", "\n\nThank you!", "\nYours,\nthe team", " See you soon.")
FILLERS = ("We are glad to help.", "Keep this letter.", "Nothing else is needed.", "All is well.")


@dataclass(frozen=True, slots=True)
class Letter:
    """A template, a record, and the right value of each slot; the slots in order."""

    template: str
    record: dict[str, str] | str
    slots: tuple[str, ...]
    answers: tuple[str, ...]

    def job_case(self, rules: dict[str, dict[str, object]]) -> JobCase:
        """The letter as a job with these rules, and one request for each slot."""
        job: dict[str, object] = {"kind": "fill", "template": self.template, "record": self.record}
        if rules:
            job["slots"] = rules
        parsed = FillJob.model_validate({"id": "1"} | job)
        cases = tuple(
            Case("fill", slot_prompt(parsed, slot, self.template), "", answer)
            for slot, answer in zip(self.slots, self.answers, strict=True)
        )
        values = dict(zip(self.slots, self.answers, strict=True))
        expected = parse_template(self.template).assemble(values)
        return JobCase(job, expected, cases, values)


def fill_job(rng: random.Random, split: Split) -> JobCase:
    """A letter with two to five slots."""
    return make_letter(rng, split, rng.sample(CONCEPTS, rng.randint(2, 5))).job_case({})


def make_letter(rng: random.Random, split: Split, concepts: list[Concept]) -> Letter:
    """A letter with one slot for each concept, and a record with these facts and others."""
    slots = [rng.choice(concept.names) for concept in concepts]
    answers = [concept.draw(rng, split) for concept in concepts]
    lines = [
        rng.choice(concept.letter).format("{{" + slot + "}}")
        for concept, slot in zip(concepts, slots, strict=True)
    ]
    for slot, concept, answer in zip(list(slots), concepts, list(answers), strict=True):
        if concept.make is values.person and rng.random() < 0.3:
            part = rng.choice(["first_name", "last_name"])
            index = slots.index(slot)
            lines[index] = lines[index].replace("{{" + slot + "}}", "{{" + part + "}}")
            slots[index] = part
            answers[index] = answer.split()[part == "last_name"]
    if rng.random() < 0.3:
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(FILLERS))
    template = rng.choice(OPENINGS) + rng.choice([" ", "\n", "\n\n"]).join(lines)
    template += rng.choice(CLOSINGS)
    facts = _facts(rng, split, concepts, slots, answers)
    record = _record(rng, slots, facts) if rng.random() < 0.5 else _note(rng, facts)
    return Letter(template, record, tuple(slots), tuple(answers))


def _facts(
    rng: random.Random,
    split: Split,
    concepts: list[Concept],
    slots: list[str],
    answers: list[str],
) -> list[tuple[Concept, str]]:
    """What the record says: the answers, in any order, and one or two things not asked for."""
    facts: list[tuple[Concept, str]] = []
    for concept, slot, answer in zip(concepts, slots, answers, strict=True):
        value = answer
        if slot == "first_name":
            value = f"{answer} {pick(rng, values.name, split)}"
        elif slot == "last_name":
            value = f"{pick(rng, values.name, split)} {answer}"
        facts.append((concept, value))
    unused = [concept for concept in CONCEPTS if concept not in concepts]
    for concept in rng.sample(unused, rng.randint(0, 2)):
        facts.append((concept, pick(rng, concept.make, split)))
    rng.shuffle(facts)
    return facts


def _record(
    rng: random.Random, slots: list[str], facts: list[tuple[Concept, str]]
) -> dict[str, str]:
    """Fields under other names than the slots': a field of the slot's name needs no model."""
    return {
        rng.choice([name for name in concept.names if name not in slots]): value
        for concept, value in facts
    }


def _note(rng: random.Random, facts: list[tuple[Concept, str]]) -> str:
    sentences = [rng.choice(concept.note).format(value) for concept, value in facts]
    if rng.random() < 0.3:
        sentences.insert(rng.randrange(len(sentences) + 1), rng.choice(FILLERS))
    return " ".join(sentences)
