import ast
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgq.pipelines.job import ReformatJob
from dgq.pipelines.splitting import WRAPPER

UNTIDY = "import  os\n\n\ndef f(a,b = 1):\n  # add\n  return a+b\nclass A:\n  x=1\n"
TIDY = "import os\n\n\ndef f(a, b=1):\n    # add\n    return a + b\nclass A:\n    x = 1\n"
HEAD = WRAPPER + "\n    "
PIECES = {
    HEAD + "import  os": HEAD + "import os",
    "def f(a,b = 1):\n  # add\n  return a+b": "def f(a, b=1):\n    # add\n    return a + b",
    "class A:\n  x=1": "class A:\n    x = 1",
}


def job(code, language="python", **fields):
    return ReformatJob(id="1", code=code, language=language, **fields)


def checks(result):
    return {check.name: check.passed for check in result.checks}


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_python_file_piece_by_piece(run_one, source_of, bom, end):
    code = bom + UNTIDY.replace("\n", end)
    result, engine = run_one(job(code), lambda prompt: PIECES[source_of(prompt)] + "\n")
    assert (result.status, result.output) == ("ok", bom + TIDY.replace("\n", end))
    assert checks(result) == {"same program": True, "style": True}
    assert len(engine.requests) == 3 and result.stats.attempts == 1
    start = "Reformat this python. Style: 4-space indent, spaced operators.\n\n"
    assert all(prompt.startswith(start) for prompt in engine.prompts)


def test_warm_starts_from_the_source(run_one, source_of):
    _, engine = run_one(job(UNTIDY), lambda prompt: PIECES[source_of(prompt)])
    for request, source in zip(engine.requests, PIECES, strict=True):
        assert engine.tokenizer.decode(request.draft_ids) == source
        assert request.draft_noise == 0.5
        assert request.canvas_length % 16 == 0
        assert len(request.draft_ids) < request.canvas_length <= request.max_new_tokens


def test_a_long_source_takes_several_canvases(run_one):
    code = "f(" + ", ".join(map(str, range(500))) + ");"
    result, engine = run_one(job(code, "javascript"), lambda _: code)
    assert result.status == "ok"
    (request,) = engine.requests
    assert request.canvas_length == len(request.draft_ids) == 256
    assert request.max_new_tokens > 1500


@pytest.mark.parametrize(
    ("answer", "check"),
    [
        (HEAD + "x = 2", "same program"),
        (HEAD + "x = (", "same program"),
        ("", "same program"),
        ("x = 1", "same program"),
        (HEAD + "x =1", "style"),
        (WRAPPER + " x = 1", "style"),
        (HEAD + "x = 1  # done", "same program"),
    ],
)
def test_a_bad_answer_brings_the_original_back(run_one, answer, check):
    result, engine = run_one(job("x=1\n"), lambda _: answer)
    assert (result.status, result.output) == ("invalid_output", "x=1\n")
    assert checks(result) == {check: False} and "piece 1 of 1" in result.checks[0].detail
    assert len(engine.requests) == 3 == result.stats.attempts
    assert len({request.seed for request in engine.requests}) == 3


def test_a_right_guess_counts_even_if_it_did_not_converge(run_one):
    result, _ = run_one(job("x=1"), lambda _: (HEAD + "x = 1", "unconverged"))
    assert (result.status, result.output) == ("ok", "x = 1")


def test_an_answer_in_a_fence_is_taken_out_of_it(run_one):
    result, _ = run_one(job("x=1"), lambda _: f"```python\n{HEAD}x = 1\n```")
    assert result.output == "x = 1"


def test_json_in_each_style(run_one):
    code = '\n{"b":[1.50,{}],\n"a":"x"}\n'
    value = json.loads(code)
    for style, options in (("indent-4", {"indent": 4}), ("one-line", {})):
        wanted = json.dumps(value, **options).replace("1.5", "1.50")
        result, _ = run_one(job(code, "JSON", style=style), lambda _, wanted=wanted: wanted)
        assert (result.status, result.output) == ("ok", wanted + "\n")
    result, _ = run_one(job(code, "json"), lambda _: '{"b": [1.50, {}], "a": "x"}')
    assert (result.status, result.output, checks(result)) == (
        "invalid_output",
        code,
        {"style": False},
    )


def test_a_free_style_is_not_checked(run_one):
    result, engine = run_one(job("x=1", style="as you like"), lambda _: "x   =   1")
    assert (result.status, checks(result)) == ("ok", {"same program": True, "style": None})
    assert "Style: as you like." in engine.prompts[0]


def test_other_languages(run_one):
    script = {"int x=1;": "int x = 1;"}
    result, _ = run_one(job("int x=1;\n", "C"), lambda prompt: script[prompt.split("\n\n")[1]])
    assert (result.status, result.output) == ("ok", "int x = 1;\n")
    result, _ = run_one(job("int x=1;\n", "C"), lambda _: "int x = 2;")
    assert (result.status, result.output) == ("invalid_output", "int x=1;\n")


def test_unparsable_code_is_an_error_and_no_model_is_asked(run_one):
    result, engine = run_one(job("x = 1\ny = )\n"), lambda _: "")
    assert (result.status, result.error.type, result.error.field) == ("error", "JobError", "code")
    assert "line 2, column 5" in result.error.message and engine.requests == []


def test_line_ends_of_the_answer_become_those_of_the_code(run_one):
    code = 'x = """a\r\nb"""\r\ny=1\r\n'
    result, _ = run_one(job(code), lambda _: 'x = """a\r\nb"""\r\ny = 1')
    assert (result.status, result.output) == ("ok", 'x = """a\r\nb"""\r\ny = 1\r\n')


def test_nothing_to_lay_out(run_one):
    for code in ("# only a comment\n", "\n\n"):
        result, engine = run_one(job(code), lambda _: "")
        assert (result.status, result.output, engine.requests) == ("ok", code, [])


def test_a_long_class_comes_back_whole(run_one):
    body = "\n".join(f"  def m{i}(self,a):\n    return a+{i}\n" for i in range(40))
    code = f"class A:\n{body}"

    def script(prompt):
        return ast.unparse(ast.parse(prompt.split("\n\n", 1)[1]))

    result, engine = run_one(job(code), script)
    assert result.status == "ok" and len(engine.requests) == 40
    assert result.output.startswith(
        "class A:\n\n    def m0(self, a):\n        return a + 0\n\n    def m1("
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["x=1", "def f():\n  return 1", "y=[1,2]", "", "# c"]), max_size=5),
       st.data())  # fmt: skip
def test_never_another_program(run_one, lines, data):
    code = "\n".join([*lines, "z=0"])
    answers = st.sampled_from(
        ["x = 1", "def f():\n    return 1", "y = [1, 2]", "z = 0", "", "z = 1"]
    )
    result, _ = run_one(job(code, max_attempts=2), lambda _: data.draw(answers))
    assert ast.dump(ast.parse(result.output)) == ast.dump(ast.parse(code))
    assert result.output == code or result.status == "ok"
