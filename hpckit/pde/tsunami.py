"""Tsunamis: long waves from a raised patch of sea over real bathymetry, by `ShallowWater`.

    eta_t = -div(h u),   (h u)_t = -g h grad eta        on the sphere, borders open

The scheme, and what it leaves out, are in `hpckit.pde.shallow_water`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from hpckit.errors import ConfigError, together
from hpckit.keys import Positive, note
from hpckit.pde.equation import Cost, Equation, Picture, Setup
from hpckit.pde.maps import METRES_PER_DEGREE, Bounds, Chart
from hpckit.pde.shallow_water import ShallowWater

if TYPE_CHECKING:
    from hpckit.pde.planes import Planes

_KILOMETRES = METRES_PER_DEGREE / 1e3  # per degree of latitude
_OUTLINE = "#ffffffcc"  # around labels


class Source(msgspec.Struct):
    """The sea that an earthquake raises: an ellipse, highest in the middle, zero at its edge."""

    longitude: Annotated[float, note("of the middle, degrees east")] = 0.0
    latitude: Annotated[float, note("of the middle, degrees north")] = 0.0
    length: Annotated[Positive, note("half the long axis, km")] = 50.0
    width: Annotated[Positive, note("half the short axis, km")] = 25.0
    strike: Annotated[float, note("direction of the long axis, degrees clockwise from north")] = 0.0
    uplift: Annotated[float, note("in the middle, m")] = 1.0

    def height(self, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
        """Metres above rest at (ny,) latitudes and (nx,) longitudes: (ny, nx) float64.

        uplift (1 + cos(pi r)) / 2 within the ellipse, r = 1 at its edge.
        """
        squeeze = np.cos(np.radians(self.latitude))
        y = (latitude[:, None] - self.latitude) * _KILOMETRES
        x = (longitude[None, :] - self.longitude) * _KILOMETRES * squeeze
        sine, cosine = np.sin(np.radians(self.strike)), np.cos(np.radians(self.strike))
        r = np.hypot((x * sine + y * cosine) / self.length, (x * cosine - y * sine) / self.width)
        return self.uplift * 0.5 * (1 + np.cos(np.pi * np.minimum(r, 1)))


class Place(msgspec.Struct):
    """A town to mark in the pictures."""

    name: str
    longitude: float
    latitude: float


class Options(msgspec.Struct):
    """Linear long waves; input: elevation in m, negative under water, rows from south to north."""

    source: Source = msgspec.field(default_factory=Source)
    shallowest: Annotated[Positive, note("water less deep than this counts as this deep, m")] = 20.0
    threshold: Annotated[
        Positive, note("a wave has arrived when the level is off by this much, m")
    ] = 0.01
    places: Annotated[list[Place], note("towns to mark in the pictures")] = []


class TsunamiEquation(Equation[ShallowWater, Options]):
    """Long waves from a raised patch of sea over real bathymetry."""

    Options = Options
    on_map = True
    first_row = "south"

    def __init__(self, setup: Setup, options: Options) -> None:
        super().__init__(setup, options)
        grid = self.grid
        with together(grid.comm):
            self.bounds = Bounds.of(setup.bounds)
        self.spacing = self.bounds.degrees(grid.shape)
        self.origin = self.bounds.south, self.bounds.west
        self.elevation = grid.zeros(setup.numerics["dtype"])
        self.elevation[grid.owned] = setup.read()
        self.solver = ShallowWater(
            grid,
            self._depth(self.elevation[grid.owned]),
            self.spacing,
            south=self.bounds.south,
            border="open",
            threshold=options.threshold,
            place=setup.place,
            **setup.numerics,
        )

    @classmethod
    def cost(cls, options: Options, has_input: bool) -> Cost:
        return Cost(kept=11, exchanged=3, written=4, moved=16, of_copying=1.4, drawing=(50e6, 550))

    @classmethod
    def on_devices(cls, options: Options) -> bool:
        return True

    @classmethod
    def limits_dt(cls, options: Options) -> str:
        return f"tsunami.shallowest = {options.shallowest:g} and the depths in the input"

    def start(self) -> None:
        """The sea raised by the earthquake."""
        rows, columns = map(slice, self.grid.start, self.grid.stop)
        latitude, longitude = self.bounds.centres(self.grid.shape)
        self.solver.set("eta", self.options.source.height(latitude[rows], longitude[columns]))
        self.before = self.solver.volume()
        if self.before == 0:
            raise ConfigError(
                f"the source raises no water: does it lie within {self.bounds}, in the sea?"
            )

    def show(self) -> Mapping[str, np.ndarray]:
        """Level, gauges and the sea floor; NaN where no wave has arrived."""
        fields = self.solver.fields
        arrival = fields["arrival"]
        return {
            "eta": fields["eta"],
            "peak": fields["peak"],
            "arrival": np.where(np.isfinite(arrival), arrival, np.nan),
            "elevation": self.elevation,
        }

    def verdict(self) -> dict[str, float]:
        """Water is neither made nor lost, but leaves through the open sea."""
        comm, owned = self.grid.comm, self.grid.owned
        reached = np.isfinite(self.solver.fields["arrival"][owned])
        wet = comm.allreduce(int((self.solver.depth[owned] > 0).sum()))
        return {
            "water above rest at first, m3": self.before,
            "water above rest at the end, m3": self.solver.volume(),
            "highest water, m": self.largest(self.solver.fields["peak"][owned]),
            "sea reached, %": 100 * comm.allreduce(int(reached.sum())) / max(wet, 1),
        }

    def pictures(self, planes: Planes) -> Iterator[Picture]:
        """Isochrones, maximum height, and snapshots of the waves."""
        elevation, arrival = planes.read("elevation"), planes.read("arrival")
        latitude, longitude = self.bounds.centres(elevation.shape)
        chart = Chart(
            elevation,
            self._depth(elevation) > 0,
            np.isfinite(arrival),
            longitude,
            latitude,
            self.bounds.spacing(elevation.shape)[0],
            [(place.name, place.longitude, place.latitude) for place in self.options.places],
        )
        yield Picture("arrival.png", (8.4, 5.6), partial(_arrival, chart, arrival / 60))
        yield Picture("height.png", (8.4, 5.6), partial(_height, chart, planes.read("peak")))
        waves = [(time, planes.read("eta", i)) for i, time in enumerate(planes.times) if time > 0]
        if waves:
            columns = min(3, len(waves))
            rows = -(-len(waves) // columns)
            size = 3.1 * columns + 0.9, 2.45 * rows + 0.2
            yield Picture("waves.png", size, partial(_waves, chart, waves, rows, columns))

    def _depth(self, elevation: np.ndarray) -> np.ndarray:
        """Metres of water; sea of unknown or little depth counts as `shallowest`."""
        return np.where(elevation < 0, np.maximum(-elevation, self.options.shallowest), 0.0)


def _arrival(chart: Chart, minutes: np.ndarray, figure: Any) -> None:
    """When the first wave arrives; minutes : (ny, nx), NaN where none came."""
    from matplotlib import patheffects
    from matplotlib.ticker import MultipleLocator

    axes = figure.subplots()
    chart.draw_land(axes)
    sea = chart.sea(minutes)
    latest = max(15.0, 15 * np.ceil(np.max(sea.compressed(), initial=0.0) / 15))
    image = chart.show(axes, sea, cmap="viridis_r", vmin=0, vmax=latest)
    times = np.arange(15, latest + 1, 15)
    widths = [1.1 if t % 60 == 0 else 0.45 for t in times]
    lines = {"levels": times, "colors": "#1a1a2e", "linewidths": widths}
    contours = axes.contour(chart.longitude, chart.latitude, sea, **lines)
    halves = [t for t in times if t % 30 == 0]
    for label in axes.clabel(contours, levels=halves, fmt=_clock, fontsize=7.5):
        label.set_path_effects([patheffects.withStroke(linewidth=2.2, foreground=_OUTLINE)])
    chart.mark_places(axes, lambda at: _clock(minutes[at]))
    bar = figure.colorbar(image, ax=axes, shrink=0.72, pad=0.015, format=lambda v, _: _clock(v))
    bar.ax.yaxis.set_major_locator(MultipleLocator(30 if latest <= 300 else 60))
    bar.set_label("time after the earthquake")
    axes.set_title("When the first wave arrives")


def _height(chart: Chart, height: np.ndarray, figure: Any) -> None:
    """How high the sea rises; height : (ny, nx), metres."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogLocator

    axes = figure.subplots()
    chart.draw_land(axes)
    reached = height[chart.reached & (height > 0)]
    low, high = np.percentile(reached, [2, 99.8]) if reached.size else (0.01, 1.0)
    sea = chart.sea(np.where(chart.reached, height, np.nan))
    image = chart.show(axes, sea, cmap="magma_r", norm=LogNorm(low, high, clip=True))
    chart.mark_places(axes, lambda at: f"{height[at]:.2f} m")
    bar = figure.colorbar(image, ax=axes, shrink=0.72, pad=0.015, format=lambda v, _: f"{v:g}")
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    bar.ax.minorticks_off()
    bar.set_label("highest sea level above rest (m, logarithmic)")
    axes.set_title("How high the sea rises")


def _waves(chart: Chart, waves: list, rows: int, columns: int, figure: Any) -> None:
    """Snapshots of the sea level, and when they were; waves : [(seconds, (ny, nx) metres)]."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import SymLogNorm
    from matplotlib.ticker import MaxNLocator

    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    norm = SymLogNorm(0.1, vmin=-3, vmax=3)
    for axes in panels.flat[len(waves) :]:
        axes.set_visible(False)
    for axes, (seconds, eta) in zip(panels.flat, waves, strict=False):
        chart.draw_land(axes, shaded=False)
        chart.show(axes, chart.sea(eta), cmap="RdBu_r", norm=norm)
        axes.set_title(_clock(seconds / 60), fontsize=10)
        # The labels at the edges would touch the neighbours'.
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5], prune="both"))
    how = {"ticks": [-3, -1, -0.3, 0, 0.3, 1, 3], "format": lambda v, _: f"{v:+g}"}
    scale = ScalarMappable(norm, "RdBu_r")
    bar = figure.colorbar(scale, ax=panels, shrink=0.75, pad=0.01, **how)
    bar.set_label("sea level above rest (m)")
    bar.ax.minorticks_off()


def _clock(minutes: float) -> str:
    """1 h 05 for 65, 45 min for 45."""
    whole = round(float(minutes)) if np.isfinite(minutes) else 0
    return f"{whole // 60} h {whole % 60:02d}" if whole >= 60 else f"{whole} min"
