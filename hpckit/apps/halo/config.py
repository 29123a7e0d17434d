"""What a case file of `hpckit.apps.halo` says: the keys of all runs, and a section per equation.

The sections are the `Options` of `hpckit.pde.EQUATIONS`. Nothing here starts MPI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from hpckit.keys import Count, InputFile, Positive, note
from hpckit.names import DEVICE_HALO_METHODS, DEVICES, HALO_METHODS, Layout
from hpckit.pde import EQUATIONS

if TYPE_CHECKING:
    Name = Method = Place = str
else:
    Name = Literal[tuple(EQUATIONS)]
    Method = Literal[("auto", *HALO_METHODS, *DEVICE_HALO_METHODS)]
    Place = Literal[("cpu", *DEVICES)]


class Keys(msgspec.Struct):
    """Heat, waves, reactions or creeping hills on a grid that is divided among the ranks."""

    equation: Annotated[Name, note("what to solve")] = "heat"
    shape: Annotated[
        tuple[Count, ...],
        note("cells per dimension, of the input where there is one", min_length=1, max_length=3),
    ] = (128, 128, 128)
    refine: Annotated[
        Count, note("cells per cell of the input and dimension, interpolated by cubics")
    ] = 1
    per_rank: Annotated[bool, note("shape is what each rank gets (weak scaling)")] = False
    process_shape: Annotated[
        tuple[Count, ...], note("ranks per dimension; none: the least halo")
    ] = ()
    periodic: Annotated[bool, note("the grid wraps around")] = False
    input: Annotated[
        InputFile,
        note("initial field (heat) or elevation: .npy, .npz, HDF5, netCDF, GeoTIFF, .asc"),
    ] = ""
    variable: Annotated[str, note("which array in the input; none: the only one")] = ""
    index: Annotated[
        tuple[int, ...], note("which entry of dimensions before the map's, such as a time step")
    ] = ()
    bounds: Annotated[
        tuple[float, ...], note("the map's edges: west, east, south, north in degrees")
    ] = ()
    steps: Annotated[
        Count | None, note("time steps; by default as many as duration needs, or 50")
    ] = None
    duration: Annotated[Positive | None, note("time to simulate: yr (hillslope) or s")] = None
    dt: Annotated[Positive | None, note("time step; by default 90 % of the largest stable one")] = (
        None
    )
    method: Annotated[Method, note("way to exchange halos")] = "auto"
    device: Annotated[Place, note("what computes, one per rank; stand-in: a GPU's, for tests")] = (
        "cpu"
    )
    share: Annotated[bool, note("ranks may use one device together")] = False
    threads: Annotated[Count, note("threads per rank", le=1024)] = 1
    dtype: Annotated[Literal["float64", "float32"], note("numbers to compute with")] = "float64"
    output: Annotated[str, note("folder for results, pictures and checkpoints")] = "results/halo"
    snapshots: Annotated[
        int, note("fields to write, evenly in time; 1: only the last; 0: none", ge=0)
    ] = 1
    pictures: Annotated[bool, note("draw the results")] = True
    layout: Annotated[Layout, note("of the results: one file, one per rank, h5py's")] = "mpi"
    checkpoint_every: Annotated[
        int, note("steps between checkpoints; 0: only when asked to stop", ge=0)
    ] = 0
    max_seconds: Annotated[
        float, note("checkpoint and stop after this time; 0: no limit", ge=0)
    ] = 0.0
    resume: Annotated[bool, note("go on from the last checkpoint, if there is one")] = False

    @property
    def options(self) -> Any:
        """The section of the equation that is to be solved."""
        return getattr(self, self.equation)


def _sections() -> list[tuple[str, type, Any]]:
    return [
        (name, equation.Options, msgspec.field(default_factory=equation.Options))
        for name, equation in EQUATIONS.items()
    ]


if TYPE_CHECKING:
    Config = Keys  # the sections are for `options` alone to look up
else:
    Config = msgspec.defstruct(
        "Config", _sections(), bases=(Keys,), namespace={"__doc__": Keys.__doc__}, module=__name__
    )
