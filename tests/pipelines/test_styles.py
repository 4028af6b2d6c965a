from dgq.pipelines.styles import language_of, style_of


def describe(language, name):
    return style_of(language_of(language), name).words


def test_words_and_defaults():
    assert describe("python", None) == describe("Py", "PEP8") == "4-space indent, spaced operators"
    assert describe("python", "black") == "4-space indent, spaced operators, double quotes"
    assert describe("python", "two-space") == "2-space indent, spaced operators"
    assert describe("json", None) == "indent 2" == describe("json", "indent-2")
    assert [describe("json", name) for name in ("indent-4", "compact", "one-line")] == [
        "indent 4",
        "compact",
        "one line",
    ]
    assert language_of(" Python3 ") == "python"


def test_the_words_of_a_style_mean_the_style():
    assert style_of("python", "4-space indent,  spaced operators") is style_of("python", "pep8")
    assert style_of("json", "indent 2").check is not None


def test_other_styles_go_to_the_model_as_they_are():
    style = style_of("python", "like my grandmother's code")
    assert (style.words, style.check, style.indent) == ("like my grandmother's code", None, None)
    assert style_of("javascript", "black").check is None
