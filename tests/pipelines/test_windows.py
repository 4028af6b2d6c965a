from hypothesis import given, settings
from hypothesis import strategies as st

from dgq.pipelines.template import parse_template
from dgq.pipelines.windows import LOOK_AHEAD_ROWS, next_window


def window_of(text, tokenizer, *, values=None, ready=None, rows=3, canvas_length=256):
    template = parse_template(text)
    names = [name for name in template.names if name not in (values or {})]
    return next_window(
        template, values or {}, ready or names, lambda *_: rows, tokenizer, canvas_length
    )


def shown(window, tokenizer):
    """The canvas as text, a line for each free row, a dot for an end."""
    rows = ["_"] * window.num_rows
    for row, token in window.pins:
        rows[row] = tokenizer.decode([token]) or "."
    return "".join(rows)


def test_literals_are_pinned_around_free_rows(blank_first):
    window = window_of("Dear {{ a }},\nsee {{b}}!", blank_first)
    assert shown(window, blank_first) == "Dear___,\nsee___!" + "." * 5
    assert window.prefix_ids == () and window.num_rows == 16
    assert [(s.slot, s.first_row, s.num_rows, s.lead, s.trail) for s in window.slots] == [
        ("a", 1, 3, " ", ""),
        ("b", 7, 3, " ", ""),
    ]


def test_known_values_are_literals_and_what_is_written_goes_in_front(blank_first):
    text = "".join(f"line {i}\n" for i in range(20)) + "{{a}} of {{b}} and {{c}} end"
    window = window_of(text, blank_first, values={"a": "two"}, canvas_length=32)
    written = blank_first.decode(window.prefix_ids) + shown(window, blank_first)
    assert written == text.replace("{{a}}", "two").replace(" {{b}}", "___").replace(" {{c}}", "___")
    assert window.num_rows == 16  # all of it text, where there is text


def test_a_long_template_goes_window_by_window(blank_first):
    between = " " + "word " * 60
    text = f"{{{{a}}}}{between}{{{{b}}}} x {{{{c}}}}"
    window = window_of(text, blank_first, canvas_length=64)
    assert [rows.slot for rows in window.slots] == ["a"]
    assert len(window.pins) >= LOOK_AHEAD_ROWS - 3
    later = window_of(text, blank_first, values={"a": "A"}, canvas_length=64)
    assert [rows.slot for rows in later.slots] == ["b", "c"]
    assert blank_first.decode(later.prefix_ids).startswith("A word word")


def test_where_the_text_goes_on_no_end_is_shown(blank_first):
    text = "{{a}}" + "{{b}}" * 6
    window = window_of(text, blank_first, rows=10, canvas_length=16)
    assert not window.pins
    assert [(rows.first_row, rows.num_rows) for rows in window.slots] == [(0, 16)]


def test_a_slot_that_is_not_ready_is_free_behind_and_marked_before(blank_first):
    window = window_of("{{a}}, {{b}}, {{c}}.", blank_first, ready=["b"])
    assert [rows.slot for rows in window.slots] == ["b", "c"]
    assert "{{a}}," in shown(window, blank_first)


PARTS = st.one_of(
    st.text(alphabet="ab .,\n", max_size=30), st.sampled_from(["{{a}}", "{{b}}", "{{c}}"])
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(PARTS, max_size=10).map("".join),
    st.integers(1, 20),
    st.sampled_from([16, 32, 64]),
)
def test_rows_and_healed_ends_are_the_template(blank_first, text, rows, canvas_length):
    tokenizer = blank_first
    template = parse_template(text)
    if not template.slots:
        return
    window = window_of(text, tokenizer, rows=rows, canvas_length=canvas_length)
    assert window.num_rows % 16 == 0 and window.num_rows <= canvas_length
    free = {row for s in window.slots for row in range(s.first_row, s.first_row + s.num_rows)}
    pinned = [row for row, _ in window.pins]
    assert sorted([*free, *pinned]) == list(range(window.num_rows))
    written = tokenizer.decode(window.prefix_ids)
    tokens = dict(window.pins)
    starts = {s.first_row: s for s in window.slots}
    for row in range(window.num_rows):
        if row in tokens:
            written += tokenizer.decode([tokens[row]])
        elif row in starts:
            slot = starts[row]
            written += f"{slot.lead}{{{{{slot.slot}}}}}{slot.trail}"
    assert text.startswith(written)
