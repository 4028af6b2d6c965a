"""JSON reformat jobs: a random document in one layout, wanted in another."""

import json
import random

from dgq.pipelines.prompts import reformat_prompt

from . import values
from .case import Case, JobCase, Split, pick

STYLES = {
    "indent-2": "indent 2",
    "indent-4": "indent 4",
    "compact": "compact",
    "one-line": "one line",
}
MAX_LEAVES = 6
TEXTS = (
    values.person,
    values.city,
    values.code,
    values.date,
    values.product,
    values.email,
    values.word,
    values.word,
)


def layout(value: object, style: str) -> str:
    """The document in one of STYLES."""
    if style == "compact":
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if style == "one-line":
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False, indent=int(style[-1]))


def json_job(rng: random.Random, split: Split, least_leaves: int = 2) -> JobCase:
    """A document of least_leaves to MAX_LEAVES values."""
    document = _object(rng, split, rng.randint(least_leaves, MAX_LEAVES), 0)
    style = rng.choice(list(STYLES))
    expected = layout(document, style)
    sources = [layout(document, other) for other in STYLES] + [_messy(rng, document)] * 2
    source = rng.choice([text for text in sources if text != expected])
    case = Case("json", reformat_prompt("json", STYLES[style], source), source, expected)
    job: dict[str, object] = {
        "kind": "reformat",
        "language": "json",
        "style": style,
        "code": source,
    }
    return JobCase(job, expected, (case,))


def _object(rng: random.Random, split: Split, leaves: int, depth: int) -> dict[str, object]:
    document: dict[str, object] = {}
    while leaves > 0:
        key = pick(rng, _key, split)
        if leaves >= 2 and depth < 2 and rng.random() < 0.3:
            taken = rng.randint(1, min(leaves, 4))
            if rng.random() < 0.5:
                document[key] = _object(rng, split, taken, depth + 1)
            else:
                document[key] = [_scalar(rng, split) for _ in range(taken)]
            leaves -= taken
        else:
            document[key] = _scalar(rng, split)
            leaves -= 1
    return document


def _key(rng: random.Random) -> str:
    first = values.word(rng, 1, 2)
    return first if rng.random() < 0.7 else f"{first}_{values.word(rng, 1, 1)}"


def _scalar(rng: random.Random, split: Split) -> object:
    kind = rng.random()
    if kind < 0.25:
        return int(pick(rng, lambda r: str(r.randint(-20, 9999)), split))
    if kind < 0.33:
        return float(pick(rng, lambda r: str(round(r.uniform(-5, 200), r.randint(1, 3))), split))
    if kind < 0.45:
        return rng.choice([True, False, None])
    if kind < 0.48:
        return rng.choice(["", [], {}])
    return pick(rng, rng.choice(TEXTS), split)


def _messy(rng: random.Random, document: object) -> str:
    """Layout of no style: blanks and line ends where JSON allows them."""
    text = json.dumps(document, ensure_ascii=False, indent=1)
    lines = [line.strip() for line in text.split("\n")]
    joined = ""
    for line in lines:
        joined += line + rng.choice(["", "", " ", "\n", "\n   "])
    return joined.strip()
