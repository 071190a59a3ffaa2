"""A self-contained HTML page: text, tables and pictures in one file, without script, font or
network.

So a report can be sent by mail and still opens in ten years. The cost: pictures are inlined, a
third larger than their files. A change of STYLE re-makes no report (see core/__init__.py); it shows
in those that are made later.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

LONG = 24
"""Characters from which a text is set to the left and may break."""

# A backslash at the end of a line joins it to the next: the page has the longer lines.
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22262b; max-width: 66rem; \
margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } \
h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #dfe3e8; }
.wide { overflow-x: auto; margin: .8rem 0; } summary { cursor: pointer; color: #0b5394; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #eceff2; }
th:first-child, td:first-child, td.words { text-align: left; } \
td.words { overflow-wrap: anywhere; }
td a { color: inherit; text-decoration: underline dotted #9aa4af; } \
img { max-width: 100%; height: auto; }
.lead { font-size: 1.15rem; line-height: 1.45; max-width: 46rem; }
.note { color: #5b6570; font-size: .88rem; }
@media (max-width: 40rem) { body { font-size: 14px; margin: 1rem auto; } \
th, td { padding: .2rem .4rem; } }
@media print { body { max-width: none; margin: 0; font-size: 10pt; } \
img, tr { break-inside: avoid; }
  .wide { overflow: visible; } details > * { display: block; } a { text-decoration: none; } }
"""


def page(title: str, parts: list[str]) -> str:
    """The whole document."""
    return (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, "
        f"initial-scale=1'><title>{escape(title)}</title>"
        f"<style>{STYLE}</style></head><body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def heading(text: str) -> str:
    """The heading of a section."""
    return f"<h2>{escape(text)}</h2>"


def lead(text: str) -> str:
    """The paragraph that says it all, set larger."""
    return f"<p class='lead'>{escape(text)}</p>"


def paragraph(text: str, note: bool = False) -> str:
    """One paragraph; a note is set smaller."""
    return f"<p class='note'>{escape(text)}</p>" if note else f"<p>{escape(text)}</p>"


def table(
    frame: "pd.DataFrame", decimals: int = 2, links: Mapping[str, Sequence[str]] | None = None
) -> str:
    """A table whose first column names the row. Missing values show as a dash.

    links: column -> the target of each of its cells, e.g. "#per_source"; "" for none.
    """
    head = "".join(f"<th>{escape(str(column))}</th>" for column in frame.columns)
    nowhere = [""] * len(frame)

    rows = []
    for number, row in enumerate(frame.to_dict("records")):
        cells = []
        for column, value in row.items():
            text = _shown(value, decimals)
            target = (links or {}).get(str(column), nowhere)[number]
            shown = f"<a href='{escape(target)}'>{text}</a>" if target else text
            # Numbers are set to the right, so that their digits align; long texts are not.
            kind = " class='words'" if isinstance(value, str) and len(value) > LONG else ""
            cells.append(f"<td{kind}>{shown}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")

    body = "".join(rows)
    # The outer div scrolls sideways, so that a wide table does not widen the page.
    return (
        f"<div class='wide'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def folded(title: str, content: str, anchor: str = "") -> str:
    """Content that opens when its title is clicked. Print shows it open."""
    return f"<details id='{escape(anchor)}'><summary>{escape(title)}</summary>{content}</details>"


def _shown(value: Any, decimals: int) -> str:
    if isinstance(value, str):
        return escape(value)
    # Only NaN differs from itself. pd.isna would import pandas here.
    if value is None or value != value:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{decimals}f}"


def picture(path: Path, alternative: str) -> str:
    """A PNG, inlined."""
    encoded = b64encode(path.read_bytes()).decode()
    return f"<img alt='{escape(alternative)}' src='data:image/png;base64,{encoded}'>"
