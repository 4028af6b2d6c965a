from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgq.pipelines.errors import Rejected
from dgq.pipelines.protect import find_spans, hide, numbers_of


def spans(text, keep_numbers=False):
    return [text[start:end] for start, end in find_spans(text, keep_numbers)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Run `make  it` or ``a ` b`` now", ["`make  it`", "``a ` b``"]),
        ("``a ` b``` c``", ["``a ` b``` c``"]),
        ("See [the docs](https://a.b/c_(d)?x=1 'T'), ok.", ["[the docs](https://a.b/c_(d)?x=1 'T')"]),
        ("![img](a.png) and [ref][id] and note[^1]", ["![img](a.png)", "[ref][id]", "[^1]"]),
        ("[![b](x.svg)](https://y.z)", ["[![b](x.svg)](https://y.z)"]),
        ("At https://a.b/c?d=e#f. Or (http://x.y/z), www.w.org!",
         ["https://a.b/c?d=e#f", "http://x.y/z", "www.w.org"]),
        ("Wiki https://en.wiki/A_(b) is", ["https://en.wiki/A_(b)"]),
        ("Mail jo.doe+x@mail.example.com.", ["jo.doe+x@mail.example.com"]),
        ("Dear {{ name }}, {{a}}{{b}}", ["{{ name }}", "{{a}}", "{{b}}"]),
        ("a <br> b <https://x.y> c <!-- d\n e --> f", ["<br>", "<https://x.y>", "<!-- d\n e -->"]),
        ("s3://b/color, ssh://h/x; HTTPS://X.org/y.", ["s3://b/color", "ssh://h/x", "HTTPS://X.org/y"]),
        ("a <code>color  x</code> and <a href='b'>c</a>",
         ["<code>color  x</code>", "<a href='b'>", "</a>"]),
        ("https://a.b/" + "c" * 5000, ["https://a.b/" + "c" * 5000]),
        ("![x](data:image/png;base64," + "color/+" * 2000 + "=) y",
         ["data:image/png;base64," + "color/+" * 2000 + "="]),
        ("plain [brackets] (and these) 5 < 6 a_b @me {x}", []),
    ],
)  # fmt: skip
def test_what_is_protected(text, wanted):
    assert spans(text) == wanted


def test_numbers_if_asked():
    text = "Pay 1,234.50 by 2025-05-03, 10%. B2B, v2, +5 or 3 at 10:30."
    assert spans(text, keep_numbers=True) == ["1,234.50", "2025-05-03", "10%", "+5", "3", "10:30"]
    assert numbers_of("a12 b3") == ["12", "3"] != numbers_of("a3 b12")
    assert spans("1e-5 and \u22123", keep_numbers=True) == ["1e-5", "\u22123"]
    assert spans("1" * 5000 + "a", keep_numbers=True) == []


def test_marks_are_put_back_in_order():
    text = "Use `a` and {{b}}."
    hidden = hide(text, find_spans(text, False))
    assert hidden.text == "Use <1> and <2>."
    assert hidden.restore("Do use <1>, and <2>!") == "Do use `a`, and {{b}}!"
    for answer in ("Use <1>.", "<2> <1>", "<1> <2> <2>", "", "<1> < 2>"):
        with pytest.raises(Rejected, match="protected"):
            hidden.restore(answer)


def test_marks_of_the_text_itself_are_left_alone():
    text = "As in <1> and <3>, use `a` `b`"
    hidden = hide(text, find_spans(text, False))
    assert hidden.text == "As in <1> and <3>, use <4> <5>"
    assert hidden.restore("<3> <4> <1> <5>") == "<3> `a` <1> `b`"
    assert hide("<999999999> `a`", [(12, 15)]).text == "<999999999> <1>"


@given(st.text(alphabet="ab `{}[]()<>1.@/!-\n", max_size=60), st.booleans())
def test_hiding_and_restoring_is_exact(text, keep_numbers):
    found = find_spans(text, keep_numbers)
    assert all(one[1] <= other[0] for one, other in pairwise(found))
    assert all(start < end for start, end in found)
    hidden = hide(text, found)
    assert hidden.restore(hidden.text) == text
