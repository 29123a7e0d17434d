"""Observations by eliminated block, on the ranks that own the blocks."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.comm.partition import starts
from hpckit.native import address
from hpckit.sfm.bundle.sums import LEAVES


@dataclass
class Table:
    """The observations of this rank's eliminated blocks, sorted by block, then by kept block.

    edges : (ranks + 1,) int64, which eliminated blocks each rank owns
    start : (blocks + 1,) int64; kept : (n,) int32; xy : (n, 2) float64
    ranges : the blocks that are summed at a time, counted from this rank's first
    """

    edges: np.ndarray
    start: np.ndarray
    kept: np.ndarray
    xy: np.ndarray
    ranges: list[tuple[int, int]]

    @property
    def longest(self) -> int:
        """Most observations of one block, at least 1."""
        return int(np.diff(self.start).max(initial=1))


def in_order(start: np.ndarray, kept: np.ndarray, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`kept` and `xy` with `kept` ascending within each block: the same arrays where it is."""
    start, kept = np.ascontiguousarray(start), np.ascontiguousarray(kept)
    place = np.empty(len(kept), np.int32)
    arrays = (start, kept, place)
    moved = native.load("hpckit.sfm.kernels.setup").order(len(start) - 1, *map(address, arrays))
    if not moved:
        return kept, np.ascontiguousarray(xy)
    return kept[place], xy[place]


def leaves_of(comm: MPI.Intracomm, counts: np.ndarray) -> np.ndarray:
    """Edges of `LEAVES` ranges of blocks, with about as many observations each: the same for any
    cut of the blocks over ranks (collective).

    counts : observations of this rank's blocks
    """
    here = int(counts.sum())
    total, blocks = comm.allreduce(here), comm.allreduce(len(counts))
    before = comm.exscan(here) or 0
    edges = np.searchsorted(before + np.cumsum(counts), _targets(total, LEAVES))
    return np.concatenate([[0], comm.allreduce(edges.astype(np.int64)), [blocks]])


def cut(counts: np.ndarray, parts: int) -> np.ndarray:
    """The same of so many ranges, of blocks that all ranks know of."""
    ends = np.cumsum(counts)
    edges = np.searchsorted(ends, _targets(int(counts.sum()), parts))
    return np.concatenate([[0], edges, [len(counts)]]).astype(np.int64)


def _targets(total: int, parts: int) -> np.ndarray:
    """How many observations are before each inner edge."""
    return total * np.arange(1, parts) // parts


def positions(comm: MPI.Intracomm, counts: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Which observations each rank has, of blocks that are cut at `edges` (collective)."""
    assert len(counts) == edges[comm.rank + 1] - edges[comm.rank]
    return np.concatenate([[0], np.cumsum(comm.allgather(int(counts.sum())))])


def of_ranks(edges: np.ndarray, size: int) -> np.ndarray:
    """Which blocks each rank owns, of the edges of the ranges: (size + 1,)."""
    return edges[starts(len(edges) - 1, size)]


def ranges_of(edges: np.ndarray, comm: MPI.Intracomm) -> list[tuple[int, int]]:
    """This rank's ranges, counted from its first block."""
    cuts = starts(len(edges) - 1, comm.size)
    mine = edges[cuts[comm.rank] : cuts[comm.rank + 1] + 1]
    return [(int(a - mine[0]), int(b - mine[0])) for a, b in itertools.pairwise(mine)]


def send_rows(comm: MPI.Intracomm, array: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Rows `edges[r]:edges[r + 1]` of this rank's array to rank r, in the order of the ranks
    (collective).
    """
    counts = np.diff(edges)
    row = array.dtype.itemsize * int(np.prod(array.shape[1:], initial=1))
    theirs = np.empty_like(counts)
    comm.Alltoall(counts, theirs)
    out = np.empty((int(theirs.sum()), *array.shape[1:]), array.dtype)
    kind = MPI.BYTE.Create_contiguous(row).Commit()
    comm.Alltoallv(
        [np.ascontiguousarray(array), (counts, edges[:-1]), kind],
        [out, (theirs, np.cumsum(theirs) - theirs), kind],
    )
    kind.Free()
    return out


def recut(comm: MPI.Intracomm, array: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Rows of one array that are cut at `old` over the ranks, cut at `new` (collective)."""
    first, last = old[comm.rank], old[comm.rank + 1]
    return send_rows(comm, array, np.clip(new, first, last) - first)
