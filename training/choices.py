"""Fill jobs with rules: slots of one of some values, numbers, and texts that match a pattern."""

import random
from collections.abc import Callable
from dataclasses import replace

from . import values
from .case import JobCase, Split
from .fills import CONCEPTS, Concept, make_letter

SIZES = "tiny small medium large huge narrow wide short tall long slim broad".split()
COLOURS = "red blue green black white yellow purple orange brown pink grey violet".split()
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
PRIORITIES = "low normal high urgent critical minor major routine".split()
PAYMENTS = "card cash invoice cheque transfer voucher credit deposit".split()
LANGUAGES = "English German French Italian Spanish Dutch Danish Polish Greek Finnish".split()


def _concept(make: Callable[[random.Random], str], name: str, letter: str, note: str) -> Concept:
    return Concept(make, tuple(name.split()), tuple(letter.split("|")), tuple(note.split("|")))


def _words(words: list[str], name: str, letter: str, note: str) -> Concept:
    concept = _concept(lambda rng: rng.choice(words), name, letter, note)
    return replace(concept, is_closed=True)


CHOICES = (
    _words(SIZES, "size width fit", "Size: {}.|You chose {}.", "They want {}.|Size is {}."),
    _words(COLOURS, "colour shade tint", "Colour: {}.|It is {}.", "In {}.|Wants it {}."),
    _words(
        WEEKDAYS,
        "weekday visit pickup",
        "See you on {}.|Pickup: {}.",
        "Comes on {}.|Best on {}.",
    ),
    _words(
        PRIORITIES,
        "priority urgency level",
        "Priority: {}.|It is {}.",
        "Marked as {}.|It is {}.",
    ),
    _words(PAYMENTS, "payment method paid", "Paid by {}.|By {}.", "Pays by {}.|Paid by {}."),
    _words(
        LANGUAGES,
        "language speech tongue",
        "We write in {}.|In {}.",
        "Speaks {}.|In {} only.",
    ),
    _concept(
        values.name, "plan tariff package", "Your plan is {}.|Plan: {}.", "On the {} plan.|Took {}."
    ),
)
NUMBERS = (
    _concept(
        lambda rng: str(rng.randint(2, 9999)),
        "quantity pieces count",
        "We packed {} pieces.|Quantity: {}.",
        "Ordered {} of them.|Needs {} pieces.",
    ),
    _concept(
        lambda rng: f"{rng.randint(1, 99)}.{rng.randint(1, 99)}",
        "weight kilos mass",
        "It weighs {} kg.|Weight: {} kg.",
        "Weighs {} kg.|The parcel has {} kg.",
    ),
)
NUMBER_TYPES = ("integer", "number")
PATTERNS = {
    "order": r"[A-Z]{1,3}[-/]?[0-9]{2,5}",
    "time": r"[0-9]{1,2}:[0-9]{2}",
    "email": r"[a-z]+@[a-z]+\.[a-z]+",
}


def choice_job(rng: random.Random, split: Split) -> JobCase:
    """A letter with one to three slots that have rules, and up to two others."""
    ruled: list[tuple[Concept, str]] = [(concept, "enum") for concept in CHOICES]
    ruled += list(zip(NUMBERS, NUMBER_TYPES, strict=True))
    ruled += [(c, "regex") for c in CONCEPTS if PATTERNS.keys() & set(c.names)]
    weights = [2 if kind == "enum" else 3 for _, kind in ruled]
    chosen: dict[tuple[str, ...], tuple[Concept, str]] = {}
    for concept, kind in rng.choices(ruled, weights, k=rng.randint(1, 3)):
        chosen[concept.names] = (concept, kind)
    others = [concept for concept in CONCEPTS if concept.names not in chosen]
    concepts = [concept for concept, _ in chosen.values()] + rng.sample(others, rng.randint(0, 2))
    rng.shuffle(concepts)
    letter = make_letter(rng, split, concepts)
    rules: dict[str, dict[str, object]] = {}
    for concept, slot, answer in zip(concepts, letter.slots, letter.answers, strict=True):
        kind = chosen.get(concept.names, (concept, ""))[1]
        if kind == "enum":
            rules[slot] = {"type": "enum", "values": _options(rng, split, concept, answer)}
        elif kind == "regex":
            name = next(name for name in concept.names if name in PATTERNS)
            rules[slot] = {"type": "regex", "pattern": PATTERNS[name]}
        elif kind:
            rules[slot] = {"type": kind}
    return letter.job_case(rules)


def _options(rng: random.Random, split: Split, concept: Concept, answer: str) -> list[str]:
    """Two to five values, the answer among them."""
    options = {answer}
    for _ in range(rng.randint(1, 6)):
        options.add(concept.draw(rng, split))
    shuffled = sorted(options)[:5] if answer in sorted(options)[:5] else sorted(options)[-5:]
    rng.shuffle(shuffled)
    return shuffled
