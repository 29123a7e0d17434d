"""What `hpckit.apps.halo` can compute: for each equation a solver, its start, what to show, and
whether it is right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from mpi4py import MPI

from hpckit.apps.halo.estimate import DRAWN, WIDTH, layout
from hpckit.apps.halo.relief import Bounds, read_input
from hpckit.comm.grid import Grid
from hpckit.errors import ConfigError, together
from hpckit.pde.heat import Heat, ImplicitHeat
from hpckit.pde.hillslope import Hillslope
from hpckit.pde.shallow_water import ShallowWater
from hpckit.pde.solver import Solver

if TYPE_CHECKING:
    from hpckit.apps.halo.config import Config

S = TypeVar("S", bound=Solver)
Verdict = dict[str, float]  # what was checked, with its unit, and the answer


class Case(Generic[S]):
    """The science of one run; the subclasses are the equations."""

    unit = "s"  # of time
    solver: S
    spacing: tuple[float, ...]  # of cells, in the unit of the results' coordinates
    origin: float | tuple[float, ...] = 0.0  # their lower corner

    def __init__(self, comm: MPI.Intracomm, config: Config) -> None:
        self.config = config
        shape, processes = layout(config, comm.size)
        self.grid = Grid(
            comm, shape, periodic=config.periodic, process_shape=processes, width=WIDTH
        )
        self.common = {"dtype": config.dtype, "threads": config.threads, "method": config.method}

    def start(self) -> None:
        """Set the initial state (collective)."""
        raise NotImplementedError

    def show(self) -> Mapping[str, np.ndarray]:
        """The arrays to write in a snapshot."""
        return self.solver.fields

    def verdict(self) -> Verdict:
        """Whether the result is right (collective)."""
        raise NotImplementedError

    def draw(self, results: Results, folder: Path) -> list[Path]:
        """Pictures, from the file of results; rank 0 only."""
        raise NotImplementedError

    def total(self, name: str) -> float:
        """Sum of a field over all cells (collective)."""
        owned = self.solver.fields[name][self.grid.owned]
        return self.grid.comm.allreduce(float(owned.sum(dtype=float)))


class HeatCase(Case[Heat]):
    """Heat in a unit box: a wave that decays as the analytic solution says, or any initial field
    from a file.
    """

    def __init__(self, comm: MPI.Intracomm, config: Config) -> None:
        super().__init__(comm, config)
        walls: Any = "insulated" if config.input else 0.0
        physics = {"kappa": config.heat.kappa, "walls": walls} | self.common
        kind = ImplicitHeat if config.heat.implicit else Heat
        self.spacing = tuple(1 / n for n in self.grid.shape)
        self.solver = kind(self.grid, self.spacing, **physics)

    def start(self) -> None:
        """The analytic solution at time 0, or the input."""
        values = read_input(self.grid, self.config) if self.config.input else self.solver.exact(0.0)
        self.solver.set("temperature", values)
        self.before = self.total("temperature")

    def show(self) -> Mapping[str, np.ndarray]:
        return (
            self.solver.fields
            if self.config.input
            else {**self.solver.fields, "error": self._error()}
        )

    def verdict(self) -> Verdict:
        """Distance from the analytic solution; from a file, the heat that insulated walls should
        have kept.
        """
        if self.config.input:
            drift = self.total("temperature") / self.before - 1 if self.before else 0.0
            return {"heat gained or lost, of all": drift}
        owned = self.grid.owned
        largest = [
            np.abs(a[owned]).max() for a in (self._error(), self.solver.fields["temperature"])
        ]
        error, scale = (self.grid.comm.allreduce(float(a), MPI.MAX) for a in largest)
        return {"largest error against the analytic solution": error, "largest temperature": scale}

    def draw(self, results: Results, folder: Path) -> list[Path]:
        from hpckit.apps.halo import pictures as draw

        if self.grid.ndim == 1:
            return []
        error = None if self.config.input else results.read("error")
        return [
            draw.heat(
                folder / "heat.png",
                results.read("temperature"),
                error,
                f"t = {self.solver.time:.3g}",
            )
        ]

    def _error(self) -> np.ndarray:
        """Computed minus exact, with ghosts."""
        error, owned = self.grid.zeros(self.config.dtype), self.grid.owned
        error[owned] = self.solver.fields["temperature"][owned] - self.solver.exact(
            self.solver.time
        )
        return error


class TsunamiCase(Case[ShallowWater]):
    """Long waves from a raised patch of sea over real bathymetry."""

    def __init__(self, comm: MPI.Intracomm, config: Config) -> None:
        super().__init__(comm, config)
        with together(comm):
            self.bounds = Bounds.of(config.bounds)
        self.spacing, self.origin = (
            self.bounds.degrees(self.grid.shape),
            (self.bounds.south, self.bounds.west),
        )
        self.elevation = self.grid.zeros(config.dtype)
        self.elevation[self.grid.owned] = read_input(self.grid, config)
        self.solver = ShallowWater(
            self.grid,
            self._depth(self.elevation[self.grid.owned]),
            self.spacing,
            south=self.bounds.south,
            border="open",
            threshold=config.tsunami.threshold,
            **self.common,
        )

    def start(self) -> None:
        """The sea raised by the earthquake."""
        rows, columns = (slice(a, b) for a, b in zip(self.grid.start, self.grid.stop, strict=True))
        latitude, longitude = self.bounds.centres(self.grid.shape)
        self.solver.set(
            "eta", self.config.tsunami.source.height(latitude[rows], longitude[columns])
        )
        self.before = self.solver.volume()
        if self.before == 0:
            raise ConfigError(
                f"the source raises no water: does it lie within {self.bounds}, in the sea?"
            )

    def show(self) -> Mapping[str, np.ndarray]:
        fields = self.solver.fields
        arrival = np.where(np.isfinite(fields["arrival"]), fields["arrival"], np.nan)
        return {
            "eta": fields["eta"],
            "peak": fields["peak"],
            "arrival": arrival,
            "elevation": self.elevation,
        }

    def verdict(self) -> Verdict:
        """Water is neither made nor lost, but leaves through the open sea."""
        highest = float(self.solver.fields["peak"][self.grid.owned].max(initial=0.0))
        reached = np.isfinite(self.solver.fields["arrival"][self.grid.owned])
        wet = self.grid.comm.allreduce(int((self.solver.depth[self.grid.owned] > 0).sum()))
        return {
            "water above rest at first, m3": self.before,
            "water above rest at the end, m3": self.solver.volume(),
            "highest water, m": self.grid.comm.allreduce(highest, MPI.MAX),
            "sea reached, %": 100 * self.grid.comm.allreduce(int(reached.sum())) / max(wet, 1),
        }

    def draw(self, results: Results, folder: Path) -> list[Path]:
        from hpckit.apps.halo import pictures as draw

        elevation = results.read("elevation")
        latitude, longitude = self.bounds.centres(elevation.shape)
        chart = draw.Chart(
            elevation,
            self._depth(elevation) > 0,
            np.isfinite(results.read("arrival")),
            longitude,
            latitude,
            self.bounds.spacing(elevation.shape)[0],
            [(place.name, place.longitude, place.latitude) for place in self.config.tsunami.places],
        )
        waves = [(time, results.read("eta", i)) for i, time in enumerate(results.times) if time > 0]
        return draw.tsunami(folder, chart, results.read("arrival"), results.read("peak"), waves)

    def _depth(self, elevation: np.ndarray) -> np.ndarray:
        """Metres of water; sea of unknown or little depth counts as `shallowest`."""
        return np.where(elevation < 0, np.maximum(-elevation, self.config.tsunami.shallowest), 0.0)


class HillslopeCase(Case[Hillslope]):
    """Soil that creeps downhill on real terrain."""

    unit = "yr"

    def __init__(self, comm: MPI.Intracomm, config: Config) -> None:
        super().__init__(comm, config)
        with together(comm):
            self.spacing = Bounds.of(config.bounds).spacing(self.grid.shape)
        self.solver = Hillslope(
            self.grid,
            self.spacing,
            diffusivity=config.hillslope.diffusivity,
            uplift=config.hillslope.uplift,
            critical_slope=config.hillslope.critical_slope or None,
            **self.common,
        )

    def start(self) -> None:
        self.solver.set("elevation", read_input(self.grid, self.config))
        self.before = self.total("elevation")

    def verdict(self) -> Verdict:
        """Creep moves soil, and makes none: the mean elevation rises by the uplift alone."""
        cells = math.prod(self.grid.shape)
        now, uplift = self.total("elevation"), self.config.hillslope.uplift * self.solver.time
        drift = (now - self.before) / cells - uplift
        return {"mean elevation, m": now / cells, "soil made or lost, m on average": drift}

    def draw(self, results: Results, folder: Path) -> list[Path]:
        from hpckit.apps.halo import pictures as draw

        before, after = (results.read("elevation", i) for i in (0, -1))
        spacing = tuple(
            h * n / m for h, n, m in zip(self.spacing, self.grid.shape, after.shape, strict=True)
        )
        return [draw.relief(folder / "terrain.png", before, after, spacing, self.solver.time)]


CASES: dict[str, type[Case[Any]]] = {
    "heat": HeatCase,
    "tsunami": TsunamiCase,
    "hillslope": HillslopeCase,
}


class Results:
    """The file of results as rank 0 reads it for pictures: of large fields, every few cells."""

    def __init__(self, path: Path, largest: int = DRAWN) -> None:
        import h5py

        self._file = h5py.File(path)
        self._fields: Any = self._file["VTKHDF/CellData"]
        self.times: list[float] = self._file["VTKHDF/Steps/Values"][:].tolist()  # type: ignore[index]
        shape = next(iter(self._fields.values())).shape[1:][-2:]
        self._stride = math.ceil(math.sqrt(math.prod(shape) / largest))

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, name: str, step: int = -1) -> np.ndarray:
        """A field, or the middle plane of one in space."""
        data = self._fields[name]
        middle = tuple(n // 2 for n in data.shape[1:-2])
        thin = (slice(None, None, self._stride),) * 2
        return data[(range(len(data))[step], *middle, *thin)]
