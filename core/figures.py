"""Pictures whose bytes depend only on what they show.

matplotlib writes its version and the date into a PNG. Without them the same numbers give the same
bytes, for as long as the renderer is the same. The cost: a picture does not say what drew it; the
`made_with` of its artefact does.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 110


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a PNG and free the figure's memory."""
    # Here: importing pyplot takes a second, and most stages draw nothing.
    from matplotlib import pyplot as plt

    # None drops the entry that names matplotlib's version.
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
    # pyplot keeps every figure until it is closed.
    plt.close(figure)
