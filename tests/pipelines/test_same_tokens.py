import pytest

from dgq.pipelines.same_tokens import difference_of_tokens


@pytest.mark.parametrize(
    ("one", "other", "language"),
    [
        ("int x=-1;\nreturn x;", "int x = -1;\n\n  return x;\n", "c"),
        (
            "#include <a.h>\nint f(){return a[i]->b;}",
            "#include <a.h>\nint f() { return a[i]->b; }",
            "c",
        ),
        ("fn f<'a>(x:&'a str){}", "fn f<'a>(x: &'a str) {}", "rust"),
        ("if(x){\nreturn y}", "if (x) {\n  return y}", "javascript"),
        ("f(a,\nb);", "f(a, b);", "js"),
        ("class A{int x;}", "class A {\n  int x;\n}", "java"),
        ("if a; then\n  b\nfi\n", "if a; then\n    b\nfi", "sh"),
        ("select *\n  from t", "select * \n from t", "sql"),
        ("a ?b:c", "a ? b : c", "js"),
        ("x=a/2;", "x = a/2;", "js"),
        ("@A void f(){}", "@A void f() {}", "java"),
    ],
)
def test_the_same_tokens(one, other, language):
    assert difference_of_tokens(one, other, language) is None
    assert difference_of_tokens(other, one, language) is None


@pytest.mark.parametrize(
    ("one", "other", "language"),
    [
        ("int x", "intx", "c"),
        ("a++b", "a + +b", "c"),
        ("a>>b", "a> >b", "c++"),
        ('L"x"', 'L "x"', "c"),
        ('s="a  b";', 's="a b";', "c"),
        ('s="a\\\n  b";', 's="a\\\n b";', "c"),
        ("1.e5", "1. e5", "c"),
        ("#define A(x) x", "#define A (x) x", "c"),
        ("#if A\nb", "#if A b", "c"),
        ("// a\nb", "// a b", "java"),
        ("/* a */", "/* b */", "java"),
        ('R"(a  b)"', 'R"(a b)"', "cpp"),
        ("1'000 + ' '", "1'000 + '  '", "cpp"),
        ('r#"a  b"#', 'r#"a b"#', "rust"),
        ("return x", "return\nx", "js"),
        ("a\n++b", "a ++b", "js"),
        ("`a  b`", "`a b`", "js"),
        ("x=/a  b/;", "x=/a b/;", "js"),
        ('"${"x  y"}"', '"${"x y"}"', "kotlin"),
        ("a=b", "a = b", "sh"),
        ("a  'b  c'", "a 'b c'", "sh"),
        ("x:\n  b: 1\n  c: 2", "x:\n  b: 1\nc: 2", "yaml"),
        ("x: |\n  a\n    b", "x: |\n  a\n   b", "yaml"),
        ("x: a\n\n  b", "x: a\n  b", "yaml"),
        ("a\n\tb", "a\n        b", "make"),
        ("x = '''a  b'''", "x = '''a b'''", "toml"),
        ("a b", "ab", "unheard-of"),
        # What a blank or its place means:
        ("x: a  b", "x: a b", "yaml"),
        ("- a: 1\n  b: 2", "- a: 1\n    b: 2", "yaml"),
        ("let x = 1\n    y = 2", "let x = 1\n  y = 2", "haskell"),
        ("a  \nb", "a\nb", "markdown"),
        ("rm a\\  b", "rm a\\ b", "sh"),
        ("select $$a\n  b$$", "select $$a\n b$$", "sql"),
        ("x = [[\n  a]]", "x = [[\n a]]", "lua"),
        ("%w(a  b)", "%w(a b)", "ruby"),
        # Line ends that are not line feeds:
        ("return x", "return\rx", "js"),
        ("return x", "return\u2028x", "js"),
        ("// a\u2028b();", "// a\rb();", "java"),
        # Strings inside strings, and other strings than they seem:
        ("x = '${f('b  c')}';", "x = '${f('b c')}';", "dart"),
        ("x = '''it's  x''';", "x = '''it's x''';", "dart"),
        ('x = """"a"""  b"""";', 'x = """"a""" b"""";', "c#"),
        ('x = """a \\"""  b""";', 'x = """a \\""" b""";', "java"),
        ('return$"{f("b  c")}";', 'return$"{f("b c")}";', "c#"),
        ("x = a / `b\nc  d`", "x = a / `b\nc d`", "js"),
        ('x = a / "b\\\n  c"', 'x = a / "b\\\n c"', "js"),
        ("x = <b>a  b</b>", "x = <b>a b</b>", "js"),
        ('#define A "x\\\n   y"', '#define A "x\\\n y"', "c"),
        # Comments that go on, or begin:
        ("// a \\\nb();\nc();", "// a \\\nb(); c();", "c"),
        ('/* /* */ " */ x = "a  b";', '/* /* */ " */ x = "a b";', "rust"),
        ("#define A /* b\nc */ 1", "#define A /* b\nc */\n1", "c"),
        ("a < !--b", "a<!--b", "js"),
        ("x / y /* a\nb * / c", "x / y /* a\nb */ c", "js"),
        # One sign, or a word with one:
        ("return@f x", "return @f x", "kotlin"),
        ("r#type", "r # type", "rust"),
        ("this.#x", "this.# x", "js"),
        ("a as? B", "a as ? B", "kotlin"),
        ("a !in b", "a ! in b", "kotlin"),
        ("a..=b", "a.. =b", "rust"),
        ("1..=5", "1.. =5", "rust"),
        ("a ~/ b", "a ~ / b", "dart"),
        ("a?..b", "a?. .b", "dart"),
        ("a<:0:>", "a < : 0 : >", "c"),
        ("x = a \\\n + b;", "x = a \\ + b;", "c"),
        ("cafe\u0301x", "cafe \u0301x", "java"),
    ],
)
def test_in_doubt_they_differ(one, other, language):
    assert difference_of_tokens(one, other, language) is not None
    assert difference_of_tokens(one, one, language) is None
