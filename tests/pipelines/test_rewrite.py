import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgq.pipelines.decoding import Decoding, Decodings
from dgq.pipelines.job import RewriteJob
from dgq.pipelines.protect import find_spans


def job(text, **fields):
    return RewriteJob(id="1", text=text, instruction="Expand all contractions.", **fields)


@pytest.fixture
def expand(source_of):
    return lambda prompt: source_of(prompt).replace("don't", "do not")


TEXT = "# I don't know\r\n\r\nWe don't use `don't` in {{don't}}.\r\n\r\n```\r\ndon't\r\n```\r\n- I don't\r\n"


def test_protected_parts_and_separators_come_through(run_one, expand):
    result, engine = run_one(job(TEXT), expand)
    assert result.status == "ok"
    assert result.output == (
        "# I do not know\r\n\r\nWe do not use `don't` in {{don't}}.\r\n\r\n"
        "```\r\ndon't\r\n```\r\n- I do not\r\n"
    )
    assert engine.prompts == [
        "Rewrite this text. Expand all contractions.\n\nI don't know",
        "Rewrite this text. Expand all contractions.\n\nWe don't use <1> in <2>.",
        "Rewrite this text. Expand all contractions.\n\nI don't",
    ]
    assert [check.name for check in result.checks] == ["finished", "text", "protected spans"]
    request = engine.requests[1]
    assert engine.tokenizer.decode(request.draft_ids) == "We don't use <1> in <2>."


@pytest.mark.parametrize(
    ("answer", "check"),
    [
        ("We use <2> in <1>.", "protected spans"),
        ("We use <1>.", "protected spans"),
        ("", "protected spans"),
        ("We use\x00 <1> in <2>.", "text"),
        ("We use <1>.\n\nIn <2>.", "text"),
        ("<1><2>", "text"),
        ("We use <1> in <2>. " * 1 + "very " * 30, "text"),
    ],
)
def test_a_damaged_piece_brings_the_original_back(run_one, answer, check):
    text = "We really do use `a` in all of our {{b}} here.\n"
    result, engine = run_one(job(text), lambda _: answer)
    assert (result.status, result.output) == ("invalid_output", text)
    assert result.checks[0].name == check and len(engine.requests) == 3


def test_only_the_failed_piece_is_asked_again(run_one, source_of):
    tries = []

    def script(prompt):
        tries.append(source_of(prompt))
        return ("" if len(tries) == 2 else tries[-1].upper()) or ""

    result, _ = run_one(job("One a.\n\nTwo b.\n\nThree c."), script)
    assert (result.status, result.output) == ("ok", "ONE A.\n\nTWO B.\n\nTHREE C.")
    assert tries == ["One a.", "Two b.", "Three c.", "Two b."]
    assert result.stats.attempts == 2


def test_an_unconverged_piece_does_not_do(run_one, expand):
    result, _ = run_one(job("I don't."), lambda prompt: (expand(prompt), "unconverged"))
    assert (result.status, result.checks[0].name) == ("invalid_output", "finished")


@pytest.mark.parametrize(
    ("text", "answer", "check"),
    [
        ("See https://a.b now.", "See <1>now.", "protected spans"),
        ("The `a` and `b`.", "The ` <1> and <2>.", "protected spans"),
        ("The {{a}} is.", "The {<1>} is `<1>.", "protected spans"),
        ("A b.\n\n```\ncode\n```", "A\n```\nb.", "text"),
        ("A b.\n\nSee `c`. -->", "A <!-- b.", "text"),
        ("A b c.", "A b\x0bc.", "text"),
    ],
)
def test_a_span_cannot_run_into_what_is_around_it(run_one, text, answer, check):
    result, _ = run_one(job(text, max_attempts=1), lambda _: answer)
    assert (result.status, result.checks[0].name) == ("invalid_output", check)


def test_numbers_may_stick_to_nothing_and_not_change_places(run_one):
    result, _ = run_one(job("In 3 or 4 days.", keep_numbers=True), lambda _: "In <1> <2> days.")
    assert result.checks[0].name == "protected spans"
    result, _ = run_one(job("A1 B2.", keep_numbers=True), lambda _: "A2 B1.")
    assert result.checks[0].name == "numbers"


def test_line_ends_of_the_answer_become_those_of_the_text(run_one):
    result, _ = run_one(job("One\r\ntwo."), lambda _: "One\r\ntwo!")
    assert result.output == "One\r\ntwo!"


def test_numbers_are_kept_if_asked(run_one, source_of):
    text = "We have 3 cats and 12 dogs in B2B."
    result, engine = run_one(job(text, keep_numbers=True), source_of)
    assert (result.status, result.output) == ("ok", text)
    assert engine.prompts[0].endswith("We have <1> cats and <2> dogs in B2B.")
    result, _ = run_one(
        job(text, keep_numbers=True), lambda prompt: source_of(prompt).replace("B2B", "B3B")
    )
    assert (result.status, result.checks[0].name) == ("invalid_output", "numbers")


def test_a_text_with_nothing_to_rewrite(run_one):
    result, engine = run_one(job("```\nx\n```\n"), lambda _: "")
    assert (result.status, result.output, engine.requests) == ("ok", "```\nx\n```\n", [])


def test_pieces_follow_the_decoding(engine, source_of):
    from dgq.pipelines.run import RunOptions, run_jobs

    fake = engine(source_of)
    decodings = Decodings(rewrite=Decoding(draft_noise=(1.0,), piece_tokens=8))
    text = "One two three. Four five six. Seven eight nine."
    (result,) = run_jobs([job(text)], fake, options=RunOptions(decodings=decodings))
    assert result.output == text and len(fake.requests) == 3
    assert all(request.draft_ids == () and request.draft_noise == 0 for request in fake.requests)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=15),
            st.sampled_from(
                ["I don't.", "`a b`", "[x](y)", "\n\n", "# ", "```\nz\n```", "{{s}}", " 5 "]
            ),
        ),
        min_size=1,
        max_size=8,
    ).map("\n".join),
    st.booleans(),
)
def test_a_model_that_changes_nothing_changes_nothing(run_one, source_of, text, keep_numbers):
    result, _ = run_one(job(text or "x", keep_numbers=keep_numbers), source_of)
    assert result.output == (text or "x")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["I don't.", "`a b`", "[x](y)", "\n\n", "{{s}}", "see https://a.b"]),
                min_size=1, max_size=8).map(" ".join), st.data())  # fmt: skip
def test_protected_spans_survive_any_model(run_one, text, data):
    answers = st.sampled_from(["<1>", "<1> and <2>", "gone", "`a b`", "{{s}} <1> <2> <3>", "\n\n"])
    result, _ = run_one(job(text, max_attempts=1), lambda _: data.draw(answers))
    kept = [text[start:end] for start, end in find_spans(text, False)]
    at = 0
    for span in kept:
        at = result.output.index(span, at) + len(span)
