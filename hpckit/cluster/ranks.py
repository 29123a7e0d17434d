"""The ranks of one run and their threads: a communicator's, or this process without MPI."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from hpckit import errors, native
from hpckit.cluster.tables import PROPOSAL_LENGTH
from hpckit.comm import partition

if TYPE_CHECKING:
    from mpi4py import MPI

_T = TypeVar("_T")


class Proposal(NamedTuple):
    """The best proposal of all ranks: `candidate`, in `block`, into `slot`, `change` in ticks."""

    change: float
    candidate: int
    slot: int
    block: int


class Ranks:
    """What the algorithms say to each other; every method but `block` and `each` is collective.

    threads : how many threads this rank may use
    proposal : a row `tables.PROPOSAL`, this rank's, for kernels to fill
        in before `settle`
    """

    def __init__(self, comm: MPI.Intracomm | None, threads: int = 1) -> None:
        self.comm = comm
        self.threads = threads
        self.rank, self.size = (0, 1) if comm is None else (comm.rank, comm.size)
        proposals = np.zeros((self.size, PROPOSAL_LENGTH))
        self.proposal = proposals[self.rank]
        self._proposals = proposals
        self._counts = np.empty(self.size, np.int64)
        winner = native.load("hpckit.cluster.kernels.proposals").winner
        self._winner = native.bind(winner, native.address(proposals), self.size, keep=proposals)

    def block(self, n: int) -> tuple[int, int]:
        """Start and stop of this rank's part of `range(n)`."""
        return partition.block(n, self.size, self.rank)

    def each(self, call: Callable[[int], _T]) -> list[_T]:
        """[call(0), ..., call(threads - 1)], at the same time where they are kernels."""
        others = [self._pool.submit(call, thread) for thread in range(1, self.threads)]
        return [call(0), *(other.result() for other in others)]

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads - 1)

    @cached_property
    def on_this_node(self) -> int:
        """How many of the ranks share this node's memory."""
        if self.comm is None:
            return 1
        from hpckit.machine.node_memory import node_ranks

        with node_ranks(self.comm) as node:
            return node.size

    def together(self) -> AbstractContextManager[object]:
        """`errors.together`: a block of checks that fails on all ranks if it fails on one."""
        return nullcontext() if self.comm is None else errors.together(self.comm)

    def same(self, what: str, value: object) -> None:
        """Raise `ConfigError` on all ranks unless `value` is equal on all of them."""
        if self.comm is not None:
            errors.same(self.comm, what, value)

    def maximum(self, value: float) -> float:
        """The largest value of all ranks."""
        if self.comm is None:
            return value
        from mpi4py import MPI

        return self.comm.allreduce(value, MPI.MAX)

    def gather(self, value: _T) -> list[_T]:
        """The values of all ranks."""
        return [value] if self.comm is None else self.comm.allgather(value)

    def join(self, rows: np.ndarray) -> np.ndarray:
        """The rows of all ranks, in their order; at least one rank has some."""
        if self.comm is None:
            return rows
        from mpi4py import MPI

        counts = self.gather(len(rows))
        joined = np.empty((sum(counts), *rows.shape[1:]), rows.dtype)
        row = MPI.BYTE.Create_contiguous(
            joined[:1].nbytes
        ).Commit()  # so that counts stay below 2**31
        self.comm.Allgatherv([np.ascontiguousarray(rows), len(rows), row], [joined, counts, row])
        row.Free()
        return joined

    def collect(self, rows: np.ndarray, into: np.ndarray) -> int:
        """As `join`, into room for the rows, where time matters; how many there are."""
        if self.size == 1 or self.comm is None:
            into[: len(rows)] = rows
            return len(rows)
        from mpi4py import MPI

        self._counts[self.rank] = rows.size
        self.comm.Allgather(MPI.IN_PLACE, self._counts)
        counts = self._counts.tolist()
        self.comm.Allgatherv(rows, (into, counts))
        return sum(counts) // into.shape[1]

    def add(self, values: np.ndarray) -> None:
        """Sum over all ranks, in place; exact for whole numbers."""
        if self.comm is not None:
            from mpi4py import MPI

            self.comm.Allreduce(MPI.IN_PLACE, values, MPI.SUM)

    def share(self, values: np.ndarray, n: int, item: int) -> None:
        """Copy `values` from the rank whose block of `range(n)` holds `item` to all others."""
        if self.comm is not None:
            self.comm.Bcast(values, bisect_right(partition.starts(n, self.size), item) - 1)

    def settle(self) -> Proposal | None:
        """The winning proposal; None where nobody made one."""
        if self.comm is not None:
            from mpi4py import MPI

            self.comm.Allgather(MPI.IN_PLACE, self._proposals)
        winner = self._winner()
        if winner < 0:
            return None
        change, *places = self._proposals[winner].tolist()
        return Proposal(change, *map(int, places))
