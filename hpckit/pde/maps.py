"""Maps: where on Earth a grid lies, and how its land, sea and places are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpckit.errors import ConfigError

METRES_PER_DEGREE = 111_195.0  # of latitude, on a sphere of 6371 km


@dataclass(frozen=True)
class Bounds:
    """Edges of a map in degrees; rows run from `south` to `north`, columns from `west` to `east`.

    ::

        dy, dx = Bounds.of([-126, -122, 48, 50]).spacing((91, 120))   # 2444 m, 2432 m
    """

    west: float
    east: float
    south: float
    north: float

    @classmethod
    def of(cls, bounds: Sequence[float]) -> Bounds:
        """From [west, east, south, north]; raises `ConfigError` where they make no map."""
        if len(bounds) != 4 or not (bounds[0] < bounds[1] and -90 < bounds[2] < bounds[3] < 90):
            raise ConfigError(
                f"bounds {list(bounds)} must be [west, east, south, north], the map's edges in "
                "degrees"
            )
        return cls(*bounds)

    def degrees(self, shape: tuple[int, ...]) -> tuple[float, float]:
        """Degrees between rows and between columns."""
        return (self.north - self.south) / shape[0], (self.east - self.west) / shape[1]

    def centres(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Latitudes (ny,) and longitudes (nx,) of the cells' centres."""
        rows, columns = ((np.arange(n) + 0.5) / n for n in shape)
        latitude = self.south + (self.north - self.south) * rows
        longitude = self.west + (self.east - self.west) * columns
        return latitude, longitude

    def spacing(self, shape: tuple[int, ...]) -> tuple[float, float]:
        """Metres between rows and between columns, the latter at the middle latitude."""
        middle = math.cos(math.radians((self.south + self.north) / 2))
        height, width = self.north - self.south, (self.east - self.west) * middle
        return METRES_PER_DEGREE * height / shape[0], METRES_PER_DEGREE * width / shape[1]


@dataclass(frozen=True)
class Chart:
    """A map of land and sea to draw on, rows from south to north.

    elevation : (ny, nx), metres, negative under water.
    wet, reached : (ny, nx) bool, sea, and where a wave came.
    longitude (nx,), latitude (ny,) : degrees.
    spacing : metres between cells.
    places : (name, longitude, latitude) of towns to mark.
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

    def show(self, axes: Any, values: np.ndarray, **how: Any) -> Any:
        """`values` (ny, nx), or colours (ny, nx, 3), as matplotlib's `imshow` draws them."""
        how = {"interpolation": "nearest", "aspect": self.aspect} | how
        return axes.imshow(values, extent=self.extent, origin="lower", **how)

    def draw_land(self, axes: Any, shaded: bool = True) -> None:
        """Land in warm greys, hillshaded or flat, the coastline, and ticks in degrees."""
        from matplotlib.colors import LightSource, LinearSegmentedColormap, to_rgb

        if shaded:
            ramp = LinearSegmentedColormap.from_list("land", ["#e9e5da", "#cfc8b8", "#aaa292"])
            land = np.where(self.wet, 0.0, np.maximum(self.elevation, 0.0))
            steps: dict[str, Any] = {"vert_exag": 1.5, "dx": self.spacing, "dy": -self.spacing}
            light = LightSource(azdeg=315, altdeg=45)
            colours = light.shade(land, cmap=ramp, vmin=0, vmax=1800, blend_mode="soft", **steps)
        else:
            colours = np.broadcast_to(to_rgb("#d9d3c5"), (*self.wet.shape, 3))
        self.show(axes, colours)
        coast = {"levels": [0], "colors": "#3b3a36", "linewidths": 0.6 if shaded else 0.3}
        axes.contour(self.longitude, self.latitude, self.elevation, **coast)
        axes.xaxis.set_major_formatter(lambda v, _: f"{abs(v):g}° {'W' if v < 0 else 'E'}")
        axes.yaxis.set_major_formatter(lambda v, _: f"{abs(v):g}° {'N' if v >= 0 else 'S'}")
        axes.locator_params(nbins=5)

    def mark_places(self, axes: Any, text: Callable[[tuple[int, int]], str]) -> None:
        """Dots with a name and `text` of the nearest sea cell; written over land if possible."""
        from matplotlib import patheffects

        outline = [patheffects.withStroke(linewidth=2.5, foreground="white")]
        for name, longitude, latitude in self.places:
            sides = ((1, 0), (-1, 0), (0, 1), (0, -1))
            x, y = min(sides, key=lambda side: self._sea_under(longitude, latitude, side))
            axes.plot(longitude, latitude, "o", ms=4, mfc="white", mec="black", mew=0.9)
            axes.annotate(
                f"{name}\n{text(self.at(longitude, latitude))}",
                (longitude, latitude),
                fontsize=7.5,
                xytext=(5 * x, 5 * y),
                textcoords="offset points",
                linespacing=1.05,
                path_effects=outline,
                ha=("center", "left", "right")[x],
                va=("center", "bottom", "top")[y],
            )

    def _sea_under(self, longitude: float, latitude: float, side: tuple[int, int]) -> float:
        """Share of sea, or of nothing, under a label at that side of a place."""
        high = 0.06 * (self.extent[3] - self.extent[2])
        wide = 2.2 * high * self.aspect
        x, y = longitude + side[0] * wide / 2, latitude + side[1] * high / 2
        west, east, south, north = x - wide / 2, x + wide / 2, y - high / 2, y + high / 2
        left, right, bottom, top = self.extent
        if west < left or east > right or south < bottom or north > top:
            return 2.0
        columns = (self.longitude >= west) & (self.longitude <= east)
        rows = (self.latitude >= south) & (self.latitude <= north)
        return float(self.wet[np.ix_(rows, columns)].mean())
