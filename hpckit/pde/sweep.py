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
    """A kernel bound to arrays and boxes: `kernel(*addresses, *extents, *arguments)` for every box.

    Places and extents are computed here, once; a call costs a microsecond per box, without
    allocation. Boxes are divided among the threads of `team`; kernels release the GIL, and cells do
    not depend on the box they lie in, so the result is the same for any number of threads.

    Parameters
    ----------
    arrays : what the kernel's pointers mean, as local arrays that all have the cell of index i at
        `array[i]`.
    interior, shell : boxes of cells, as slices of a local array, each box to be swept once.
    repeated : the kernel that makes several steps where this rank is alone (`hpckit.pde.alone`).

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
    ) -> None:
        self._team = team
        self._kernel = kernel
        self._repeated = repeated
        self._arrays = list(arrays)  # calls hold addresses only
        self._interior = self._places([interior])
        self._shell = self._places(shell)

    def interior(self, *arguments: float) -> None:
        """Sweep the cells that need no ghosts."""
        self._team.run(self._kernel, self._interior, arguments)

    def shell(self, *arguments: float) -> None:
        """Sweep the rest."""
        self._team.run(self._kernel, self._shell, arguments)

    @property
    def repeats(self) -> bool:
        """Whether there is a kernel that makes several steps."""
        return self._repeated is not None

    def repeat(self, *arguments: float) -> None:
        """Several steps, for a rank that is alone: it has no shell."""
        assert self._repeated
        self._team.run(self._repeated, self._interior, arguments)

    def _places(self, boxes: Sequence[Slices]) -> list[tuple[int, ...]]:
        pieces = (piece for box in boxes for piece in _divide(box, self._team.threads))
        return [_place(self._arrays, piece) for piece in pieces]


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


def _place(arrays: Sequence[np.ndarray], box: Slices) -> tuple[int, ...]:
    """Addresses of the box's first cell in all arrays, then the box's extents."""
    corner = [s.start for s in box]
    places = [
        native.address(a) + sum(i * s for i, s in zip(corner, a.strides, strict=True))
        for a in arrays
    ]
    return *places, *(s.stop - s.start for s in box)


def _divide(box: Slices, threads: int) -> list[Slices]:
    """The box in `threads` pieces along its slowest long enough dimension; none, if it is empty."""
    extents = [s.stop - s.start for s in box]
    if min(extents) <= 0:
        return []
    along = next((d for d, n in enumerate(extents) if n >= threads), None)
    if threads == 1 or along is None or np.prod(extents) < _WORTH:
        return [box]
    cuts = [box[along].start + first for first in partition.starts(extents[along], threads)]
    return [(*box[:along], slice(a, b), *box[along + 1 :]) for a, b in pairwise(cuts)]
