"""Tables for people and for programs: aligned text, or JSON with `--json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def text_table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return an aligned table; numbers to the right, text to the left, the last column without trailing blanks."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max([len(header), *(len(row[i]) for row in cells)]) for i, header in enumerate(headers)]
    right = [bool(rows) and all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(headers))]

    def line(values: Sequence[str]) -> str:
        parts = [f"{value:{'>' if right[i] else '<'}{widths[i]}}" for i, value in enumerate(values)]
        return "  ".join(parts).rstrip()

    return "\n".join([line(headers), line(["-" * width for width in widths]), *(line(row) for row in cells)])


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return the table as Markdown, with `|` in cells escaped."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(_cell(value).replace("|", "\\|") for value in row) + " |" for row in lines)


def show(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print rows with equal keys as a table, or as a JSON list."""
    if as_json:
        print(json.dumps(list(rows), indent=2))
    elif rows:
        headers = list(rows[0])
        print(text_table(headers, [[row[name] for name in headers] for row in rows]))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
