"""Pictures of a field on a line: its shape at some times, and all of it over time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.pde.equation import Picture

if TYPE_CHECKING:
    from hpckit.pde.planes import Planes

_LINES = 6  # shapes that are drawn at most
_MANY = 8  # snapshots of which a map over time is worth drawing


def evolution(planes: Planes, field: str, length: float, name: str) -> Picture:
    """The picture called `name` of a field in an interval from 0 to `length`.

    ::

        yield evolution(planes, "u", 1.0, "burgers.png")
    """
    values = np.array([planes.read(field, i) for i in range(len(planes.times))])
    panels = 2 if len(values) >= _MANY else 1
    return Picture(name, (5.6 * panels, 4.1), partial(_paint, values, planes.times, field, length))


def _paint(values: np.ndarray, times: list[float], field: str, length: float, figure: Any) -> None:
    """values : (times, cells)."""
    from matplotlib import colormaps

    many = len(values) >= _MANY
    axes = np.atleast_1d(figure.subplots(1, 2 if many else 1))
    x = (np.arange(values.shape[1]) + 0.5) * length / values.shape[1]
    chosen = np.unique(np.linspace(0, len(values) - 1, _LINES).round().astype(int))
    for colour, i in zip(np.linspace(0.05, 0.85, len(chosen)), chosen, strict=True):
        axes[0].plot(x, values[i], color=colormaps["viridis"](colour), label=f"t = {times[i]:.3g}")
    axes[0].legend(frameon=False)
    axes[0].set_xlim(0, length)
    axes[0].set_ylabel(field)
    if many:
        span = float(np.max(np.abs(values))) or 1.0
        colours = {"cmap": "RdBu_r", "vmin": -span, "vmax": span, "shading": "auto"}
        image = axes[1].pcolormesh(x, times, values, **colours)
        figure.colorbar(image, ax=axes[1], pad=0.02).set_label(field)
        axes[1].set_ylabel("t")
    for each in axes:
        each.set_xlabel("x")
