from dgq.pipelines.record import field_value, is_blank_field, is_grounded, record_text


def test_record_text_is_one_line_of_json_or_the_note():
    assert record_text({"name": "Zoë", "n": [1, None]}) == '{"name": "Zoë", "n": [1, null]}'
    assert record_text("Zoë called.\n") == "Zoë called.\n"
    assert record_text(None) == record_text({}) == ""


def test_field_values():
    record = {"a": " x ", "n": 2.5, "t": True, "o": {"b": "deep"}, "l": [1], "o.b": "flat", "e": ""}
    assert [field_value(record, name) for name in ("a", "n", "t", "o.b", "l", "zz", "o")] == [
        "x", "2.5", "true", "flat", None, None, None,
    ]  # fmt: skip
    assert field_value({"o": {"b": "deep"}}, "o.b") == "deep"
    assert is_blank_field(record, "e") and is_blank_field({"x": None}, "x")
    assert not is_blank_field(record, "zz") and not is_blank_field("text", "e")


def test_grounded_values_are_whole_words_of_the_record():
    record = {"who": "Anna  Lee", "key": [{"n": 1234.5}]}
    assert all(is_grounded(value, record) for value in ("Anna Lee", "Lee", "who", "1234.5"))
    assert not any(
        is_grounded(value, record) for value in ("Ann", "Anna Leo", "123", "Lee who", "")
    )
    assert is_grounded("5", "about 5kg") and not is_grounded("5", "about 15 kg")
