"""Sums over all ranks of what kernels add up over eliminated blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from mpi4py import MPI

from hpckit.collectives import Allreduce, empty
from hpckit.collectives.channel import Channel
from hpckit.comm.partition import starts
from hpckit.trace import span

LEAVES = 64  # of the tree of sums, whatever the number of ranks
SPAN = "sums over ranks"  # by which `hpckit.trace` knows them, waiting included
_LEVELS = LEAVES.bit_length()
Add = Callable[[int, int, np.ndarray], None]  # add what blocks first:last contribute to an array


class Sum:
    """A sum of `count` float64 over ranks, the same bits on all of them; made once (collective).

    ::

        total = Sum(comm, 3, [(0, len(blocks))])
        total(lambda first, last, out: add(address(out), first, last))

    A call clears the array, lets `add` fill it for ranges of this rank's blocks, and sums over
    ranks; the result is the sum's own and lives until the next call.
    """

    def __init__(self, comm: MPI.Intracomm, count: int, ranges: Sequence[tuple[int, int]]) -> None:
        channel = Channel.of(comm)
        shared = comm.size > 1 and channel.one_node and channel.shares_memory
        self._ranges = ranges
        self._first = comm.rank == 0
        self._total = empty(comm, count) if shared else np.zeros(count)
        # One algorithm, chosen by no race: the order of the terms shall not change from run to run.
        name = "shared" if shared else "hierarchical"
        self._plan = Allreduce(comm, self._total, algorithm=name) if comm.size > 1 else None

    def __call__(self, add: Add, once: Callable[[np.ndarray], None] | None = None) -> np.ndarray:
        """The sum (collective). `once` adds, on rank 0 alone, what is not of blocks."""
        self._total[:] = 0
        for first, last in self._ranges:
            add(first, last, self._total)
        if once and self._first:
            once(self._total)
        if self._plan:
            with span(SPAN, self._total.nbytes):
                self._plan()
        return self._total


class TreeSum:
    """The same with bits that do not depend on the number of ranks.

    The blocks of all ranks are cut into `LEAVES` fixed ranges, of which each rank has some in a
    row; a leaf is summed block by block, and leaves by a binary tree. A rank adds up the subtrees
    that are all its own, rank 0 the rest.
    """

    def __init__(self, comm: MPI.Intracomm, count: int, ranges: Sequence[tuple[int, int]]) -> None:
        self._comm = comm
        self._ranges = ranges
        cuts = starts(LEAVES, comm.size)
        self._first = cuts[comm.rank]
        self._nodes = [_subtrees(*cuts[i : i + 2]) for i in range(comm.size)]
        self._levels = [np.zeros(count) for _ in range(_LEVELS)]
        mine = self._nodes[comm.rank]
        own = range(comm.size) if comm.rank == 0 else [comm.rank]
        self._parts = {node: np.zeros(count) for rank in own for node in self._nodes[rank]}
        self._mine = mine

    def __call__(self, add: Add, once: Callable[[np.ndarray], None] | None = None) -> np.ndarray:
        """The sum (collective). `once` adds, on rank 0 alone, what is not of blocks."""
        for node in self._mine:
            self._fill(*node, add)
            self._parts[node][:] = self._levels[node[0]]
        with span(SPAN, self._levels[-1].nbytes):
            self._exchange(once)
        return self._levels[-1]

    def _exchange(self, once: Callable[[np.ndarray], None] | None) -> None:
        if self._comm.rank:
            for node in self._mine:
                self._comm.Send(self._parts[node], 0)
        else:
            for rank in range(1, self._comm.size):
                for node in self._nodes[rank]:
                    self._comm.Recv(self._parts[node], rank)
            self._join(_LEVELS - 1, 0)
            if once:
                once(self._levels[-1])
        self._comm.Bcast(self._levels[-1])

    def _fill(self, level: int, number: int, add: Add) -> None:
        """Sum a subtree of this rank's into the array of its level."""
        here = self._levels[level]
        if level == 0:
            here[:] = 0
            add(*self._ranges[number - self._first], here)
            return
        self._fill(level - 1, 2 * number, add)
        here[:] = self._levels[level - 1]
        self._fill(level - 1, 2 * number + 1, add)
        here += self._levels[level - 1]

    def _join(self, level: int, number: int) -> None:
        """The same of subtrees of all ranks, on rank 0."""
        here = self._levels[level]
        if (level, number) in self._parts:
            here[:] = self._parts[level, number]
            return
        self._join(level - 1, 2 * number)
        here[:] = self._levels[level - 1]
        self._join(level - 1, 2 * number + 1)
        here += self._levels[level - 1]


def _subtrees(first: int, last: int) -> list[tuple[int, int]]:
    """(level, number) of the largest subtrees that make up leaves first:last."""
    nodes = []
    while first < last:
        level = 0
        while first % (2 << level) == 0 and first + (2 << level) <= last:
            level += 1
        nodes.append((level, first >> level))
        first += 1 << level
    return nodes
