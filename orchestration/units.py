"""Format numbers for people: bytes as 12.3 MB, seconds as 3 min 20 s, shares to four digits.

Dagster prints all digits of a number. So numbers that are not plotted become text here. The cost:
such a text can't be sorted or plotted.
"""

SIZES = ("kB", "MB", "GB", "TB", "PB")
# Differences between two runs show in the third digit of a loss or an accuracy.
DIGITS = 4


def number(value: float) -> str:
    """An integer with commas; any other number to four digits."""
    if isinstance(value, int):
        return f"{value:,}"

    short = rounded(value)
    # `g` would write a large number as 1e+04.
    return f"{short:,.0f}" if abs(short) >= 10**DIGITS else f"{short:g}"


def rounded(value: float) -> float:
    """A number rounded to four significant digits."""
    return float(f"{value:.{DIGITS}g}")


def size(count: float) -> str:
    """Bytes, in powers of 1,000, to three digits: 999 bytes, 12.3 MB."""
    if count < 1000:
        return f"{count:.0f} bytes"

    # 999.5 would be rounded to four digits: 1000 kB.
    for unit in SIZES:
        count /= 1000
        if count < 999.5 or unit == SIZES[-1]:
            break
    decimals = max(0, 3 - len(f"{count:.0f}"))
    return f"{count:.{decimals}f} {unit}"


def duration(seconds: float) -> str:
    """A time in at most two units: 3.2 s, 3 min 20 s, 2 h 5 min, 10 d 4 h."""
    # 59.95 would be rounded to 60.0 s.
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"

    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"
