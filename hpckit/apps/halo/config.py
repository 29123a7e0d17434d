"""Heat, tsunamis and creeping hills on any number of ranks: `mpirun -n 4 python -m hpckit.apps.halo
[case.toml]`.

Each equation runs on blocks of one grid, one block per rank, whose ghost cells are filled by
`hpckit.Halo` while the cells inside are computed. Without arguments: heat in a box, whose distance
from the analytic solution is printed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from hpckit.program.options import InputFile

if TYPE_CHECKING:
    import numpy as np
    from mpi4py import MPI

KILOMETRES_PER_DEGREE = 111.195  # of latitude, on a sphere of 6371 km


def _note(text: str, **limits: Any) -> Any:
    return msgspec.Meta(description=text, **limits)


Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class Heat(msgspec.Struct):
    """Heat in a unit box: T_t = kappa lap T, walls at 0; with an input, insulated walls."""

    kappa: Annotated[Positive, _note("diffusivity")] = 1.0
    implicit: Annotated[
        bool, _note("backward Euler with PETSc (extra petsc) instead of explicit steps")
    ] = False


class Source(msgspec.Struct):
    """The sea that an earthquake raises: an ellipse, highest in the middle, zero at its edge."""

    longitude: Annotated[float, _note("of the middle, degrees east")] = 0.0
    latitude: Annotated[float, _note("of the middle, degrees north")] = 0.0
    length: Annotated[Positive, _note("half the long axis, km")] = 50.0
    width: Annotated[Positive, _note("half the short axis, km")] = 25.0
    strike: Annotated[float, _note("direction of the long axis, degrees clockwise from north")] = (
        0.0
    )
    uplift: Annotated[float, _note("in the middle, m")] = 1.0

    def height(self, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
        """Metres above rest at (ny,) latitudes and (nx,) longitudes: uplift (1 + cos(pi r)) / 2
        within the ellipse.
        """
        import numpy as np

        y = (latitude[:, None] - self.latitude) * KILOMETRES_PER_DEGREE
        x = (
            (longitude[None, :] - self.longitude)
            * KILOMETRES_PER_DEGREE
            * np.cos(np.radians(self.latitude))
        )
        sine, cosine = np.sin(np.radians(self.strike)), np.cos(np.radians(self.strike))
        r = np.hypot((x * sine + y * cosine) / self.length, (x * cosine - y * sine) / self.width)
        return self.uplift * 0.5 * (1 + np.cos(np.pi * np.minimum(r, 1)))


class Place(msgspec.Struct):
    """A town to mark in the pictures."""

    name: str
    longitude: float
    latitude: float


class Tsunami(msgspec.Struct):
    """Linear long waves; the input is elevation in m, negative under water, rows from south to
    north.
    """

    source: Source = msgspec.field(default_factory=Source)
    shallowest: Annotated[Positive, _note("water less deep than this counts as this deep, m")] = (
        20.0
    )
    threshold: Annotated[
        Positive, _note("a wave has arrived when the level is off by this much, m")
    ] = 0.01
    places: Annotated[list[Place], _note("towns to mark in the pictures")] = []


class Hillslope(msgspec.Struct):
    """Soil creeping downhill; the input is elevation in m, rows from north to south, time is in
    years.
    """

    diffusivity: Annotated[Positive, _note("m2/yr")] = 0.01
    uplift: Annotated[float, _note("m/yr")] = 0.0
    critical_slope: Annotated[
        float, _note("slope near which soil slides; 0: flux linear in the slope", ge=0)
    ] = 0.0


class Config(msgspec.Struct):
    """Heat, tsunamis or creeping hills on a grid that is divided among the ranks."""

    equation: Annotated[Literal["heat", "tsunami", "hillslope"], _note("what to solve")] = "heat"
    shape: Annotated[
        tuple[Count, ...],
        _note("cells per dimension, of the input where there is one", min_length=1, max_length=3),
    ] = (128, 128, 128)
    refine: Annotated[
        Count, _note("cells per cell of the input and dimension, interpolated by cubics")
    ] = 1
    per_rank: Annotated[bool, _note("shape is what each rank gets (weak scaling)")] = False
    process_shape: Annotated[
        tuple[Count, ...], _note("ranks per dimension; none: the least halo")
    ] = ()
    periodic: Annotated[bool, _note("the grid wraps around")] = False
    input: Annotated[
        InputFile,
        _note("initial field (heat) or elevation: .npy, .npz, HDF5, netCDF, GeoTIFF, .asc"),
    ] = ""
    variable: Annotated[str, _note("which array in the input; none: the only one")] = ""
    index: Annotated[
        tuple[int, ...], _note("which entry of dimensions before the map's, such as a time step")
    ] = ()
    bounds: Annotated[
        tuple[float, ...], _note("the map's edges: west, east, south, north in degrees")
    ] = ()
    steps: Annotated[
        Count | None, _note("time steps; by default as many as duration needs, or 50")
    ] = None
    duration: Annotated[Positive | None, _note("time to simulate: s (tsunami), yr (hillslope)")] = (
        None
    )
    dt: Annotated[
        Positive | None, _note("time step; by default 90 % of the largest stable one")
    ] = None
    method: Annotated[
        Literal["auto", "datatype", "packed", "neighbor", "shared", "direct"],
        _note("way to exchange halos"),
    ] = "auto"
    threads: Annotated[Count, _note("threads per rank", le=1024)] = 1
    dtype: Annotated[Literal["float64", "float32"], _note("numbers to compute with")] = "float64"
    output: Annotated[str, _note("folder for results, pictures and checkpoints")] = "results/halo"
    snapshots: Annotated[
        int, _note("fields to write, evenly in time; 1: only the last; 0: none", ge=0)
    ] = 1
    pictures: Annotated[bool, _note("draw the results")] = True
    layout: Annotated[
        Literal["mpi", "files", "h5py"], _note("of the results: one file, one per rank, h5py's")
    ] = "mpi"
    checkpoint_every: Annotated[
        int, _note("steps between checkpoints; 0: only when asked to stop", ge=0)
    ] = 0
    max_seconds: Annotated[
        float, _note("checkpoint and stop after this time; 0: no limit", ge=0)
    ] = 0.0
    resume: Annotated[bool, _note("go on from the last checkpoint, if there is one")] = False
    heat: Heat = msgspec.field(default_factory=Heat)
    tsunami: Tsunami = msgspec.field(default_factory=Tsunami)
    hillslope: Hillslope = msgspec.field(default_factory=Hillslope)


def main(comm: MPI.Intracomm, config: Config) -> dict[str, Any]:
    """Compute, write and draw one case; the results by name."""
    from hpckit.apps.halo.cases import CASES
    from hpckit.apps.halo.estimate import memory
    from hpckit.apps.halo.job import Job
    from hpckit.errors import together
    from hpckit.program.memory import check

    need = 0.0
    with together(comm):
        need = memory(config, comm.size)[comm.rank]
    check(comm, need, "--shape or --refine")
    job = Job(comm, config, CASES[config.equation](comm, config))
    job.compute()
    return job.report() | job.draw()


def dry_run(config: Config, ranks: int) -> str:
    """What a run on so many ranks would be like."""
    from hpckit.apps.halo.estimate import estimate

    return estimate(config, ranks)
