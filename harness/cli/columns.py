"""A table of text for people, grep and cut: as wide as its cells, without the time it takes to import a library."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """Lines of left-aligned columns, two blanks apart. What a run wrote cannot move the cursor."""
    cells = [["".join(c if c.isprintable() else "\ufffd" for c in cell) for cell in row] for row in rows]
    widths = [max(map(width_of, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(cell + " " * (width - width_of(cell)) for cell, width in zip(row, widths, strict=True))
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def width_of(text: str) -> int:
    """Columns that ``text`` takes on a terminal: a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
