"""Pictures of the reports. A heatmap always shows the same scale, so that two of them can be compared by eye."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

mpl.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (the backend is chosen first)

COLOURS = ("#8a8f98", "#c9a227", "#b5651d", "#3a7d44", "#1f6f8b", "#7a4988", "#c0392b", "#2c3e50")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG whose bytes depend on the picture alone, and free the figure."""
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def grid(cells: pd.DataFrame, value: str) -> pd.DataFrame:
    """cells (columns length, depth, `value`) as a table: a row a depth, a column a length."""
    return cells.pivot(index="depth", columns="length", values=value)


def heatmaps(models: Mapping[str, pd.DataFrame], trained_length: int, base_context: int) -> Figure:
    """Two heatmaps a model, side by side: exact match and retrieval gain, on scales shared by all models.

    models: name -> cells with columns length, depth, exact_match (0-1), gain (nats per answer token).
    """
    highest = max(1.0, max(float(cells["gain"].max()) for cells in models.values()))
    figure, rows = plt.subplots(len(models), 2, figsize=(11, 0.5 + 2.15 * len(models)), layout="constrained",
                                squeeze=False)
    for axes, (name, cells) in zip(rows, models.items(), strict=True):
        _heatmap(axes[0], grid(cells, "exact_match"), f"{name}: exact match", 0, 1, "RdYlGn", 100)
        _heatmap(axes[1], grid(cells, "gain"), f"{name}: gain (nats per token)", -highest, highest, "PuOr_r", 1)
        for axis in axes:
            lengths = sorted(cells["length"].unique())
            _mark(axis, lengths, base_context, "C")
            _mark(axis, lengths, trained_length, "trained")
    return figure


def _heatmap(axes: Axes, table: pd.DataFrame, title: str, low: float, high: float, colours: str, factor: int) -> None:
    axes.imshow(table.to_numpy(), cmap=colours, vmin=low, vmax=high, aspect="auto")
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        shade = (value - low) / (high - low)
        axes.text(column, row, f"{value * factor:.0f}" if factor > 1 else f"{value:.1f}", ha="center", va="center",
                  fontsize=7, color="white" if abs(shade - 0.5) > 0.35 else "black")
    axes.set_xticks(range(table.shape[1]), [f"{length:,}" for length in table.columns], fontsize=7)
    axes.set_yticks(range(table.shape[0]), [f"{depth:g} %" + (" *" if depth == 100 else "") for depth in table.index],
                    fontsize=7)
    axes.set_title(title, fontsize=9, loc="left", pad=12)
    axes.set_ylabel("depth", fontsize=8)
    axes.set_xlabel("context length (tokens)    * touches the question, in no mean", fontsize=7)


def _mark(axes: Axes, lengths: Sequence[int], limit: int, label: str) -> None:
    """A line after the last length within `limit`."""
    position = sum(length <= limit for length in lengths) - 0.5
    if 0 <= position < len(lengths) - 0.5:
        axes.axvline(position, color="black", lw=1.6)
        axes.text(position + 0.04, -0.62, label, fontsize=6.5, va="bottom")


def lines(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_label: str, y_label: str, title: str,
          log_x: bool = False) -> Figure:
    """Named curves over one axis."""
    figure, axes = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
    for (name, (x, y)), colour in zip(series.items(), _colours(len(series)), strict=True):
        axes.plot(x, y, label=name, color=colour, lw=1.8, marker="o" if len(x) < 20 else None, ms=3.5)
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    if log_x:
        axes.set_xscale("log", base=2)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", lw=0.3)
    return figure


def bars(table: pd.DataFrame, y_label: str, title: str) -> Figure:
    """Grouped bars: a group for each row of the table, a bar for each column."""
    figure, axes = plt.subplots(figsize=(9.5, 3.4), layout="constrained")
    table.plot.bar(ax=axes, color=list(_colours(table.shape[1])), width=0.8, rot=0)
    axes.set(ylabel=y_label, title=title, xlabel="")
    axes.legend(frameon=False, fontsize=8, ncols=min(table.shape[1], 4))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _colours(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
