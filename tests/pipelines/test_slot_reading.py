import itertools
import math
import random
import re

import pytest

from dgq.pipelines.errors import Rejected
from dgq.pipelines.slot_reading import SlotLanguage, option_ids, read_option, read_slot
from dgq.pipelines.windows import SlotRows


def language(pattern=r".+", prefixes=lambda text: True):
    def judge(value):
        if not re.fullmatch(pattern, value):
            raise Rejected("rule", f"{value} is wrong")
        return value

    return SlotLanguage(prefixes, judge)


def rows_of(tokenizer, *rows):
    """Rows of {text: probability}; "" is the filler, and a number a token's id."""

    def token(text):
        if isinstance(text, int):
            return text
        return tokenizer.encode(text)[0] if text else tokenizer.pad_id

    return [
        sorted(((token(t), math.log(p)) for t, p in row.items()), key=lambda pair: -pair[1])
        for row in rows
    ]


def read(tokenizer, rows, lang, lead="", trail=""):
    slot = SlotRows("x", 0, len(rows), lead, trail)
    return read_slot(slot, rows_of(tokenizer, *rows), lang, tokenizer)


def test_tokens_then_filler(context):
    rows = [{"Ada": 0.9}, {" ": 0.9}, {"Berg": 0.9}, {"": 0.9}, {"": 0.9}]
    assert read(context.tokenizer, rows, language()) == "Ada Berg"


def test_the_most_probable_text_that_is_allowed_wins(context):
    rows = [{"12": 0.6, "x": 0.4}, {"-": 0.9, "y": 0.1}, {"7": 0.5, "": 0.45}]
    assert read(context.tokenizer, rows, language()) == "12-7"
    assert read(context.tokenizer, rows, language(r"\w+-")) == "12-"
    assert read(context.tokenizer, rows, language(r"x-\d")) == "x-7"


def test_no_special_token_and_no_filler_inside(context):
    end = context.tokenizer.END
    rows = [{"a": 0.6, end: 0.4}, {end: 0.5, "": 0.3, "b": 0.2}, {"c": 0.5, "": 0.5}]
    with pytest.raises(Rejected, match=r"'abc' has a token of 0\.20"):
        read(context.tokenizer, [rows[0], rows[1], {"c": 0.8, "": 0.2}], language())
    assert read(context.tokenizer, rows, language()) == "a"


def test_lead_and_trail_are_demanded_and_taken_off(blank_first):
    rows = [{"Ada": 0.5, " Ada": 0.4}, {"burg": 0.6, "": 0.3}]
    assert read(blank_first, rows, language(), lead=" ") == "Adaburg"
    assert read(blank_first, rows, language(), lead=" ", trail="burg") == "Ada"
    with pytest.raises(Rejected):
        read(blank_first, rows, language(), lead="-")


def test_a_guess_is_refused_and_so_is_a_row_without_an_allowed_token(context):
    with pytest.raises(Rejected, match=r"token of 0\.25") as caught:
        read(context.tokenizer, [{"a": 0.25, "b": 0.2}, {"": 0.9}], language())
    assert caught.value.check == "unsure"
    with pytest.raises(Rejected, match="a is wrong"):
        read(context.tokenizer, [{"a": 0.9}, {"": 0.9}], language(r"\d"))
    with pytest.raises(Rejected, match="'a' is not allowed, and no allowed text is likely"):
        read(context.tokenizer, [{"a": 0.9}], language(prefixes=lambda text: not text))


def test_the_search_is_exact(context):
    """Against all texts, on random rows and a random set of allowed texts."""
    rng = random.Random(5)
    letters = ["a", "b", "c", ""]
    tokenizer = context.tokenizer
    for _ in range(150):
        length = rng.randint(1, 4)
        rows = [
            {letter: rng.uniform(0.35, 1) for letter in rng.sample(letters, rng.randint(2, 4))}
            for _ in range(length)
        ]
        texts = {
            "".join(chosen)
            for size in range(1, length + 1)
            for chosen in itertools.product("abc", repeat=size)
        }
        allowed = set(rng.sample(sorted(texts), rng.randint(1, len(texts))))
        best = max(allowed, key=lambda text: probability(text, rows))

        def judge(value, allowed=allowed):
            if value not in allowed:
                raise Rejected("rule", value)
            return value

        def may_begin(text, allowed=allowed):
            return any(value.startswith(text) for value in allowed)

        if not probability(best, rows):
            with pytest.raises(Rejected):
                read_words(rows, SlotLanguage(may_begin, judge), tokenizer)
        else:
            found = read_words(rows, SlotLanguage(may_begin, judge), tokenizer)
            assert probability(found, rows) == pytest.approx(probability(best, rows))


def probability(text, rows):
    return math.prod(row.get(text[i : i + 1], 0) for i, row in enumerate(rows))


def read_words(rows, lang, tokenizer):
    return read(tokenizer, rows, lang)


def test_options_are_scored_whole(context):
    tokenizer = context.tokenizer
    slot = SlotRows("x", 4, 3, "", "")
    options = ["in-house", "in", "out"]
    ids = option_ids(slot, options, tokenizer)
    assert [len(each) for each in ids] == [3, 3, 3] and ids[1][1:] == (0, 0)
    scores = [dict.fromkeys({each[i] for each in ids}, -3.0) for i in range(3)]
    for row, token in enumerate(ids[1]):
        scores[row][token] = -0.1
    assert read_option(slot, options, scores, tokenizer) == "in"
    many = [str(i) for i in range(5)]
    level = [{token: -2.0 for each in option_ids(slot, many, tokenizer) for token in each}] * 3
    with pytest.raises(Rejected, match=r"probability of 0\.20"):
        read_option(slot, many, level, tokenizer)
