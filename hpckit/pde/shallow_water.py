"""Long waves on water of varying depth: linear, staggered, in metres or on the sphere.

    eta_t = -div(h u),   (h u)_t = -g h grad eta

`eta` is the height of the surface at the cells' centres; `hu` and `hv`, the transports through the
faces towards larger second (x, longitude) and first (y, latitude) index, are on the faces (Arakawa
C). Forward-backward in time: transports, which live half a step before the heights, from the old
heights, then heights from the new transports; second order, and stable for dt <= 1 / (c sqrt(1/dx^2
+ 1/dy^2)), c = sqrt(g h) (Mesinger & Arakawa 1976). These are the equations that tsunami models
solve in deep water (Imamura 1996). No Coriolis force, friction or flooding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hpckit.comm.device import HOST
from hpckit.errors import ConfigError, same, together
from hpckit.pde import walls
from hpckit.pde.solver import Solver, positive, spacings
from hpckit.pde.sweep import Slices
from hpckit.trace import span

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

    from hpckit.comm.grid import Grid
    from hpckit.pde.backend import Place

GRAVITY = 9.81  # m/s^2
_EARTH_RADIUS = 6_371_000.0  # m
_STAGGER = {"eta": (0, 0), "hu": (0, 1), "hv": (1, 0), "peak": (0, 0), "arrival": (0, 0)}
_BORDERS = ("open", "closed")


class ShallowWater(Solver):
    """Waves from an initial surface (`set("eta", ...)`), and what they do to the coast.

    Parameters
    ----------
    grid : 2-D, first dimension y or latitude (northwards), second x or longitude (eastwards).
    depth : metres of water at rest, this rank's owned shape; zero or less is land, through whose
        faces nothing flows.
    spacing : (dy, dx) in metres, or in degrees when `south` is given.
    south : latitude in degrees of the southern edge of the grid: metrics on the sphere, per row.
        None: a plane.
    border : where the grid is not periodic, "open" lets waves out (radiation), "closed" reflects
        them.
    threshold : metres; `arrival` is the first time at which |eta| exceeds it.
    dtype, threads, method : float64 or float32; threads per rank; way of exchanging halos, see
        `Halo`.
    place : of the fields: `HOST`, or a device on which the steps run.

    Fields: `eta` (m), `hu`, `hv` (m^2/s), `peak` (largest eta so far, at least 0, m), `arrival` (s,
    infinite before).
    """

    def __init__(
        self,
        grid: Grid,
        depth: ArrayLike,
        spacing: float | Sequence[float],
        *,
        south: float | None = None,
        border: str = "open",
        threshold: float = 0.01,
        dtype: DTypeLike = float,
        threads: int = 1,
        method: str = "auto",
        place: Place = HOST,
    ) -> None:
        from hpckit.halo import Halo  # starts MPI, which reading an equation's options must not

        super().__init__(grid, dtype, threads, method, place)
        with together(grid.comm):
            if grid.ndim != 2:
                raise ConfigError(f"shallow water needs a grid of 2 dimensions, not {grid.ndim}")
            if any(low != high for low, high in grid.width):
                raise ConfigError(
                    f"ghost width {grid.width} must be the same on both sides for fields swept in "
                    "place"
                )
            if border not in _BORDERS:
                raise ConfigError(f"border {border!r} must be one of {', '.join(_BORDERS)}")
            self.spacing = spacings(spacing, 2)
            self.threshold = positive("threshold", threshold)
            self._metric = (
                _plane(grid, self.spacing) if south is None else _sphere(grid, self.spacing, south)
            )
        same(
            grid.comm,
            "the arguments of ShallowWater",
            (self.spacing, south, border, threshold, self.dtype),
        )
        self._arrays = {name: self._backend.zeros(stagger) for name, stagger in _STAGGER.items()}
        self.fields = self._backend.fields(self._arrays)
        with self.changing() as fields:
            fields["arrival"][...] = np.inf
        self._cells = tuple(
            slice(lo, lo + n) for (lo, _), n in zip(grid.width, grid.owned_shape(), strict=True)
        )
        self.depth = grid.zeros(self.dtype)
        self._assign("depth", self.depth, depth)
        Halo(grid, fields=[self.depth], method="packed").exchange(self.depth)
        self._moving = [self._arrays[name] for name in ("eta", "hu", "hv")]
        self.halo = Halo(grid, fields=self._moving, method=method)
        weights = self._weight(1), self._weight(0)
        borders = self._open_borders() if border == "open" else []
        self.dt_max = self._stable_step(*weights, borders)
        self.bytes_per_step = 16 * math.prod(grid.owned_shape()) * self.dtype.itemsize
        self._plan(*weights)
        self._radiate = self._backend.products(
            [(*border.arrays, self._backend.put(border.speed)) for border in borders]
        )

    def set(self, name: str, values: ArrayLike) -> None:
        """As `Solver.set`; there is no wave on land, and a raised surface counts as a peak."""
        super().set(name, values)
        if name == "eta":
            with self.changing() as fields:
                eta, peak = (fields[n][self._cells] for n in ("eta", "peak"))
                eta[self.depth[self._cells] <= 0] = 0
                np.maximum(peak, eta, out=peak)

    def step(self, dt: float) -> None:
        """Advance by `dt`; raises `ConfigError` beyond `dt_max`.

        Each rank moves the water through all faces of its own cells, so that one exchange a step
        suffices.
        """
        self._check_step(dt)
        # Transports live half a step before the heights; both start at time 0, so the first push
        # is half as long.
        reach = dt if self.time > 0 else dt / 2
        self.time += dt
        with span("halo start"):
            self.halo.start(*self._moving)
        with span("interior"):
            self._push.interior(reach)
        with span("halo wait"):
            self.halo.wait()
        with span("shell"):
            self._push.shell(reach)
            self._radiate()
        with span("heights"):
            self._rise.interior(dt, self.time, self.threshold)

    def volume(self) -> float:
        """Water above rest in m^3, of all ranks (collective): constant in a closed basin."""
        rows = self.fields["eta"][self._cells].sum(axis=1, dtype=float)
        return self.grid.comm.allreduce(float(rows @ self._metric.area[self._cells[0]]))

    def _next(self, d: int) -> Slices:
        """The cells of this rank, moved by one in dimension d: the faces at their other end."""
        return tuple(
            slice(s.start + (i == d), s.stop + (i == d)) for i, s in enumerate(self._cells)
        )

    def _weight(self, d: int) -> np.ndarray:
        """g times depth at the faces across dimension d, as their transport; 0 beside land."""
        weight = self.grid.zeros(self.dtype, (1 - d, d))
        below, above = (
            self.depth[(slice(None),) * d + (s,)] for s in (slice(None, -1), slice(1, None))
        )
        inside = (slice(None),) * d + (slice(1, self.depth.shape[d]),)
        weight[inside] = np.where((below > 0) & (above > 0), 0.5 * GRAVITY * (below + above), 0)
        return weight

    def _stable_step(
        self, weight_u: np.ndarray, weight_v: np.ndarray, borders: list[_Border]
    ) -> float:
        """The largest dt for which (w dt/2)^2 + r dt/2 <= 1 in every cell.

        w^2 is bounded by twice the diagonal of -div(g h grad) (Gershgorin); r is the rate at which
        a cell radiates.
        """
        from mpi4py import MPI

        metric, cells = self._metric, self._cells
        rows = cells[0]
        per_x, per_y, south = (a[rows, None] for a in (metric.per_x, metric.per_y, metric.shrink))
        north = metric.shrink[self._next(0)[0], None]
        across = (weight_u[cells] + weight_u[self._next(1)]) * per_x**2
        along = (
            (weight_v[cells] * south + weight_v[self._next(0)] * north) * per_y * metric.per_face[0]
        )
        rate = np.zeros(self.grid.owned_shape())
        for border in borders:
            measure = (
                per_x if border.dimension == 1 else per_y * (north if border.outward > 0 else south)
            )
            at = tuple(
                slice(b.start - c.start, b.stop - c.start)
                for b, c in zip(border.cells, cells, strict=True)
            )
            rate[at] += abs(border.speed) * np.broadcast_to(measure, rate.shape)[at]
        fastest = float((rate / 2 + np.sqrt(rate**2 / 4 + 2 * (across + along))).max())
        fastest = self.grid.comm.allreduce(fastest, MPI.MAX)
        if fastest == 0:
            raise ConfigError(
                "no two neighbouring cells have water: depth is in metres, positive downwards"
            )
        return 2 / fastest

    def _plan(self, weight_u: np.ndarray, weight_v: np.ndarray) -> None:
        """The sweeps: transports through the faces of both directions, then heights."""
        put, views, item = self._backend.put, self.place.views, self.dtype.itemsize
        eta, hu, hv, peak, arrival = views([self._arrays[name] for name in _STAGGER])
        to_u, to_v = views([put(weight_u, _STAGGER["hu"]), put(weight_v, _STAGGER["hv"])])
        per_x, per_y, per_face, shrink = (
            np.broadcast_to(a[:, None], (*a.shape, eta.shape[1]))
            for a in views([put(a.astype(self.dtype)) for a in self._metric[:4]])
        )
        height, u, v = (a.strides[0] // item for a in (eta, hu, hv))
        inside, shell = self.halo.interior, self.halo.shell
        arrays, boxes = (hu, to_u, eta, per_x), (inside, [*shell, self._last(1)])
        self._push = self._backend.sweep("push", arrays, *boxes, layout=(u, height, 1))
        arrays, boxes = (hv, to_v, eta, per_face), (inside, [*shell, self._last(0)])
        self._push.add(arrays, *boxes, (v, height, height))
        arrays = (eta, hu, hv, peak, arrival, per_x, per_y, shrink)
        self._rise = self._backend.sweep("fill", arrays, self._cells, [], layout=(height, u, v))

    def _last(self, d: int) -> Slices:
        """The faces across dimension d beyond the last cells of this rank."""
        return tuple(slice(s.stop, s.stop + 1) if i == d else s for i, s in enumerate(self._cells))

    def _open_borders(self) -> list[_Border]:
        """The borders of the grid that this rank touches."""
        borders = []
        for d, side in walls.sides(self.grid):
            span, outward = self._cells[d], (-1, 1)[side]
            cell = span.start if side == 0 else span.stop - 1
            cells, faces = (
                (*self._cells[:d], slice(at, at + 1), *self._cells[d + 1 :])
                for at in (cell, cell + (side == 1))
            )
            speed = np.sqrt(GRAVITY * np.maximum(self.depth[cells], 0)).astype(self.dtype)
            arrays = self._arrays[("hv", "hu")[d]][faces], self._arrays["eta"][cells]
            borders.append(_Border(d, outward, cells, arrays, np.copysign(speed, outward)))
        return borders


class _Border(NamedTuple):
    """An open border: flux = outward c eta (Flather 1976, with a calm sea outside)."""

    dimension: int
    outward: int  # -1 or 1
    cells: Slices
    arrays: tuple[Any, Any]  # the flux through its faces, and the height of its cells
    speed: np.ndarray  # outward times c, m/s


class _Metric(NamedTuple):
    """Per row of a local array: what turns differences into derivatives on the grid."""

    per_x: np.ndarray  # 1 / width of the cells, 1/m
    per_y: np.ndarray  # 1 / (height of the cells, times the cosine of their latitude), 1/m
    per_face: np.ndarray  # 1 / distance of the centres below and above the southern face, 1/m
    shrink: np.ndarray  # cosine of the latitude of the southern face
    area: np.ndarray  # m^2


def _plane(grid: Grid, spacing: tuple[float, ...]) -> _Metric:
    dy, dx = spacing
    one = np.ones(grid.local_shape[0] + 1)
    return _Metric(one / dx, one / dy, one / dy, one, one * (dx * dy))


def _sphere(grid: Grid, spacing: tuple[float, ...], south: float) -> _Metric:
    north = south + grid.shape[0] * spacing[0]
    if not -90 <= south < north <= 90 or grid.periodic[0]:
        raise ConfigError(
            f"rows from {south} to {north} degrees, periodic={grid.periodic[0]}: must lie within "
            "[-90, 90]"
        )
    dy, dx = (math.radians(h) * _EARTH_RADIUS for h in spacing)
    row = np.arange(grid.local_shape[0] + 1) + (grid.start[0] - grid.width[0][0])
    latitude = np.clip(south + (row + 0.5) * spacing[0], -89.999, 89.999)  # ghosts may lie beyond
    centre = np.cos(np.radians(latitude))
    face = np.cos(np.radians(south + row * spacing[0]))
    return _Metric(
        1 / (dx * centre), 1 / (dy * centre), np.full(row.size, 1 / dy), face, dx * dy * centre
    )
