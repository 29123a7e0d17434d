"""A Cartesian grid of cells, divided among the ranks of a communicator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from mpi4py import MPI

from hpckit.arguments import per_dimension
from hpckit.comm import partition
from hpckit.comm.new_arrays import on_device
from hpckit.errors import ConfigError, same, together
from hpckit.machine.lifetime import free_with
from hpckit.machine.node_memory import NodeMemory

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from hpckit.comm.device import Device

_MOST_CELLS = 1 << 62  # so that 64 bits count them, and their ghosts
_WIDEST = 1 << 31  # ghost cells
WidthLike = int | Sequence[int | tuple[int, int]]


class Grid:
    """A box of `shape` cells, one block per rank; blocks differ by at most one cell per dimension.

    Parameters
    ----------
    comm : any intracommunicator; the grid works on a Cartesian duplicate with the same rank numbers
        (collective).
    shape : cells per dimension (1 to 4), the last one with unit stride in C order.
    periodic : whether the grid wraps around: one bool, or one per dimension.
    process_shape : blocks per dimension; by default the choice with the smallest halo.
    width : ghost cells of the arrays it makes: one int, one per dimension, or one (low, high) pair
        per dimension.

    Raises `ConfigError` on all ranks when the arguments are impossible or differ between ranks;
    where `comm` is no intracommunicator, on the ranks that passed it. ::

        grid = Grid(MPI.COMM_WORLD, (128, 128), periodic=True)
        field = grid.zeros()
        field[grid.owned] = grid.rank
    """

    comm: MPI.Cartcomm
    shape: tuple[int, ...]
    process_shape: tuple[int, ...]
    periodic: tuple[bool, ...]
    width: partition.Width
    coords: tuple[int, ...]
    start: tuple[int, ...]
    stop: tuple[int, ...]

    def __init__(
        self,
        comm: MPI.Intracomm,
        shape: Sequence[int],
        *,
        periodic: bool | Sequence[bool] = False,
        process_shape: Sequence[int] | None = None,
        width: WidthLike = 1,
    ) -> None:
        comm = _intracommunicator(comm)
        with together(comm):
            self.shape = _shape(shape)
            self.periodic = per_dimension("periodic", periodic, self.ndim, bool)
            self.width = widths(width, self.ndim)
            self.process_shape = _processes(
                process_shape, self.shape, comm.size, self.periodic, self.width
            )
        same(
            comm,
            "the arguments of Grid",
            (self.shape, self.periodic, self.process_shape, self.width),
        )
        self.comm = comm.Create_cart(self.process_shape, self.periodic, reorder=False)
        free_with(self, self.comm)
        self.node_memory = NodeMemory.of(comm)
        self.rank = self.comm.rank
        self.size = self.comm.size
        self.coords = partition.coordinates(self.process_shape, self.rank)
        self.start, self.stop = self.box(self.rank)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def local_shape(self) -> tuple[int, ...]:
        """Shape of a local array, ghosts included."""
        return self._with_ghosts(self.owned_shape())

    @property
    def owned(self) -> tuple[slice, ...]:
        """The owned cells of a local array, staggered ones too: it counts from both ends."""
        return tuple(slice(lo, -hi or None) for lo, hi in self.width)

    def owned_shape(self, stagger: int | Sequence[int] = 0) -> tuple[int, ...]:
        """Cells this rank owns; the last rank one more where staggered (1) and not periodic."""
        places = zip(self.coords, self.process_shape, self._extra(stagger), strict=True)
        extra = [one if c == p - 1 else 0 for c, p, one in places]
        return tuple(b - a + more for a, b, more in zip(self.start, self.stop, extra, strict=True))

    def global_shape(self, stagger: int | Sequence[int] = 0) -> tuple[int, ...]:
        """Cells of all ranks: one more in staggered dimensions (1), unless they are periodic."""
        return tuple(n + more for n, more in zip(self.shape, self._extra(stagger), strict=True))

    def box(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Start and stop, in global cells, of the box that `rank` owns."""
        return partition.box(self.shape, self.process_shape, rank)

    def neighbor(self, offset: Sequence[int]) -> int:
        """Rank of the block that lies `offset` blocks away; beyond a border `MPI.PROC_NULL`."""
        place = [c + step for c, step in zip(self.coords, offset, strict=True)]
        for d, (c, p) in enumerate(zip(place, self.process_shape, strict=True)):
            if not self.periodic[d] and not 0 <= c < p:
                return MPI.PROC_NULL
        wrapped = [c % p for c, p in zip(place, self.process_shape, strict=True)]
        return int(np.ravel_multi_index(wrapped, self.process_shape))

    def empty(
        self,
        dtype: DTypeLike = float,
        stagger: int | Sequence[int] = 0,
        order: Literal["C", "F"] = "C",
        shared: bool = False,
        device: str | Device | None = None,
        like: Any = None,
    ) -> Any:
        """A local array with ghosts, uninitialised.

        stagger : 1 in dimensions where the values sit on the n + 1 borders of the cells (n where
            periodic).
        shared : put it where the other ranks of this node can read it (collective; filled with
            zeros).
        device : put it on this rank's device, given as what `hpckit.device` takes or gives
            (collective). It is a `DeviceArray`, or `like` says whose.
        like : the module `cupy` or `torch`, whose own array it shall be.
        """
        return self._make("empty", dtype, stagger, order, shared, device, like)

    def zeros(
        self,
        dtype: DTypeLike = float,
        stagger: int | Sequence[int] = 0,
        order: Literal["C", "F"] = "C",
        shared: bool = False,
        device: str | Device | None = None,
        like: Any = None,
    ) -> Any:
        """As `empty`, but filled with zeros, ghosts included."""
        return self._make("zeros", dtype, stagger, order, shared, device, like)

    def _make(
        self,
        how: Literal["empty", "zeros"],
        dtype: DTypeLike,
        stagger: int | Sequence[int],
        order: Literal["C", "F"],
        shared: bool,
        device: str | Device | None,
        like: Any,
    ) -> Any:
        shape = self._with_ghosts(self.owned_shape(stagger))
        if device is not None or like is not None:
            return on_device(self.comm, how, shape, dtype, order, shared, device, like)
        make = self.node_memory.zeros if shared else getattr(np, how)
        return make(shape, dtype, order)

    @property
    def node_comm(self) -> MPI.Intracomm:
        """The ranks of this grid that share this node's memory."""
        return self.node_memory.comm

    def shared_peers(self, array: np.ndarray) -> dict[int, np.ndarray] | None:
        """By rank, the node's arrays that were made together with `array` by `empty(shared=True)`.

        Theirs are views of the other ranks' memory, with the other ranks' shapes. None if `array`
        is not shared whole.
        """
        return self.node_memory.peers(array)

    def __str__(self) -> str:
        return "\n".join(
            [
                f"grid      {_times(self.shape)} cells on {self.size} rank{'s' * (self.size > 1)}",
                f"blocks    {_times(self.process_shape)} of {self._block_sizes()} cells",
                f"ghosts    {', '.join(f'{lo}+{hi}' for lo, hi in self.width)} (low+high per "
                "dimension)",
                f"periodic  {', '.join('yes' if wrap else 'no' for wrap in self.periodic)}",
                f"halo      at most {self._halo_cells():,} cells per rank and field from other "
                "ranks (faces)",
            ]
        )

    def _block_sizes(self) -> str:
        """Smallest and largest block per dimension."""
        pairs = [(n // p, -(-n // p)) for n, p in zip(self.shape, self.process_shape, strict=True)]
        return _times(f"{a}" if a == b else f"{a}-{b}" for a, b in pairs)

    def _halo_cells(self) -> int:
        return int(
            partition.halo_cells(self.shape, self.process_shape, self.periodic, self.width).max()
        )

    def _extra(self, stagger: int | Sequence[int]) -> list[int]:
        each = per_dimension("stagger", stagger, self.ndim, index)
        return [int(bool(s)) * (not wrap) for s, wrap in zip(each, self.periodic, strict=True)]

    def _with_ghosts(self, owned: Sequence[int]) -> tuple[int, ...]:
        return tuple(lo + n + hi for n, (lo, hi) in zip(owned, self.width, strict=True))


def _intracommunicator(comm: object) -> MPI.Intracomm:
    if not isinstance(comm, MPI.Comm):
        raise ConfigError(f"a grid needs an MPI communicator such as MPI.COMM_WORLD, got {comm!r}")
    if comm == MPI.COMM_NULL:
        raise ConfigError(
            "a grid needs an MPI communicator, got MPI.COMM_NULL: it was freed, or this rank is "
            "not in it; leave out the ranks that are not"
        )
    if comm.Is_inter():
        raise ConfigError(
            "a grid needs the ranks of one group, got an inter-communicator: use comm.Merge()"
        )
    return comm if isinstance(comm, MPI.Intracomm) else MPI.Intracomm(comm)


def widths(width: WidthLike, ndim: int) -> partition.Width:
    """Ghost widths as one (low, high) pair per dimension; see `Grid` for what may be given."""
    sides: Any = per_dimension("width", width, ndim, _sides)
    if any(len(pair) != 2 or min(pair) < 0 or max(pair) > _WIDEST for pair in sides):
        raise ConfigError(
            f"width {width!r} must be one or, per dimension, one or two (low, high) non-negative "
            "ints, 2**31 at most"
        )
    return sides


def _shape(shape: Sequence[int]) -> tuple[int, ...]:
    try:
        cells = tuple(index(n) for n in shape)
    except TypeError:
        raise ConfigError(
            f"shape {shape!r} must be a sequence of 1 to 4 ints, such as (64, 64)"
        ) from None
    if not 1 <= len(cells) <= 4 or min(cells) < 1:
        raise ConfigError(f"shape {cells} must have 1 to 4 dimensions of at least one cell each")
    if math.prod(cells) > _MOST_CELLS:
        raise ConfigError(
            f"shape {cells} has more than 2**62 cells, which no machine can hold: use a smaller one"
        )
    return cells


def _sides(width: Any) -> tuple[int, ...]:
    return tuple(map(index, width)) if np.ndim(width) else (index(width), index(width))


def _processes(
    wanted: Sequence[int] | None,
    shape: tuple[int, ...],
    size: int,
    periodic: tuple[bool, ...],
    width: partition.Width,
) -> tuple[int, ...]:
    if wanted is None:
        return partition.process_shape(shape, size, periodic, width)
    chosen = per_dimension("process_shape", wanted, len(shape), index)
    if min(chosen) < 1:
        raise ConfigError(f"process_shape {chosen} must be at least 1 in every dimension")
    needed = math.prod(chosen)
    if needed != size:
        best = partition.process_shape(shape, size, periodic, width)
        raise ConfigError(
            f"grid {chosen} needs {needed} ranks, but the communicator has {size}:"
            f" use process_shape={best} or run with mpiexec -n {needed}"
        )
    thin = next((d for d, (n, p) in enumerate(zip(shape, chosen, strict=True)) if p > n), None)
    if thin is not None:
        raise ConfigError(
            f"process_shape {chosen} cuts dimension {thin} into {chosen[thin]} blocks, but it has "
            f"only {shape[thin]} cells: use at most {shape[thin]} there"
        )
    return chosen


def _times(numbers) -> str:
    return " x ".join(str(n) for n in numbers)
