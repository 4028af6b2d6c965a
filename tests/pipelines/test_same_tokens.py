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
        ("a:\n  b:   1\n", "a:\n    b: 1", "yaml"),
        ("select  *\n  from t", "select *\n from t", "sql"),
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
    ],
)
def test_in_doubt_they_differ(one, other, language):
    assert difference_of_tokens(one, other, language) is not None
    assert difference_of_tokens(one, one, language) is None
