"""Records: the facts of a fill, as an object or as free text."""

import json
from collections.abc import Iterator, Mapping

Record = str | Mapping[str, object] | None
_MISSING = object()


class Spelled(float):
    """A number that ``str`` gives back as it was spelled: 129.50, not 129.5."""

    __slots__ = ("spelling",)

    def __init__(self, spelling: str) -> None:
        """Keep the spelling."""
        self.spelling = spelling

    def __str__(self) -> str:
        """The spelling."""
        return self.spelling


def with_spellings(value: object) -> object:
    """The JSON value with a text in place of each number whose spelling would be lost."""
    if isinstance(value, Spelled):
        return str(value)
    if isinstance(value, dict):
        return {key: with_spellings(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_spellings(inner) for inner in value]
    return value


def record_text(record: Record) -> str:
    """The record as the model reads it: one line of JSON, or the free text itself."""
    if not record:
        return ""
    return record if isinstance(record, str) else json.dumps(record, ensure_ascii=False)


def field_value(record: Record, name: str) -> str | None:
    """The record's own value of that name as text; None where it has none that is a scalar.

    The name is a key, or keys joined by dots where no key has the whole name.
    """
    value = _find(record, name)
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    return None


def is_blank_field(record: Record, name: str) -> bool:
    """Whether the record has that field, with nothing in it."""
    value = _find(record, name)
    return value is None or (isinstance(value, str) and not value.strip())


def _find(record: Record, name: str) -> object:
    value: object = record
    if isinstance(record, Mapping) and name in record:
        return record[name]
    for key in name.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return _MISSING
        value = value[key]
    return value


def is_grounded(value: str, record: Record) -> bool:
    """Whether the value occurs in the record: in a text, a field's name or a number's spelling.

    Whole words and numbers only: "Ann" does not occur in "Anna", nor "12" in "123".
    """
    wanted = " ".join(value.split())
    return any(_occurs(wanted, " ".join(text.split())) for text in texts_of(record))


def may_begin_grounded(text: str, record: Record) -> bool:
    """Whether a value that occurs in the record may begin with the text."""
    wanted = " ".join(text.split()) + (" " if text[-1:].isspace() else "")
    return any(_begins(wanted, " ".join(whole.split())) for whole in texts_of(record))


def _begins(wanted: str, text: str) -> bool:
    at = text.find(wanted)
    while at >= 0:
        if not wanted or not _torn(text[at - 1 : at], wanted[0]):
            return True
        at = text.find(wanted, at + 1)
    return False


def texts_of(record: object) -> Iterator[str]:
    """The record's texts and names of fields, and its numbers as they are spelled."""
    pending = [record]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, (list, tuple)):
            pending.extend(item)
        elif item is not None:
            yield json.dumps(item)


def _occurs(wanted: str, text: str) -> bool:
    at = text.find(wanted)
    while wanted and at >= 0:
        end = at + len(wanted)
        if not _torn(text[at - 1 : at], wanted[0]) and not _torn(wanted[-1], text[end : end + 1]):
            return True
        at = text.find(wanted, at + 1)
    return False


def _torn(left: str, right: str) -> bool:
    """Whether a cut between two characters goes through a word or a number."""
    return (left.isalpha() and right.isalpha()) or (left.isdigit() and right.isdigit())
