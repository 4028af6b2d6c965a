import re
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgq.pipelines.same_program import difference
from dgq.pipelines.splitting import WRAPPER, join_parts, split_python, unwrapped


def words(text):
    return len(text.split())


def own(part):
    """The part's text without the head that is not in the file."""
    if not part.wrapped:
        return part.text
    level = part.indent[: len(part.indent) // part.depth] if part.depth else "    "
    return unwrapped(part.text, level)


def texts(parts):
    return [own(part) for part in parts]


@pytest.mark.parametrize(
    "name", ["argparse", "dataclasses", "heapq", "statistics", "types", "this"]
)
@pytest.mark.parametrize("budget", [20, 400])
def test_modules_of_the_standard_library_come_together_again(name, budget):
    code = (Path(sysconfig.get_path("stdlib")) / f"{name}.py").read_text("utf-8")
    parts = split_python(code, budget, words)
    joined = join_parts(parts, texts(parts))
    assert re.sub(r"[ \t]+\n", "\n", joined) == re.sub(r"[ \t]+\n", "\n", code)
    for part in parts:
        assert part.ask or not part.text.strip() or name == "this"
        if part.ask:
            assert difference(part.text, part.text, "python") is None


STATEMENTS = st.sampled_from(
    ["x = 1", "# c", "", "def f():\n  return 1", "@d\nclass A:\n  x = 1\n\n  def g(self): pass",
     "class B:\n\tdef a(self):\n\t\treturn '''\n x'''\n\tdef b(self): pass", "a = 1; b = 2",
     "if x:\n    y\nelse:\n    z", "s = '''a\n\nb'''", "x = \\\n 1", "class C: pass",
     "class D:\n    '''doc'''\n    # c\n    y = 2\n    @p\n    def h(self):\n        pass\n\n    z = 3"]
)  # fmt: skip


@given(st.lists(STATEMENTS, max_size=8).map("\n".join), st.sampled_from(["", "\n", "\n\n"]),
       st.integers(1, 12))  # fmt: skip
def test_any_file_comes_together_again(code, end, budget):
    parts = split_python(code + end, budget, words)
    assert join_parts(parts, texts(parts)) == code + end
    assert all(difference(part.text, part.text, "python") is None for part in parts if part.ask)


def test_borders():
    code = (
        "import a\nimport b\n\n\n# about f\n@d\ndef f():\n    pass\ndef g(): pass\nx = 1\n# end\n"
    )
    assert [own(part) for part in split_python(code, 100, words) if part.ask] == [
        "import a\nimport b",
        "# about f\n@d\ndef f():\n    pass",
        "def g(): pass",
        "x = 1\n# end",
    ]
    assert [own(part) for part in split_python(code, 2, words) if part.ask][:2] == [
        "import a",
        "import b",
    ]


CLASS = """class A(B):
  '''One line.'''
  x = 1

  def f(self):
    return 1

  # about g
  def g(self):
    if self:
      return 2
"""


def test_a_long_class_is_split_at_its_members():
    parts = split_python(CLASS, 9, words)
    asked = [part for part in parts if part.ask]
    assert [part.text for part in asked] == [
        "class A(B):\n  '''One line.'''\n  x = 1",
        "def f(self):\n  return 1",
        "# about g\ndef g(self):\n  if self:\n    return 2",
    ]
    assert [part.indent for part in asked] == ["", "  ", "  "]
    assert join_parts(parts, texts(parts)) == CLASS
    wider = [re.sub(r"(?m)^( +)", r"\1\1", part.text) for part in parts]
    assert join_parts(parts, wider, "    ") == re.sub(r"(?m)^( +)", r"\1\1", CLASS)


FUNCTION = """@d
def f(a):
\tx=1

\tfor y in x:
\t\twith y:
\t\t\tg(y)
\t\t\th(y)
\t\tif a:
\t\t\ty=2
\t# about the result
\treturn x
"""


def test_a_long_function_is_split_at_its_statements_to_any_depth():
    parts = split_python(FUNCTION, 6, words)
    asked = [part for part in parts if part.ask]
    assert [own(part) for part in asked] == [
        "@d\ndef f(a):\n\tx=1",
        "for y in x:\n\twith y:\n\t\tg(y)",
        "h(y)",
        "if a:\n\ty=2",
        "# about the result\nreturn x",
    ]
    assert [part.depth for part in asked] == [0, 1, 3, 2, 1]
    assert [part.text.startswith(WRAPPER) for part in asked] == [False, True, True, True, True]
    assert asked[3].text == f"{WRAPPER}\n\tif a:\n\t\ty=2"
    assert join_parts(parts, texts(parts)) == FUNCTION
    spaced = [text.replace("\t", "  ") for text in texts(parts)]
    assert join_parts(parts, spaced, "  ") == FUNCTION.replace("\t", "  ")


def test_without_borders_inside_functions_stay_whole_and_statements_bare():
    assert [part.text for part in split_python(FUNCTION, 6, words, inside=False) if part.ask] == [
        FUNCTION.rstrip()
    ]
    assert [part.text for part in split_python("x = 1\n", 6, words, inside=False) if part.ask] == [
        "x = 1"
    ]


def test_statements_that_hold_a_string_of_several_lines_wear_no_head():
    (part,) = split_python("x = '''a\n b'''", 10, words)
    assert (part.text, part.wrapped) == ("x = '''a\n b'''", False)


def test_an_answer_without_the_head_is_none():
    assert unwrapped(f"{WRAPPER}\n  x = 1\n  if x:\n    y", "  ") == "x = 1\nif x:\n  y"
    assert unwrapped("x = 1", "  ") is None and unwrapped(WRAPPER, "  ") is None
    assert unwrapped("def g(self):\n  x = 1", "  ") is None


@pytest.mark.parametrize(
    "member",
    ["  def g(self):\n    '''Two\n    lines.'''\n", "  def g(self,\na): pass\n"],
)
def test_a_class_whose_members_cannot_lose_their_indent_stays_whole(member):
    code = CLASS + member
    assert len([part for part in split_python(code, 6, words) if part.ask]) == 1


def test_only_comments_are_not_asked_about():
    assert [part.ask for part in split_python("# a\n\n# b\n", 10, words)] == [False]
    assert split_python("", 10, words)[0].text == ""
