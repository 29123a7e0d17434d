"""The picture of `hpckit.apps.allreduce`: rows in, a PNG file out; drawn by rank 0 only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.program.figure import drawing
from hpckit.units import binary, period

if TYPE_CHECKING:
    from hpckit.apps.allreduce.rows import Row

_NATIVE, _AUTO = "#111111", "#c8102e"
_COLOURS = {
    "ring": "#8c564b",
    "star": "#e0a100",
    "oneshot": "#1f77b4",
    "twoshot": "#17a2b8",
    "recursive_doubling": "#9467bd",
    "rabenseifner": "#2a9d4e",
    "tree": "#8a8f2a",
    "hierarchical": "#ff7f0e",
    "shared": "#4a6274",
}


def curves(path: Path, rows: Sequence[Row], title: str) -> Path:
    """Time over size by every algorithm; below, how many times faster than MPI's own."""
    ways = list(dict.fromkeys(row.way for row in rows))
    with drawing(path, (8.4, 7.4)) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for way in ways:
            mine = [row for row in rows if row.way == way]
            sizes = [row.bytes for row in mine]
            above.plot(sizes, [row.median for row in mine], label=way, **_style(way))
            below.plot(sizes, [row.ratio for row in mine], **_style(way))
        _name_choices(below, rows, ways)
        above.set_title(title)
        above.set_ylabel("time of the slowest rank, median")
        below.set_ylabel("times faster than MPI's own")
        below.set_xlabel("bytes of each rank's array")
        for axes, words in ((above, period), (below, "{:g}".format)):
            _dress(axes, sorted({row.bytes for row in rows}), words)
        figure.legend(
            *above.get_legend_handles_labels(),
            loc="outside right upper",
            frameon=False,
            handlelength=3,
        )
    return path


def _style(way: str) -> dict[str, Any]:
    """Colour by algorithm; arrays in windows have squares."""
    algorithm, _, window = way.partition(", ")
    shape = {"marker": "s" if window else "o"}
    if algorithm == "native":
        return shape | {
            "color": _NATIVE,
            "linestyle": (0, (4, 2)),
            "linewidth": 1.8,
            "markersize": 3,
            "zorder": 4,
        }
    if algorithm == "auto":
        colour = "#f08a24" if window else _AUTO
        return {
            "color": colour,
            "linewidth": 7,
            "alpha": 0.35,
            "solid_capstyle": "round",
            "zorder": 1,
        }
    return shape | {"color": _COLOURS[algorithm], "linewidth": 1.2, "markersize": 3.5, "zorder": 3}


def _name_choices(axes: Any, rows: Sequence[Row], ways: Sequence[str]) -> None:
    """At the emphasised curve the algorithms that were chosen, where they change."""
    chosen = [
        row
        for row in rows
        if row.way == next((way for way in ways if way.startswith("auto")), None)
    ]
    for i, row in enumerate(chosen):
        if i == 0 or row.algorithm != chosen[i - 1].algorithm:
            name, at = row.algorithm.replace("_", " "), (row.bytes, row.ratio)
            how: dict[str, Any] = {
                "textcoords": "offset points",
                "ha": "center",
                "fontsize": 7.5,
                "color": _AUTO,
            }
            axes.annotate(name, at, (0, 10), zorder=5, **how)


def _dress(axes: Any, sizes: Sequence[int], words: Callable[[float], str]) -> None:
    """Logarithmic axes, sizes and values as people say them, a quiet grid."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    shown = sizes[:: -(-len(sizes) // 10)]
    axes.set_xticks(shown, [binary(size) for size in shown], minor=False)
    axes.tick_params(axis="x", which="minor", length=0)
    low, high = axes.get_ylim()
    between = "25" if high < 1e3 * low else ""
    axes.yaxis.set_major_formatter(lambda value, _: words(value))
    axes.yaxis.set_minor_formatter(
        lambda value, _: words(value) if f"{value:e}"[0] in between else ""
    )
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
