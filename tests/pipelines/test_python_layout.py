import ast
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path

import pytest

from dgq.pipelines.python_layout import check_python_layout

MODULES = ("argparse", "ast", "bisect", "collections/__init__", "configparser", "csv", "dataclasses",
           "difflib", "enum", "fractions", "functools", "gzip", "heapq", "inspect", "ipaddress",
           "json/decoder", "logging/__init__", "pathlib", "pickle", "shutil", "statistics", "string",
           "tarfile", "textwrap", "typing", "unittest/case", "zipfile")  # fmt: skip


@pytest.fixture(scope="module")
def formatted(tmp_path_factory):
    """Modules of the standard library, laid out by a formatter that people trust."""
    folder = tmp_path_factory.mktemp("stdlib")
    library = Path(sysconfig.get_path("stdlib"))
    for name in MODULES:
        source = library / f"{name}.py"
        if source.exists():
            (folder / f"{name.replace('/', '_')}.py").write_text(source.read_text("utf-8"), "utf-8")
    command = [
        sys.executable,
        "-m",
        "ruff",
        "format",
        "--isolated",
        "--no-cache",
        "-q",
        str(folder),
    ]
    subprocess.run(command, check=True)
    return [path.read_text("utf-8") for path in sorted(folder.iterdir())]


def test_code_of_a_trusted_formatter_passes(formatted):
    assert len(formatted) > 20 and sum(map(len, formatted)) > 1_000_000
    assert [check_python_layout(code, 4, double_quotes=True) for code in formatted] == [None] * len(
        formatted
    )


def test_and_every_function_of_it_by_itself(formatted):
    count = 0
    for code in formatted[:12]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nodes = [node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]
        lines = code.splitlines(keepends=True)
        for node in nodes:
            text = "".join(lines[node.lineno - 1 : node.end_lineno])
            count += 1
            assert check_python_layout(text, 4) is None, text
    assert count > 100


GOOD = """\
@decorator
def f(a, /, b: int = 1, *args: str, c=2, **kw) -> dict[str, int]:
    x = -a ** 2 + b**2 - ~c if a else not b
    y, *z = args[1:], args[:-1], args[a:b, ::2], args[a + 1 :], x[lambda: 0 :]
    g = lambda *a, k=1, **kw: (a, k)  # a comment
    print(*args, sep="", end=b"x", **{**kw, "k": -1}, f=f"{a=} {b!r:>{c}}")
    x @= y; x //= 2
    if (n := len(args)) > 1 and x is not None: return {1: 2}[1](2)[3].real
    for i in range(3, ): pass
    assert x, "text" "more"
    return a if b else (yield)
"""


def test_the_finer_points():
    lines = GOOD.replace("range(3, )", "range(3)")
    assert check_python_layout(lines, 4) is None
    assert "blank too many" in check_python_layout(GOOD, 4)
    for line in (
        "from . import a", "from .. import a", "from .a import b", "from ... import a",
        "from ...a.b import (c, d)", "import a.b as c", "from a import *", "x = ...", "x[..., 1]",
        "class A(B, metaclass=C): ...", "print(a)[0](b)", "async def f(): await g()", "x: int = 1",
        "def f(a: Callable[[int], str] = g, b=(1, 2)): pass", "x = a if -b else +c", "x = *a, -b",
        "return_ = 1.0.real", "f(a)(b)", "del (a)", "x = yield_[a](-1)", "match = type(x).case",
        "raise E from None", "with a as b, c as d: pass", "try: pass\nexcept* E: pass",
        "match x:\n    case [1, -1] | {'a': 1} | A(x=0, y=_) if z: pass\n    case -1: pass",
        "x = 1 \\\n    + 2", "def f(a,\n      b): pass", "if a:\n    # c\n    b",
        "f(x for x in y)", "lambda: 0", "f(lambda x=1, *y: x)", "a = b = c", "f'{ a }'", "x[a:b]",
        "x[1:2, ..., None]", "f(a)[b]", "x = {'a': [1], **b}", "x = a @ b", "x = not -a",
    ):  # fmt: skip
        assert check_python_layout(line + "\n", 4) is None, line


@pytest.mark.parametrize(
    "code",
    [
        "x=1", "x = a+b", "x = a +b", "x  = 1", "f(a,b)", "f(a ,b)", "f( a)", "f(a )", "f (a)",
        "x [1]", "{'a':1}", "{'a' : 1}", "f(a = 1)", "def f(a = 1): pass", "def f(a: int=1): pass",
        "def f(a:int): pass", "def f()->int: pass", "if a :\n    b", "if a:\n  b", "if a:\n\tb",
        "if a:\n     b", "x = 1 ", "if a:  \n    b", "x = - 1", "x = not  a", "return_ . a", "a. b",
        "lambda x:x", "lambda x : x", "import  a", "from . a import b", "from .a  import b",
        "@ d\ndef f(): pass", "f(* a)", "f(** a)", "x = a** b", "x = a>b", "x = a<=b", "x+=1",
        "if(a): pass", "x = a if(b) else c", "x = a ,b", "a = 1;b = 2", "(a:=1)", "x = a|b",
        "x = a and(b)", "x[a : b ]", "x[a  : b]", "x = (a, )", "x = [ ]", "f()(a )", "while(a): b",
        "x = 'a''b'", "f(lambda x = 1: x)", "def f(a, * , b): pass", "for i in(1, 2): pass",
    ],
)  # fmt: skip
def test_untidy_code_does_not_pass(code):
    ast.parse(code)
    assert check_python_layout(code + "\n", 4) is not None


def test_double_quotes():
    def check(code):
        return check_python_layout(code + "\n", 4, double_quotes=True)

    for code in (
        'x = "a"',
        "x = 'say \"a\"'",
        "x = '\\n'",
        "x = f'a'",
        'x = """a"""',
        "x = 'it\\'s'",
    ):
        assert check(code) is None, code
    for code in ("x = 'a'", "x = b'a'", "x = '''a'''", "x = ''", "x = \"a\" 'b'"):
        assert "line 1" in check(code), code
        assert check_python_layout(code + "\n", 4) is None


def test_blanks_inside_strings_are_the_strings_own():
    code = 'x = """a  \n\tb ( c )  \n"""\nf(x, """ \n """)\n'
    assert check_python_layout(code, 4) is None


def test_the_line_is_named():
    assert (
        check_python_layout("a = 1\nb = 2\nc=3\n", 4)
        == "line 3: a blank too few between 'c' and '='"
    )
