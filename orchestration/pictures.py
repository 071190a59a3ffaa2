"""Pictures that an asset's page shows without a click.

Dagster shows Markdown in place only below 1,000 characters, and a picture inside the text is
longer. So a picture is stored next to the logs of its run, which the webserver serves at a short
address, and is deleted with the run. The cost: if the logs are not on the webserver's disk, the
picture stays inside the text, one click away.

Dagster plots numbers over time only, so the loss over tokens is drawn here.
"""

import csv
import math
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from dagster import DagsterInstance

from orchestration.units import number

Show = Callable[[str, bytes, str], str]
"""Title, content, file ending ("png") -> Markdown."""
TYPES = {"png": "image/png", "svg": "image/svg+xml"}
WIDTH, HEIGHT, LEFT, RIGHT, BELOW, ABOVE = 640, 300, 70, 30, 45, 25
"""Of a curve, in pixels; the last four are margins."""
# The 540 pixels between the margins show no more, and a week's log has thousands of points.
MOST_POINTS = 400
TICKS = 4
LINE = '<polyline fill="none" stroke="#4c5fd5" stroke-width="2" points="{}"/>'
TEXT = '<text x="{:.0f}" y="{:.0f}" text-anchor="{}">{}</text>'


def inline(title: str, content: bytes, ending: str) -> str:
    """The picture inside the text."""
    return f"![{title}](data:{TYPES[ending]};base64,{b64encode(content).decode()})"


def beside_the_logs(instance: DagsterInstance, shelf: str) -> Show:
    """A `Show` that stores pictures in the folder `shelf` of Dagster's logs, usually a run's id."""
    # Log managers that write to a cloud have no such method.
    place = getattr(instance.compute_log_manager, "get_captured_local_path", None)
    if place is None:
        return inline

    def show(title: str, content: bytes, ending: str) -> str:
        # Named by content: a picture that is shown twice is stored once.
        name = sha256(content).hexdigest()[:16]
        path = Path(place([shelf, name], ending))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return f"![{title}](/logs/{shelf}/{name}/{ending})"

    return show


def loss_over_tokens(log: Path) -> bytes | None:
    """The loss over tokens of a training's log.csv, as SVG. None if there is no curve.

    A row without two finite numbers is left out: a loss of NaN, or a line that a kill cut short.
    """
    points = list[tuple[float, float]]()
    try:
        with log.open(newline="") as file:
            for row in csv.DictReader(file):
                with suppress(KeyError, TypeError, ValueError):
                    point = float(row["tokens"]), float(row["loss"])
                    if all(map(math.isfinite, point)):
                        points.append(point)
    except (OSError, UnicodeDecodeError, csv.Error):
        return None
    return curve(points, "tokens", "loss") if len(points) > 1 else None


def curve(points: Sequence[tuple[float, float]], across: str, up: str) -> bytes:
    """A line through the points with its two axes, as SVG."""
    # The last point is the result, so it is never thinned out.
    shown = [*points[:: len(points) // MOST_POINTS + 1], points[-1]]
    axes = list(zip(*shown, strict=True))
    lows, highs = [min(axis) for axis in axes], [max(axis) for axis in axes]
    # A flat line has no span, and a division by it must not fail.
    spans = [high - low or 1.0 for low, high in zip(lows, highs, strict=True)]

    def place(x: float, y: float) -> tuple[float, float]:
        # SVG counts downwards.
        right, down = (x - lows[0]) / spans[0], (highs[1] - y) / spans[1]
        return LEFT + right * (WIDTH - LEFT - RIGHT), ABOVE + down * (HEIGHT - ABOVE - BELOW)

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
            f'<path d="M{LEFT} {down:.0f}H{WIDTH - RIGHT}" stroke="#ddd"/>',
            TEXT.format(LEFT - 8, down + 4, "end", f"{y:.3g}"),
            TEXT.format(right, bottom + 20, "middle", number(round(x))),
        ]

    placed = [place(x, y) for x, y in shown]
    dots = " ".join(f"{right:.1f},{down:.1f}" for right, down in placed)
    return "\n".join([*parts, LINE.format(dots), "</svg>"]).encode()
