"""Numbers as people read them: bytes as 12.3 MB, seconds as 3 min 20 s, shares to four digits.

Dagster prints a number as it got it, all digits of it. What is not plotted is shown as text from
here. The cost: such a text can't be sorted or plotted.
"""

SIZES = ("kB", "MB", "GB", "TB", "PB")
DIGITS = 4


def number(value: float) -> str:
    """A whole number whole, with commas; any other to four digits."""
    if isinstance(value, int):
        return f"{value:,}"
    short = rounded(value)
    return f"{short:,.0f}" if abs(short) >= 10**DIGITS else f"{short:g}"


def rounded(value: float) -> float:
    """To four significant digits."""
    return float(f"{value:.{DIGITS}g}")


def size(count: float) -> str:
    """Bytes, in thousands, to three digits: 999 bytes, 12.3 MB."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in SIZES:
        count /= 1000
        if count < 999.5 or unit == SIZES[-1]:
            break
    return f"{count:.{max(0, 2 - len(f'{count:.0f}') + 1)}f} {unit}"


def duration(seconds: float) -> str:
    """In two units at most: 3.2 s, 3 min 20 s, 2 h 5 min, 10 d 4 h."""
    whole = round(seconds)
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"
