"""The pictures of `hpckit.apps.halo`: plain NumPy arrays in, PNG files out; drawn by rank 0
only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpckit.program.figure import drawing

_HALO = "#ffffffcc"


@dataclass(frozen=True)
class Chart:
    """A map: what is land, what is sea, and where on Earth.

    elevation : (ny, nx), metres, negative under water; wet, reached : (ny, nx) bool, sea, and where
        a wave came;
    longitude (nx,), latitude (ny,) : degrees; spacing : metres between cells; places : (name,
        longitude, latitude).
    """

    elevation: np.ndarray
    wet: np.ndarray
    reached: np.ndarray
    longitude: np.ndarray
    latitude: np.ndarray
    spacing: float
    places: Sequence[tuple[str, float, float]] = ()

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Edges of the map, degrees, as matplotlib's `imshow` takes them."""
        half_x, half_y = (abs(c[1] - c[0]) / 2 for c in (self.longitude, self.latitude))
        return (
            self.longitude[0] - half_x,
            self.longitude[-1] + half_x,
            self.latitude[0] - half_y,
            self.latitude[-1] + half_y,
        )

    @property
    def aspect(self) -> float:
        """Height of a degree of latitude over the width of a degree of longitude."""
        return float(1 / np.cos(np.deg2rad(self.latitude.mean())))

    def sea(self, field: np.ndarray) -> np.ma.MaskedArray:
        """`field` with everything that is not sea masked out."""
        return np.ma.masked_where(~self.wet | ~np.isfinite(field), field)

    def at(self, longitude: float, latitude: float) -> tuple[int, int]:
        """Index (row, column) of the cell nearest to a place that a wave reached."""
        dx = (self.longitude - longitude) / self.aspect
        dy = self.latitude - latitude
        distance = np.where(self.reached, dy[:, None] ** 2 + dx[None, :] ** 2, np.inf)
        row, column = np.unravel_index(np.argmin(distance), distance.shape)
        return int(row), int(column)


def tsunami(
    folder: Path, chart: Chart, arrival: np.ndarray, height: np.ndarray, waves: list
) -> list[Path]:
    """Isochrones, maximum height, and snapshots of a tsunami.

    arrival : (ny, nx), seconds, NaN where no wave came; height : (ny, nx), metres; waves :
        [(seconds, sea level)].
    """
    return [
        _arrival(folder / "arrival.png", chart, arrival / 60),
        _height(folder / "height.png", chart, height),
        *([_waves(folder / "waves.png", chart, waves)] if waves else []),
    ]


def _arrival(path: Path, chart: Chart, minutes: np.ndarray) -> Path:
    from matplotlib import patheffects
    from matplotlib.ticker import MultipleLocator

    with drawing(path, (8.4, 5.6)) as figure:
        axes = figure.subplots()
        _land(axes, chart)
        sea = chart.sea(minutes)
        latest = max(15.0, 15 * np.ceil(np.max(sea.compressed(), initial=0.0) / 15))
        image = _show(axes, chart, sea, cmap="viridis_r", vmin=0, vmax=latest)
        lines = np.arange(15, latest + 1, 15)
        outline = [patheffects.withStroke(linewidth=2.2, foreground=_HALO)]
        contours = axes.contour(
            chart.longitude, chart.latitude, sea, levels=lines, colors="#1a1a2e",
            linewidths=[1.1 if t % 60 == 0 else 0.45 for t in lines],
        )  # fmt: skip
        labels = axes.clabel(
            contours, levels=[t for t in lines if t % 30 == 0], fmt=_clock, fontsize=7.5
        )
        for label in labels:
            label.set_path_effects(outline)
        _places(axes, chart, lambda at: _clock(minutes[at]))
        bar = figure.colorbar(image, ax=axes, shrink=0.72, pad=0.015, format=lambda v, _: _clock(v))
        bar.ax.yaxis.set_major_locator(MultipleLocator(30 if latest <= 300 else 60))
        bar.set_label("time after the earthquake")
        axes.set_title("When the first wave arrives")
    return path


def _height(path: Path, chart: Chart, height: np.ndarray) -> Path:
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogLocator

    with drawing(path, (8.4, 5.6)) as figure:
        axes = figure.subplots()
        _land(axes, chart)
        reached = height[chart.reached & (height > 0)]
        low, high = np.percentile(reached, [2, 99.8]) if reached.size else (0.01, 1.0)
        image = _show(
            axes,
            chart,
            chart.sea(np.where(chart.reached, height, np.nan)),
            cmap="magma_r",
            norm=LogNorm(low, high, clip=True),
        )
        _places(axes, chart, lambda at: f"{height[at]:.2f} m")
        bar = figure.colorbar(image, ax=axes, shrink=0.72, pad=0.015, format=lambda v, _: f"{v:g}")
        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        bar.ax.minorticks_off()
        bar.set_label("highest sea level above rest (m, logarithmic)")
        axes.set_title("How high the sea rises")
    return path


def _waves(path: Path, chart: Chart, waves: list) -> Path:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import SymLogNorm
    from matplotlib.ticker import MaxNLocator

    columns = min(3, len(waves))
    rows = -(-len(waves) // columns)
    with drawing(path, (3.1 * columns + 0.9, 2.45 * rows + 0.2)) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        norm = SymLogNorm(0.1, vmin=-3, vmax=3)
        for axes in grid.flat[len(waves) :]:
            axes.set_visible(False)
        for axes, (seconds, eta) in zip(grid.flat, waves, strict=False):
            _land(axes, chart, shaded=False)
            _show(axes, chart, chart.sea(eta), cmap="RdBu_r", norm=norm)
            axes.set_title(_clock(seconds / 60), fontsize=10)
            # The labels at the edges would touch the neighbours'.
            axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5], prune="both"))
        ticks = [-3, -1, -0.3, 0, 0.3, 1, 3]
        scale = ScalarMappable(norm, "RdBu_r")
        bar = figure.colorbar(
            scale, ax=grid, shrink=0.75, pad=0.01, ticks=ticks, format=lambda v, _: f"{v:+g}"
        )
        bar.set_label("sea level above rest (m)")
        bar.ax.minorticks_off()
    return path


def relief(
    path: Path, before: np.ndarray, after: np.ndarray, spacing: tuple[float, float], years: float
) -> Path:
    """A landscape before and after, and what was moved; elevations (ny, nx) in metres, row 0 in the
    north.

    spacing : (dy, dx), metres.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LightSource, LinearSegmentedColormap, Normalize

    ramp = LinearSegmentedColormap.from_list(
        "relief", ["#4d6b57", "#8fa27a", "#d6c9a0", "#f3ecdf", "#ffffff"]
    )
    norm = Normalize(np.min(before), np.max(before))
    light, steps = (
        LightSource(azdeg=315, altdeg=40),
        {"vert_exag": 2.0, "dx": spacing[1], "dy": spacing[0]},
    )
    extent = (0, before.shape[1] * spacing[1] / 1e3, before.shape[0] * spacing[0] / 1e3, 0)
    span = float(np.percentile(np.abs(after - before), 99.5)) or 1.0
    tall = extent[2] / extent[1]
    with drawing(path, (9.6, 0.9 + 2.45 * tall)) as figure:
        left, middle, right = figure.subplots(1, 3, sharex=True, sharey=True)
        for axes, z, title in (
            (left, before, "Today"),
            (middle, after, f"After {years:,.0f} years"),
        ):
            axes.imshow(
                light.shade(z, cmap=ramp, norm=norm, blend_mode="soft", **steps), extent=extent
            )
            axes.set_title(title)
        image = right.imshow(after - before, extent=extent, cmap="BrBG", vmin=-span, vmax=span)
        right.set_title("Worn down and filled in")
        for mappable, axes, label in (
            (ScalarMappable(norm, ramp), [left, middle], "elevation (m)"),
            (image, right, "change of elevation (m)"),
        ):
            figure.colorbar(mappable, ax=axes, shrink=0.85, pad=0.015).set_label(label)
        left.set_ylabel("km to the south")
        for axes in (left, middle, right):
            axes.set_xlabel("km to the east")
    return path


def heat(path: Path, temperature: np.ndarray, error: np.ndarray | None, when: str) -> Path:
    """A slice through the temperature, and its error where it is known; (n, m) arrays on the unit
    square.
    """
    panels: list[tuple] = [
        (f"Temperature, {when}", temperature, {"cmap": "inferno"}, "temperature", None)
    ]
    if error is not None:
        span = float(np.max(np.abs(error))) or 1.0
        panels.append(
            (
                "Error",
                error,
                {"cmap": "RdBu_r", "vmin": -span, "vmax": span},
                "computed minus exact",
                "%.1e",
            )
        )
    with drawing(path, (4.8 * len(panels), 4.1)) as figure:
        row = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, (title, values, colours, label, form) in zip(row, panels, strict=True):
            image = axes.imshow(values, extent=(0, 1, 0, 1), origin="lower", **colours)
            figure.colorbar(image, ax=axes, shrink=0.85, pad=0.02, format=form).set_label(label)
            axes.set_title(title)
            axes.set_xlabel("x")
        row[0].set_ylabel("y")
    return path


def _show(axes: Any, chart: Chart, values: np.ndarray, **how: Any) -> Any:
    how = {"interpolation": "nearest", "aspect": chart.aspect} | how
    return axes.imshow(values, extent=chart.extent, origin="lower", **how)


def _land(axes: Any, chart: Chart, shaded: bool = True) -> None:
    """Land in warm greys, hillshaded or flat, the coastline, and ticks in degrees."""
    from matplotlib.colors import LightSource, LinearSegmentedColormap, to_rgb

    ramp = LinearSegmentedColormap.from_list("land", ["#e9e5da", "#cfc8b8", "#aaa292"])
    land = np.where(chart.wet, 0.0, np.maximum(chart.elevation, 0.0))
    steps: dict[str, Any] = {"vert_exag": 1.5, "dx": chart.spacing, "dy": -chart.spacing}
    light = LightSource(azdeg=315, altdeg=45)
    picture = (
        light.shade(land, cmap=ramp, vmin=0, vmax=1800, blend_mode="soft", **steps)
        if shaded
        else None
    )
    if picture is None:
        picture = np.broadcast_to(to_rgb("#d9d3c5"), (*land.shape, 3))
    _show(axes, chart, picture)
    axes.contour(
        chart.longitude,
        chart.latitude,
        chart.elevation,
        levels=[0],
        colors="#3b3a36",
        linewidths=0.6 if shaded else 0.3,
    )
    axes.xaxis.set_major_formatter(lambda v, _: f"{abs(v):g}° {'W' if v < 0 else 'E'}")
    axes.yaxis.set_major_formatter(lambda v, _: f"{abs(v):g}° {'N' if v >= 0 else 'S'}")
    axes.locator_params(nbins=5)


def _places(axes: Any, chart: Chart, text: Callable[[tuple[int, int]], str]) -> None:
    """Dots with a name and, below it, what `text` says about the nearest sea cell; written over
    land where possible.
    """
    from matplotlib import patheffects

    outline = [patheffects.withStroke(linewidth=2.5, foreground="white")]
    for name, longitude, latitude in chart.places:
        x, y = min(
            ((1, 0), (-1, 0), (0, 1), (0, -1)),
            key=lambda side: _sea_under(chart, longitude, latitude, side),
        )
        axes.plot(longitude, latitude, "o", ms=4, mfc="white", mec="black", mew=0.9)
        axes.annotate(
            f"{name}\n{text(chart.at(longitude, latitude))}", (longitude, latitude), fontsize=7.5,
            xytext=(5 * x, 5 * y), textcoords="offset points", linespacing=1.05, path_effects=outline,
            ha=("center", "left", "right")[x], va=("center", "bottom", "top")[y],
        )  # fmt: skip


def _sea_under(chart: Chart, longitude: float, latitude: float, side: tuple[int, int]) -> float:
    """Share of sea, or of nothing, under a label at that side of a place."""
    high = 0.06 * (chart.extent[3] - chart.extent[2])
    wide = 2.2 * high * chart.aspect
    x, y = longitude + side[0] * wide / 2, latitude + side[1] * high / 2
    west, east, south, north = x - wide / 2, x + wide / 2, y - high / 2, y + high / 2
    if (
        west < chart.extent[0]
        or east > chart.extent[1]
        or south < chart.extent[2]
        or north > chart.extent[3]
    ):
        return 2.0
    columns = (chart.longitude >= west) & (chart.longitude <= east)
    rows = (chart.latitude >= south) & (chart.latitude <= north)
    return float(chart.wet[np.ix_(rows, columns)].mean())


def _clock(minutes: float) -> str:
    """1 h 05 for 65, 45 min for 45."""
    whole = round(float(minutes)) if np.isfinite(minutes) else 0
    return f"{whole // 60} h {whole % 60:02d}" if whole >= 60 else f"{whole} min"
