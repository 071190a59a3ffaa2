"""Pictures of the reports.

Heatmaps of a score always have the same colour scale, so that two of them can be compared by eye.
The cost: small differences are hard to see, so cells have numbers where there is room.
"""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

mpl.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (the backend is chosen first)

# Okabe and Ito's colours, which colour-blind people can distinguish.
COLOURS = ("#000000", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7", "#999999")
MANY_DEPTHS = 25  # more rows than this are put into tenths
MANY_LENGTHS = 16  # more columns than this have no room for numbers
NOTE_WIDTH = 220  # characters of a warning in one line below three heatmaps
DASHES = ("-", "--", "-.", ":")


def grid(cells: pd.DataFrame, value: str) -> pd.DataFrame:
    """`value` as a table: one row per depth, one column per length.

    cells: columns length, depth, `value`.
    """
    # In a shared grid every length has its own depths. They are put into tenths.
    if cells["depth"].nunique() > MANY_DEPTHS:
        cells = cells.assign(depth=(cells["depth"] / 10).round() * 10)
    return cells.pivot_table(
        index="depth",
        columns="length",
        values=value,
        dropna=False,
    )


def heatmaps(
    models: Mapping[str, pd.DataFrame],
    trained_length: int,
    base_context: int,
    notes: Mapping[str, str] | None = None,
) -> Figure:
    """Three heatmaps per model: exact match, the answer in the output, and retrieval gain.

    models: name -> cells with columns length, depth, exact_match, occurs (0-1), gain (nats per
    answer token). trained_length, base_context: in tokens, marked by lines. notes: name -> a
    warning about the model's answers, one line.
    """
    # One scale for the gains of all models, symmetric around 0.
    gains = [float(cells["gain"].max()) for cells in models.values() if cells["gain"].notna().any()]
    highest = max([1.0, *gains])
    figure, rows = plt.subplots(
        len(models), 3, figsize=(16, 0.5 + 2.15 * len(models)), layout="constrained", squeeze=False
    )
    for axes, (name, cells) in zip(rows, models.items(), strict=True):
        exact, occurs, gain = (grid(cells, score) for score in ("exact_match", "occurs", "gain"))
        _heatmap(axes[0], exact, f"{name}: exact match", 0, 1, "cividis", 100)
        _heatmap(axes[1], occurs, f"{name}: answer in the output", 0, 1, "cividis", 100)
        title = f"{name}: gain (nats per token)"
        _heatmap(axes[2], gain, title, -highest, highest, "PuOr_r", 1)

        note = (notes or {}).get(name)
        if note:
            _note(axes[0], note)
        lengths = sorted(cells["length"].unique())
        for axis in axes:
            _mark(axis, lengths, base_context, "C")
            _mark(axis, lengths, trained_length, "trained")
    return figure


def _note(axes: Axes, note: str) -> None:
    """Write a warning below a row's first heatmap, over the width of the whole row."""
    # The layout would make the first heatmap narrow for a long line. So the warning is left out of
    # the layout, and the label of the axis gets empty lines to make room for it.
    lines = textwrap.wrap(f"! {note}", NOTE_WIDTH)
    axes.set_xlabel(axes.get_xlabel() + "\n" * (len(lines) + 1), fontsize=7)
    written = axes.annotate(
        "\n".join(lines),
        (0, 0),
        (0, -34),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=7,
        va="top",
        color="#b30000",
        annotation_clip=False,
    )
    written.set_in_layout(False)


def _heatmap(
    axes: Axes, table: pd.DataFrame, title: str, low: float, high: float, colours: str, factor: int
) -> None:
    """One heatmap. low, high: ends of the colour scale. factor: of the numbers that are shown."""
    axes.imshow(
        table.to_numpy(),
        cmap=colours,
        vmin=low,
        vmax=high,
        aspect="auto",
    )
    many = table.shape[1] > MANY_LENGTHS
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        if np.isnan(value) or many:
            continue
        shade = (value - low) / (high - low)
        axes.text(
            column,
            row,
            f"{value * factor:.0f}" if factor > 1 else f"{value:.1f}",
            ha="center",
            va="center",
            fontsize=7,
            color="white" if _dark(colours, shade) else "black",
        )

    # At most MANY_LENGTHS labels.
    step = -(-table.shape[1] // MANY_LENGTHS)
    axes.set_xticks(
        range(0, table.shape[1], step),
        [f"{length:,}" for length in table.columns[::step]],
        fontsize=7,
    )
    axes.set_yticks(
        range(table.shape[0]),
        [f"{depth:g} %" + (" *" if depth == 100 else "") for depth in table.index],
        fontsize=7,
    )
    axes.set_title(
        title,
        fontsize=9,
        loc="left",
        pad=12,
    )
    axes.set_ylabel("depth", fontsize=8)
    axes.set_xlabel("context length (tokens)    * touches the question, in no mean", fontsize=7)


def _dark(colours: str, shade: float) -> bool:
    """Whether white is easier to read than black on that shade (0 to 1)."""
    red, green, blue, _ = mpl.colormaps[colours](shade)
    # The luma of ITU-R BT.601: the eye is most sensitive to green.
    return bool(0.299 * red + 0.587 * green + 0.114 * blue < 0.5)


def _mark(axes: Axes, lengths: Sequence[int], limit: int, label: str) -> None:
    """Draw a line after the last length within `limit`, unless that is the border.

    lengths: of the columns, in tokens, ascending. label: written above the line.
    """
    position = sum(length <= limit for length in lengths) - 0.5
    if 0 <= position < len(lengths) - 0.5:
        axes.axvline(position, color="black", lw=1.6)
        axes.text(position + 0.04, -0.62, label, fontsize=6.5, va="bottom")


def verdict(
    needle: pd.DataFrame, result: str, untrained: str, base_context: int, trained: int
) -> Figure:
    """Exact match by length: the extended model and the one before it stand out of the others.

    needle: one row per model and length: model, length, exact_match (0 to 1). base_context,
    trained: in tokens, marked by lines.
    """
    figure, axes = plt.subplots(figsize=(9.5, 3.8), layout="constrained")
    order = sorted(needle["model"].unique(), key=lambda name: (name == result, name == untrained))
    shown: dict[str, Artist] = {}
    others: list[Artist] = []
    for name in order:
        rows = needle[needle["model"] == name].sort_values("length")
        # Few curves in colour, the others as a grey background: one comparison at a glance.
        colour, width = {result: ("#0072b2", 3.2), untrained: ("#d55e00", 3.2)}.get(
            name, ("#c4c9cf", 1.2)
        )
        (line,) = axes.plot(rows["length"], 100 * rows["exact_match"], color=colour, lw=width)
        if name in (result, untrained):
            shown[name] = line
        else:
            others.append(line)

    for place, words in ((base_context, "base context"), (trained, "trained")):
        axes.axvline(place, color="#5b6570", lw=1, ls=":")
        axes.annotate(
            f"{words}, {place:,}",
            (place, 105),
            fontsize=9,
            color="#5b6570",
            ha="center",
            annotation_clip=False,  # it stands above the axes
        )
    axes.set(xlabel="context length (tokens)", ylabel="needles found, %", ylim=(-3, 103))
    axes.set_xscale("log", base=2)
    lengths = sorted(needle["length"].unique())
    axes.set_xticks(lengths[:: -(-len(lengths) // MANY_LENGTHS)])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", lw=0.3)

    # The extended model first. One entry stands for all others.
    drawn = [*reversed(shown.values()), *others[:1]]
    names = [*reversed(shown), "others"]
    axes.legend(drawn, names[: len(drawn)], frameon=False, loc="lower left")
    return figure


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    title: str,
    log_x: bool = False,
) -> Figure:
    """Named curves over one axis. series: name -> x and y values."""
    figure, axes = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
    colours = _colours(len(series))
    drawn: list[Artist] = []
    for number, (x, y) in enumerate(series.values()):
        # When the colours are used up, they repeat with another dash.
        dash = DASHES[number // len(COLOURS) % len(DASHES)]
        drawn += axes.plot(
            x,
            y,
            color=colours[number],
            lw=1.8,
            ls=dash,
            marker="o" if len(x) < 20 else None,
            ms=3.5,
        )
    axes.set(
        xlabel=x_label,
        ylabel=y_label,
        title=title,
    )
    if log_x:
        axes.set_xscale("log", base=2)
    _legend(axes, drawn, list(series), columns=1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", lw=0.3)
    return figure


def bars(table: pd.DataFrame, y_label: str, title: str) -> Figure:
    """Grouped bars: one group per row of the table, one bar per column."""
    figure, axes = plt.subplots(figsize=(9.5, 3.4), layout="constrained")
    table.plot.bar(
        ax=axes,
        color=list(_colours(table.shape[1])),
        width=0.8,
        rot=0,
    )
    axes.set(
        ylabel=y_label,
        title=title,
        xlabel="",
    )
    _legend(axes, axes.containers, list(table.columns), columns=min(table.shape[1], 4))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _legend(axes: Axes, drawn: Sequence[Artist], names: Sequence[str], columns: int) -> None:
    """Name what is drawn. Without anything drawn there is no legend."""
    if not drawn:
        return
    # With explicit names: a label would lose a name that begins with an underscore.
    axes.legend(drawn, names, frameon=False, fontsize=8, ncols=columns)


def _colours(count: int) -> list[str]:
    """`count` colours; they repeat when all are used."""
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
