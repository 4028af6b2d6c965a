"""Rewrite jobs: six instructions, each a rule that code can carry out and so check.

Texts are made sentences and sentences from the docstrings of Python's standard library.
"""

import random
import re
from collections.abc import Callable, Sequence

from dgq.pipelines.prompts import rewrite_prompt

from . import values
from .case import Case, JobCase, Split, pick

BRITISH = {
    "color": "colour",
    "center": "centre",
    "organize": "organise",
    "favorite": "favourite",
    "analyze": "analyse",
    "catalog": "catalogue",
    "gray": "grey",
    "traveler": "traveller",
    "theater": "theatre",
    "harbor": "harbour",
    "neighbor": "neighbour",
    "labor": "labour",
    "honor": "honour",
    "flavor": "flavour",
    "behavior": "behaviour",
    "apologize": "apologise",
    "recognize": "recognise",
    "realize": "realise",
    "canceled": "cancelled",
    "defense": "defence",
    "jewelry": "jewellery",
    "fiber": "fibre",
    "initialize": "initialise",
    "serialize": "serialise",
}
CONTRACTIONS = {
    "don't": "do not",
    "doesn't": "does not",
    "didn't": "did not",
    "isn't": "is not",
    "aren't": "are not",
    "wasn't": "was not",
    "weren't": "were not",
    "can't": "cannot",
    "couldn't": "could not",
    "won't": "will not",
    "wouldn't": "would not",
    "shouldn't": "should not",
    "haven't": "have not",
    "hasn't": "has not",
    "it's": "it is",
    "that's": "that is",
    "there's": "there is",
    "we're": "we are",
    "you're": "you are",
    "they're": "they are",
    "i'm": "I am",
    "we've": "we have",
    "they've": "they have",
    "i've": "I have",
    "we'll": "we will",
    "they'll": "they will",
    "you'll": "you will",
    "i'll": "I will",
}
DIGITS = {
    word: str(number)
    for number, word in enumerate(
        "one two three four five six seven eight nine ten eleven twelve".split(), start=1
    )
}
FILLER_WORDS = ("very", "really", "just", "quite", "actually", "basically", "simply")
WE = {
    "I am": "we are",
    "I was": "we were",
    "I": "we",
    "me": "us",
    "my": "our",
    "mine": "ours",
    "myself": "ourselves",
}

SENTENCES = (
    "{Person} {didnt} like the {color} of the {thing}.",
    "We {really}met {n} people from {company} in {city}.",
    "The {thing} {isnt} ready, so {person} will wait {n} days.",
    "{Person} {really}wants a {look} {thing} and {n} {thing}s.",
    "I think {its} a {really}good {thing}, but {we'll} ask {person}.",
    "My {neighbor} in {city} {doesnt} know me.",
    "I was in {city} with my {thing} and {n} friends.",
    "They sent me {n} {thing}s, and {they're} {really}{look}.",
    "Please {organize} the {catalog} of {company} before {date}.",
    "{Company} {hasnt} paid for the {really}{look} {thing}.",
    "I am sure that {person} took my {thing} to the {theater}.",
    "{Its} {really}late, and the {center} of {city} is {really}quiet.",
    "The {traveler} {couldnt} find order {code}.",
    "{Person} and I {really}met at {time} near the {harbor}.",
    "You {shouldnt} call {person} after {time}.",
    "There are {n} rooms for {person}, and {n} for me.",
    "I {didnt} see the {color}, so I asked {company} for {n} more.",
    "The {labor} cost {amount}, which {wasnt} {really}fair.",
    "{Person} paid {amount} for {n} {look} {thing}s.",
    "Send the {look} {thing} to {person} at {company} by {date}.",
    "{Theyre} going to {realize} that the {flavor} {isnt} right.",
    "I gave my {favorite} {thing} to {person}, not to {company}.",
    "The meeting with {person} was {canceled} on {date}.",
    "Our {behavior} {wasnt} {really}nice, and I {apologize} for it.",
    "{Company} has {n} offices; {theirs} in {city} is {really}new.",
    "I told {person} about it myself at {time}.",
    "{N} {thing}s {werent} in the box that {company} sent me.",
)
NEGATIONS = {
    "didnt": ("didn't", "did not"),
    "isnt": ("isn't", "is not"),
    "doesnt": ("doesn't", "does not"),
    "hasnt": ("hasn't", "has not"),
    "couldnt": ("couldn't", "could not", "can't", "cannot"),
    "shouldnt": ("shouldn't", "should not", "don't", "won't", "will not"),
    "wasnt": ("wasn't", "was not"),
    "werent": ("weren't", "were not", "aren't", "haven't been"),
    "its": ("it's", "it is", "that's", "there's"),
    "Its": ("It's", "It is", "That's"),
    "we'll": ("we'll", "we will", "I'll", "they'll", "you'll"),
    "they're": ("they're", "they are", "you're", "we're"),
    "Theyre": ("They're", "They are", "We're", "I'm", "You're"),
    "theirs": ("the one", "one", "that"),
}


def matched_case(found: str, replacement: str) -> str:
    """Give the replacement the capital that the found text had."""
    return replacement[0].upper() + replacement[1:] if found[0].isupper() else replacement


def _words(pairs: dict[str, str]) -> Callable[[str], str]:
    pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, pairs)) + r")\b", re.IGNORECASE)

    def replace(match: re.Match[str]) -> str:
        return matched_case(match[0], pairs[match[0].lower()])

    return lambda text: pattern.sub(replace, text)


def use_we(text: str) -> str:
    """I -> we, my -> our; a capital only where a sentence starts."""
    pattern = re.compile(r"(^|[.!?] )?\b(I am|I was|I|[Mm]e|[Mm]y|[Mm]ine|[Mm]yself)\b(?!')")

    def replace(match: re.Match[str]) -> str:
        start = match[1]
        key = match[2] if match[2].startswith("I") else match[2].lower()
        word = WE[key]
        return word if start is None else start + word[0].upper() + word[1:]

    return pattern.sub(replace, text)


def remove_fillers(text: str) -> str:
    """Drop the filler words, and nothing else."""
    return re.sub(r" (?:" + "|".join(FILLER_WORDS) + r")\b(?=[ ])", "", text)


RULES: dict[str, Callable[[str], str]] = {
    "Use British spelling.": _words(BRITISH),
    "Expand all contractions.": _words(CONTRACTIONS),
    "Write the numbers one to twelve as digits.": _words(DIGITS),
    "Remove the filler words.": remove_fillers,
    "Use we instead of I.": use_we,
}
REPLACE = 'Replace "{}" with "{}".'
INSTRUCTIONS = (*RULES, REPLACE)


def rewrite_case(
    rng: random.Random,
    split: Split,
    prose: Sequence[str],
    instructions: Sequence[str] = INSTRUCTIONS,
) -> tuple[str, Case]:
    """One piece of one or two sentences: the instruction, one of those given, and the case."""
    made = [make_sentence(rng, split) for _ in range(1 if rng.random() < 0.8 else 2)]
    if prose and rng.random() < 0.35:
        made = [rng.choice(prose)]
    text = " ".join(made)
    instruction = rng.choice(instructions)
    if instruction == REPLACE:
        instruction, text, answer = _replace(rng, split, text)
    else:
        answer = RULES[instruction](text)
        if answer == text and rng.random() < 0.6:
            return rewrite_case(rng, split, prose, instructions)
    if rng.random() < 0.15:
        text, answer = _with_marks(rng, text, answer)
    return instruction, Case("rewrite", rewrite_prompt(instruction, text), text, answer)


def rewrite_job(rng: random.Random, split: Split, prose: Sequence[str]) -> JobCase:
    """A text of one piece."""
    instruction, case = rewrite_case(rng, split, prose)
    job: dict[str, object] = {"kind": "rewrite", "instruction": instruction, "text": case.draft}
    return JobCase(job, case.answer, (case,))


def make_sentence(rng: random.Random, split: Split) -> str:
    """A sentence in which most rules find something to do."""
    fields: dict[str, str] = {
        "person": pick(rng, rng.choice([values.name, values.person]), split),
        "company": pick(rng, values.company, split),
        "city": pick(rng, values.city, split),
        "code": pick(rng, values.code, split),
        "date": pick(rng, values.date, split),
        "time": pick(rng, values.time, split),
        "amount": pick(rng, values.amount, split),
        "thing": rng.choice(values.THINGS),
        "look": rng.choice(values.LOOKS),
        "really": rng.choice([f"{word} " for word in FILLER_WORDS] + [""] * 5),
    }
    fields |= {name: rng.choice(choices) for name, choices in NEGATIONS.items()}
    fields |= {american: american for american in BRITISH}
    if rng.random() < 0.15:
        fields |= BRITISH
    fields["n"] = rng.choice([*DIGITS, *DIGITS, str(rng.randint(2, 40)), "many"])
    fields |= {"Person": fields["person"], "Company": fields["company"]}
    fields["N"] = fields["n"].capitalize()
    return rng.choice(SENTENCES).format_map(fields)


def _replace(rng: random.Random, split: Split, text: str) -> tuple[str, str, str]:
    """Put an old name into the text if it has none, and replace it by a new one."""
    makers = (values.name, values.company, values.person, values.city)
    new = pick(rng, rng.choice(makers), split)
    capitals = re.findall(r"(?<=[a-z,] )[A-Z][a-z]+(?: [A-Z][a-z]+)?\b", text)
    things = [thing for thing in values.THINGS if f" {thing} " in text]
    candidates = capitals + things
    if not candidates:
        old = pick(rng, rng.choice(makers), split)
        text = f"{old} wrote: {text}"
    else:
        old = rng.choice(candidates)
        if old in things:
            new = rng.choice([thing for thing in values.THINGS if thing != old] + [new])
    return REPLACE.format(old, new), text, re.sub(rf"\b{re.escape(old)}\b", new, text)


def _with_marks(rng: random.Random, text: str, answer: str) -> tuple[str, str]:
    """Stand-ins for protected spans, at words that the rule left alone."""
    words = re.findall(r"(?<= )[a-z]{4,}(?= )", text)
    kept = [w for w in words if all(len(re.findall(rf"\b{w}\b", t)) == 1 for t in (text, answer))]
    for number, word in enumerate(sorted(rng.sample(kept, min(len(kept), 2)), key=text.index), 1):
        text = re.sub(rf"\b{word}\b", f"<{number}>", text)
        answer = re.sub(rf"\b{word}\b", f"<{number}>", answer)
    return text, answer
