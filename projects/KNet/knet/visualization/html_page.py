"""The HTML pages of the project: one design, each one file that needs nothing from elsewhere."""

import html
from pathlib import Path
from typing import Iterable, Sequence

__all__ = ["Html", "document", "table", "text"]

_STYLE = Path(__file__).with_name("page.css")


class Html(str):
    """A piece of HTML, to stand as it is; any other text is escaped."""


def text(value) -> str:
    """A value as HTML."""
    return value if isinstance(value, Html) else html.escape(str(value))


def document(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """A whole page.

    Args:
        title: of the window.
        body: HTML.
        style: CSS beyond the common one.
        script: JavaScript; the page must be readable without.
    """
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{text(title)}</title>",
        f"<style>\n{_STYLE.read_text(encoding='utf-8')}{style}</style></head>",
        f"<body>{body}",
        *([f"<script>\n{script}</script>"] if script else []),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def table(headers: Sequence, rows: Iterable[Sequence], *, classes: str = "") -> Html:
    """A table in a frame that scrolls sideways where the window is narrow.

    Args:
        headers: of the columns; a column is one of numbers if its cells are.
        rows: cells: numbers, texts or :class:`Html`; one that has a ``data-value`` is a number.
        classes: of CSS, e.g. "sortable".
    """
    rows = [list(row) for row in rows]
    numeric = [all(_is_number(row[i]) for row in rows) and bool(rows) for i in range(len(headers))]
    cells = [f"<th{_numeric(n)}>{text(h)}</th>" for h, n in zip(headers, numeric)]
    lines = [f"<thead><tr>{''.join(cells)}</tr></thead><tbody>"]
    for row in rows:
        cells = [f"<td{_numeric(n)}>{text(cell)}</td>" for cell, n in zip(row, numeric)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    name = f' class="{classes}"' if classes else ""
    return Html(f'<div class="scroll"><table{name}>' + "\n".join(lines) + "</tbody></table></div>")


def _is_number(cell) -> bool:
    return isinstance(cell, (int, float)) or (isinstance(cell, Html) and "data-value=" in cell)


def _numeric(is_numeric: bool) -> str:
    return ' class="number"' if is_numeric else ""
