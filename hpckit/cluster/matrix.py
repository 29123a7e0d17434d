"""A given matrix of distances: whole on every rank, in an HDF5 file, or in slices on the ranks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from hpckit.cluster import quantization
from hpckit.comm import partition

if TYPE_CHECKING:
    import h5py
    from mpi4py import MPI

_VALUES = 2**20  # read, or sent, at once
_TILE = 64  # rows: pieces of whole tiles are transposed fastest


class Matrix(ABC):
    """D[o, j] of n objects to n candidates."""

    n: int

    @abstractmethod
    def largest(self, objects: np.ndarray, first: int, stop: int) -> float:
        """Over all ranks the largest of these; `ConfigError` where one is no distance."""

    @abstractmethod
    def pieces(
        self, objects: np.ndarray, first: int, stop: int
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Distances of `objects`, ascending, to own candidates first <= j < stop (collective).

        Yields p and (any, stop - first) float32 or float64, the rows of objects[p], objects[p + 1],
        ...
        """

    @abstractmethod
    def columns(self, candidates: np.ndarray, first: int, stop: int) -> np.ndarray:
        """(any, candidates) float: distances of own objects, first <= o < stop, or its slice."""


class Whole(Matrix):
    """Every rank reads what it needs. data : (n, n) of any real type"""

    def __init__(self, data: np.ndarray | h5py.Dataset) -> None:
        self.n = len(data)
        self.data = data

    def largest(self, objects: np.ndarray, first: int, stop: int) -> float:
        return max(
            (quantization.largest(values) for _, values in self.pieces(objects, first, stop)),
            default=0.0,
        )

    def pieces(
        self, objects: np.ndarray, first: int, stop: int
    ) -> Iterator[tuple[int, np.ndarray]]:
        for p, some in _parts(objects, stop - first):
            yield p, real(self.data[_index(some), first:stop])

    def columns(self, candidates: np.ndarray, first: int, stop: int) -> np.ndarray:
        parts = [
            real(self.data[_index(some)][:, candidates])
            for _, some in _parts(np.arange(first, stop), self.n)
        ]
        return np.concatenate(parts) if parts else np.empty((0, len(candidates)))


class Slices(Matrix):
    """Each rank has rows, in rank order, and sends the others the columns of their candidates.

    rows : (any, n) of any real type; starts : number of the first row of each rank, and at the end
        n
    """

    def __init__(self, rows: np.ndarray, starts: list[int], comm: MPI.Intracomm) -> None:
        self.n = starts[-1]
        self._rows = rows
        self._starts = starts
        self._comm = comm

    def largest(self, objects: np.ndarray, first: int, stop: int) -> float:
        mine = objects[slice(*self._places(objects)[self._comm.rank])]
        return max(
            (quantization.largest(self._own(some)) for _, some in _parts(mine, self.n)), default=0.0
        )

    def pieces(
        self, objects: np.ndarray, first: int, stop: int
    ) -> Iterator[tuple[int, np.ndarray]]:
        places = self._places(objects)
        step = _VALUES // self.n + 1
        for done in range(0, max(b - a for a, b in places), step):
            now = [(min(a + done, b), min(a + done + step, b)) for a, b in places]
            rows, start = self._exchange(objects, now, stop - first), 0
            for a, b in now:
                yield a, rows[start : start + b - a]
                start += b - a

    def columns(self, candidates: np.ndarray, first: int, stop: int) -> np.ndarray:
        return real(self._rows[:, candidates])

    def _exchange(self, objects: np.ndarray, now: list[tuple[int, int]], m: int) -> np.ndarray:
        """This rank's m columns of the rows objects[a:b] of each rank, where now[rank] = (a, b)."""
        mine = self._own(objects[slice(*now[self._comm.rank])])
        columns = [mine[:, a:b] for a, b in pairwise(partition.starts(self.n, self._comm.size))]
        rows = np.empty((sum(b - a for a, b in now), m), mine.dtype)
        self._comm.Alltoallv(
            [np.concatenate([part.ravel() for part in columns]), [part.size for part in columns]],
            [rows, [(b - a) * m for a, b in now]],
        )
        return rows

    def _own(self, objects: np.ndarray) -> np.ndarray:
        return real(self._rows[_index(objects - self._starts[self._comm.rank])])

    def _places(self, objects: np.ndarray) -> list[tuple[int, int]]:
        """Which of the objects each rank has: from where to where in `objects`."""
        return list(pairwise(np.searchsorted(objects, self._starts).tolist()))


def real(values: np.ndarray) -> np.ndarray:
    """As it is if it is float32 or float64 that kernels can read, else as float64."""
    plain = values.dtype in (np.dtype("=f4"), np.dtype("=f8"))
    plain = plain and all(stride % values.itemsize == 0 for stride in values.strides)
    return values if plain else values.astype(np.float64)


def _parts(objects: np.ndarray, width: int) -> Iterator[tuple[int, np.ndarray]]:
    """Some objects after the other: as many rows, `width` long, as stay in the cache."""
    step = (_VALUES // max(1, width) // _TILE + 1) * _TILE
    for p in range(0, len(objects), step):
        yield p, objects[p : p + step]


def _index(objects: np.ndarray) -> slice | np.ndarray:
    """What reads these rows, ascending; without a copy if they follow each other."""
    together = len(objects) and objects[-1] - objects[0] == len(objects) - 1
    return slice(objects[0], objects[-1] + 1) if together else objects
