"""A self-contained HTML page: text, tables and pictures in one file, without script, font or network."""

from base64 import b64encode
from html import escape
from pathlib import Path

import pandas as pd

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22262b; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #dfe3e8; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .8rem 0; font-size: .9rem; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #eceff2; }
th:first-child, td:first-child { text-align: left; } img { max-width: 100%; }
.note { color: #5b6570; font-size: .88rem; }
"""


def page(title: str, parts: list[str]) -> str:
    """The whole document."""
    return (f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>"
            f"<style>{STYLE}</style></head><body>\n<h1>{escape(title)}</h1>\n" + "\n".join(parts)
            + "\n</body></html>\n")


def heading(text: str) -> str:
    """A section begins."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, note: bool = False) -> str:
    """One paragraph; a note is set smaller."""
    return f"<p class='note'>{escape(text)}</p>" if note else f"<p>{escape(text)}</p>"


def table(frame: pd.DataFrame, decimals: int = 2) -> str:
    """A table whose first column names the row; missing values show as a dash."""
    return str(frame.to_html(index=False, border=0, na_rep="–", float_format=lambda value: f"{value:,.{decimals}f}"))


def picture(path: Path, alternative: str) -> str:
    """A PNG, inlined."""
    return f"<img alt='{escape(alternative)}' src='data:image/png;base64,{b64encode(path.read_bytes()).decode()}'>"
