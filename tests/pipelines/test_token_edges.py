import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgq.pipelines.token_edges import cut_literal


@pytest.mark.parametrize(
    ("text", "head", "pinned", "tail"),
    [
        (". Dear ", "", ". Dear", " "),
        (", welcome to ", "", ", welcome to", " "),
        (" un", "", "", " un"),
        ("burg, ", "burg", ",", " "),
        (" ", "", "", " "),
        ("", "", "", ""),
        (".\n\n#", "", ".\n\n#", ""),
    ],
)
def test_what_a_value_could_change_is_left_to_the_slots(blank_first, text, head, pinned, tail):
    cut = cut_literal(text, blank_first, slot_before=True, slot_after=True)
    assert (cut.head, blank_first.decode(cut.token_ids), cut.tail) == (head, pinned, tail)


def test_an_end_without_a_slot_is_never_cut(blank_first):
    cut = cut_literal("Dear ", blank_first, slot_before=False, slot_after=False)
    assert (cut.head, cut.tail) == ("", "") and blank_first.decode(cut.token_ids) == "Dear "
    assert cut_literal("ly", blank_first, slot_before=True, slot_after=False).head == "ly"


class Bytes:
    """One token for each byte of UTF-8, and one for each pair of equal letters."""

    def encode(self, text):
        ids = []
        for byte in text.encode():
            if ids and ids[-1] == byte and 97 <= byte <= 122:
                ids[-1] = byte + 256
            else:
                ids.append(byte)
        return ids

    def decode(self, token_ids):
        raw = bytes(b for i in token_ids for b in ([i] if i < 256 else [i - 256] * 2))
        return raw.decode(errors="replace")


@given(st.text(alphabet="aexé€ .", max_size=12), st.booleans(), st.booleans())
def test_the_parts_are_the_text_and_whole_characters(text, before, after):
    cut = cut_literal(text, Bytes(), slot_before=before, slot_after=after)
    assert cut.head + Bytes().decode(cut.token_ids) + cut.tail == text
    assert before or not cut.head
    assert after or not cut.tail
