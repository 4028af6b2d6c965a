"""The texts that the model is asked with, one function per kind of request.

What many requests of a batch share comes first and what differs comes last, so that an engine
that caches prefixes encodes the shared part once. dgq-tiny is trained on exactly these texts.
"""


def fill_slot_prompt(template: str, record: str, instructions: str, slot: str) -> str:
    """Ask for the value of one slot.

    template: the template, or the part of it around the slot. record: the facts, as text or as
    one line of JSON, may be empty. instructions: what the caller said about the slot, may be empty.
    """
    return f"{_facts(template, record, instructions)}Give only the value of {{{{{slot}}}}}."


def fill_template_prompt(template: str, record: str, instructions: str) -> str:
    """Ask for the template's text with all its values; the arguments are as above."""
    return f"{_facts(template, record, instructions)}Give the template with its values."


def _facts(template: str, record: str, instructions: str) -> str:
    parts = [f"Template:\n{template}\n\n"]
    if record:
        parts.append(f"Record:\n{record}\n\n")
    if instructions:
        parts.append(f"Instructions: {instructions}\n")
    return "".join(parts)


def reformat_prompt(language: str, style: str, code: str) -> str:
    """Ask for the same program in another layout. style: words, as in ``Style.words``."""
    return f"Reformat this {language}. Style: {style}.\n\n{code}"


def rewrite_prompt(instruction: str, text: str) -> str:
    """Ask for the text, changed as the instruction says and in no other way."""
    return f"Rewrite this text. {instruction}\n\n{text}"
