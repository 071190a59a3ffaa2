"""Pictures on an asset's page, at once in sight.

Dagster shows Markdown in place only if it is shorter than 1,000 letters, and a picture within the
text is longer. So a picture is laid beside the logs of its run, which the webserver hands out by a
short address, and goes when the run is deleted. The cost: where logs do not lie on the webserver's
disk, a picture stays within the text, one click away.

A training curve is drawn here, for Dagster plots over time alone: the loss over tokens.
"""

import csv
from base64 import b64encode
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

from dagster import DagsterInstance

from orchestration.units import number

Show = Callable[[str, bytes, str], str]
"""Title, content, ending ("png") -> Markdown."""
TYPES = {"png": "image/png", "svg": "image/svg+xml"}
WIDTH, HEIGHT, LEFT, BELOW, ABOVE = 640, 300, 70, 45, 25
"""Of a curve, in pixels; the last three are margins."""
MOST_POINTS = 400
TICKS = 4
LINE = '<polyline fill="none" stroke="#4c5fd5" stroke-width="2" points="{}"/>'
TEXT = '<text x="{:.0f}" y="{:.0f}" text-anchor="{}">{}</text>'


def inline(title: str, content: bytes, ending: str) -> str:
    """The picture within the text."""
    return f"![{title}](data:{TYPES[ending]};base64,{b64encode(content).decode()})"


def beside_the_logs(instance: DagsterInstance, shelf: str) -> Show:
    """Lays pictures into a folder `shelf` of Dagster's logs, a run's id by rule."""
    place = getattr(instance.compute_log_manager, "get_captured_local_path", None)
    if place is None:
        return inline

    def show(title: str, content: bytes, ending: str) -> str:
        name = sha256(content).hexdigest()[:16]
        path = Path(place([shelf, name], ending))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return f"![{title}](/logs/{shelf}/{name}/{ending})"

    return show


def loss_over_tokens(log: Path) -> bytes | None:
    """The loss of a training's log.csv over its tokens, as SVG; None where there is no curve."""
    try:
        with log.open(newline="") as file:
            points = [(float(row["tokens"]), float(row["loss"])) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError):
        return None
    return curve(points, "tokens", "loss") if len(points) > 1 else None


def curve(points: Sequence[tuple[float, float]], across: str, up: str) -> bytes:
    """A line through the points with its two axes, as SVG."""
    shown = [*points[:: len(points) // MOST_POINTS + 1], points[-1]]
    lows, highs = (tuple(side(axis) for axis in zip(*shown, strict=True)) for side in (min, max))
    spans = [high - low or 1.0 for low, high in zip(lows, highs, strict=True)]

    def place(x: float, y: float) -> tuple[float, float]:
        right, down = (x - lows[0]) / spans[0], (highs[1] - y) / spans[1]
        return LEFT + right * (WIDTH - LEFT - 30), ABOVE + down * (HEIGHT - ABOVE - BELOW)

    bottom = HEIGHT - BELOW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"'
        ' font-family="sans-serif" font-size="12" fill="#555">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        TEXT.format(LEFT, 15, "start", f"{up} over {across}"),
    ]
    for tick in range(TICKS + 1):
        x, y = (low + span * tick / TICKS for low, span in zip(lows, spans, strict=True))
        right, down = place(x, y)
        parts += [
            f'<path d="M{LEFT} {down:.0f}H{WIDTH - 30}" stroke="#ddd"/>',
            TEXT.format(LEFT - 8, down + 4, "end", f"{y:.3g}"),
            TEXT.format(right, bottom + 20, "middle", number(round(x))),
        ]
    dots = " ".join(f"{right:.1f},{down:.1f}" for right, down in (place(*one) for one in shown))
    return "\n".join([*parts, LINE.format(dots), "</svg>"]).encode()
