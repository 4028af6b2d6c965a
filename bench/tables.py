"""Tables as people read them on a terminal and in a document: Markdown, columns lined up."""

from collections.abc import Sequence

NOT_MEASURED = "not measured"


def as_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; numbers to the right, words to the left."""
    lines = [list(heads), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    to_right = [
        bool(rows) and all(_is_number(row[column]) for row in rows) for column in range(len(heads))
    ]
    rule = [
        "-" * (width - 1) + ":" if right else "-" * width
        for width, right in zip(widths, to_right, strict=True)
    ]
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, to_right, strict=True)
        )
        + " |"
        for line in [lines[0], rule, *lines[1:]]
    )


def _is_number(cell: str) -> bool:
    return not cell or cell[0].isdigit() or cell in (NOT_MEASURED, "-")


def quantity(value: float) -> str:
    """A figure in two or three digits or all whole ones: 0.0123, 4.57, 2,958."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"
