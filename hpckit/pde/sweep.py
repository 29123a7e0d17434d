"""One kernel over the boxes of a block: the interior while the halo travels, then the shell."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from hpckit import native
from hpckit.comm import partition

Slices = tuple[slice, ...]
_LINE = 64  # bytes of a cache line
_WORTH = 8192  # cells below which a box is not worth dividing


class Sweep:
    """A kernel bound to arrays and boxes, each of which it sweeps by one call.

    That is `kernel(*addresses, *extents, *layout, *arguments)`; what does not change is computed
    here, once, and a call costs a microsecond per box, without allocation. Boxes are divided among
    the threads of `team`; kernels release the GIL, and cells do not depend on the box they lie in,
    so the result is the same for any number of threads.

    Parameters
    ----------
    arrays : what the kernel's pointers mean, as local arrays that all have the cell of index i at
        `array[i]`.
    interior, shell : boxes of cells, as slices of a local array, each box to be swept once.
    repeated : the kernel that makes several steps where this rank is alone (`hpckit.pde.alone`).
    layout : what the kernel takes after the extents, such as strides.
    walk : what it takes last: how a core shall go through the cells.

    ::

        sweep = Sweep(Team(2), kernels.diffuse_f8, (new, old), halo.interior, halo.shell)
        sweep.interior(*coefficients)
    """

    def __init__(
        self,
        team: Team,
        kernel: Callable,
        arrays: Sequence[np.ndarray],
        interior: Slices,
        shell: Sequence[Slices],
        repeated: Callable | None = None,
        layout: tuple = (),
        walk: tuple = (),
    ) -> None:
        self._team = team
        self._kernel = kernel
        self._repeated = repeated
        self._walk = walk
        self._arrays: list[np.ndarray] = []  # calls hold addresses only
        self._interior: list[tuple] = []
        self._shell: list[tuple] = []
        self.add(arrays, interior, shell, layout)

    def add(
        self,
        arrays: Sequence[np.ndarray],
        interior: Slices,
        shell: Sequence[Slices],
        layout: tuple = (),
    ) -> None:
        """More to sweep by the same kernel, after what there is: other arrays, other boxes."""
        self._arrays.extend(arrays)
        self._interior += self._places(arrays, [interior], layout)
        self._shell += self._places(arrays, shell, layout)

    def interior(self, *arguments: float) -> None:
        """Sweep the cells that need no ghosts."""
        self._team.run(self._kernel, self._interior, arguments + self._walk)

    def shell(self, *arguments: float) -> None:
        """Sweep the rest."""
        self._team.run(self._kernel, self._shell, arguments + self._walk)

    @property
    def repeats(self) -> bool:
        """Whether there is a kernel that makes several steps."""
        return self._repeated is not None

    def repeat(self, *arguments: float) -> None:
        """Several steps, for a rank that is alone: it has no shell."""
        assert self._repeated
        self._team.run(self._repeated, self._interior, arguments + self._walk)

    def _places(
        self, arrays: Sequence[np.ndarray], boxes: Sequence[Slices], layout: tuple
    ) -> list[tuple]:
        pieces = (piece for box in boxes for piece in _divide(box, self._team.threads))
        return [(*corners(arrays, piece), *extents(piece), *layout) for piece in pieces]


class Team:
    """The threads of one rank."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, "hpckit-sweep") if threads > 1 else None
        if self._pool:
            weakref.finalize(self, self._pool.shutdown)

    def run(self, kernel: Callable, calls: Sequence[tuple], arguments: tuple) -> None:
        """`kernel(*call, *arguments)` for every call."""
        if self._pool and len(calls) > 1:
            list(self._pool.map(lambda call: kernel(*call, *arguments), calls))
        else:
            for call in calls:
                kernel(*call, *arguments)


def aligned(shape: Sequence[int], dtype: np.dtype, ghosts: int) -> np.ndarray:
    """Zeros whose rows start a cache line at element `ghosts`: a vector then touches one line."""
    line = _LINE // dtype.itemsize
    pitch = -(-shape[-1] // line) * line
    room = np.zeros(int(np.prod(shape[:-1])) * pitch + line, dtype)
    first = (-(native.address(room) // dtype.itemsize + ghosts)) % line
    return room[first : first + room.size - line].reshape(*shape[:-1], pitch)[..., : shape[-1]]


def corners(arrays: Sequence[np.ndarray], box: Slices) -> list[int]:
    """Addresses of the box's first cell in all arrays."""
    corner = [s.start for s in box]
    return [
        native.address(a) + sum(i * s for i, s in zip(corner, a.strides, strict=True))
        for a in arrays
    ]


def extents(box: Slices) -> list[int]:
    """Cells of the box per dimension."""
    return [s.stop - s.start for s in box]


def _divide(box: Slices, threads: int) -> list[Slices]:
    """The box in `threads` pieces along its slowest long enough dimension; none, if it is empty."""
    cells = extents(box)
    if min(cells) <= 0:
        return []
    along = next((d for d, n in enumerate(cells) if n >= threads), None)
    if threads == 1 or along is None or np.prod(cells) < _WORTH:
        return [box]
    cuts = [box[along].start + first for first in partition.starts(cells[along], threads)]
    return [(*box[:along], slice(a, b), *box[along + 1 :]) for a, b in pairwise(cuts)]
