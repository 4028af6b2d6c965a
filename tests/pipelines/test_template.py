from hypothesis import given
from hypothesis import strategies as st

from dgq.pipelines.template import EXCERPT_OVER, excerpt, parse_template

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,5}", fullmatch=True)
PIECES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["{", "}", "{{", "}}", "\r\n", "\n", "{{}}", "{{ 1 }}", "{{a b}}", "é\u0301"]),
    NAMES.map(lambda name: "{{" + name + "}}"),
    NAMES.map(lambda name: "{{ \t" + name + " }}"),
)
TEMPLATES = st.lists(PIECES, max_size=8).map("".join)


@given(TEMPLATES)
def test_marks_put_back_give_the_template(text):
    template = parse_template(text)
    assert len(template.literals) == len(template.slots) + 1
    at = 0
    for literal, slot in zip(template.literals, (*template.slots, None), strict=True):
        assert text.startswith(literal, at)
        at += len(literal)
        if slot is not None:
            end = text.index("}}", at) + 2
            assert text[at:end].strip("{} \t") == slot
            at = end
    assert at == len(text)


@given(TEMPLATES, st.data())
def test_literal_text_survives_any_values(text, data):
    """Values with marks, braces, line ends or nothing: the literals stay, in order, untouched."""
    template = parse_template(text)
    values = {name: data.draw(PIECES) for name in template.names}
    out = template.assemble(values)
    at = 0
    for literal, slot in zip(template.literals, (*template.slots, None), strict=True):
        assert out[at : at + len(literal)] == literal
        at += len(literal)
        if slot is not None:
            assert out[at : at + len(values[slot])] == values[slot]
            at += len(values[slot])
    assert at == len(out)


def test_what_is_a_mark():
    template = parse_template("{{{a}}} {{ b.c-d }} {{1}} {{a b}} {{}} {{a}}")
    assert template.slots == ("a", "b.c-d", "a")
    assert template.names == ("a", "b.c-d")
    assert template.literals == ("{", "} ", " {{1}} {{a b}} {{}} ", "")


def test_excerpt_of_a_long_template_holds_the_slot():
    line = "Some words of a long letter, again and again.\n"
    text = line * 100 + "Dear {{ name }},\n" + line * 100
    part = excerpt(text, "name")
    assert "{{ name }}" in part and part in text and len(part) <= EXCERPT_OVER
    assert part.startswith("Some words") and part.endswith("again.")
    assert excerpt("x" * 5000 + "{{a}}" + "y" * 5000, "a").count("{{a}}") == 1
    assert excerpt("Dear {{a}}", "a") == "Dear {{a}}"


def test_some_values_in_the_text_and_marks_for_the_others():
    template = parse_template("{{ a }} {{b}} {{a}} {{}}")
    assert template.text_with({"a": "{{b}}"}) == "{{b}} {{b}} {{b}} {{}}"
    assert template.text_with({}) == "{{a}} {{b}} {{a}} {{}}"
