"""Pictures whose bytes depend on what they show alone.

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
    from matplotlib import pyplot as plt

    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
    plt.close(figure)
