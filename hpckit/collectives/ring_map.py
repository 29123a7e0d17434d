"""All pairs of ranks' blocks, computed while the blocks travel round a ring."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.arguments import refuse_masked
from hpckit.collectives.channel import Channel
from hpckit.errors import ConfigError, agree, same, together
from hpckit.machine.lifetime import Flight, finishing

T = TypeVar("T")


def ring_map(
    comm: MPI.Intracomm, block: np.ndarray, function: Callable[[np.ndarray, int], T]
) -> list[T]:
    """`function(block of rank r, r)` for all r: distances, forces, attention (collective).

    Blocks go from neighbour to neighbour, so that a rank holds three at a time, and the next is on
    its way while `function` computes (Liu et al., Ring Attention, arXiv:2310.01889).

    block : this rank's, contiguous; ranks' blocks may differ in their first dimension
    function : it must not write to the block, which is on its way to the next rank: what it gets is
        read-only. What it keeps of a block, as in a view, stays as it is, at the price of its
        memory

    Where `function` raises on any rank, all ranks raise once the blocks have gone round. ::

        nearest = ring_map(comm, points, lambda other, rank: distances(points, other).min(axis=1))
    """
    with together(comm):
        _check(block, function)
    what = "ring_map", block.dtype.str, block.shape[1:]
    same(comm, "dtype and trailing dimensions of the blocks", what)
    channel, size, rank = Channel.of(comm), comm.size, comm.rank
    lengths, tag = comm.allgather(len(block)), channel.tag()
    nbytes = block.itemsize * math.prod(block.shape[1:])
    row = MPI.BYTE.Create_contiguous(nbytes).Commit()  # so that counts stay below 2**31
    shape = max(lengths), *block.shape[1:]
    flight = Flight(row, block)
    spare: list[np.ndarray] = []  # memory that nobody looks at
    here = None  # the memory of this step's block; at first the user's
    results: dict[int, T] = {}
    error = None
    with finishing(channel.comm):
        for step in range(size):
            source = (rank - step) % size
            arriving = following = None
            if step < size - 1:
                arriving = spare.pop() if spare else flight.keep(np.empty(shape, block.dtype))
                following = arriving[: lengths[(source - 1) % size]]
                _pass_on(channel, block, following, row, tag, flight)
            loan = _Loan(block)
            kept = weakref.ref(loan)
            try:
                if error is None:
                    results[source] = function(loan.array(), source)
            except Exception as caught:  # the others still need the blocks
                error = caught
            del loan
            flight.land()
            if here is not None and kept() is None:
                spare.append(here)
            if following is not None:
                block, here = following, arriving
    agree(comm, error)
    return [results[source] for source in range(size)]


def _check(block: Any, function: Any) -> None:
    refuse_masked("the block", block)
    contiguous = isinstance(block, np.ndarray) and block.flags.c_contiguous
    if not contiguous or block.dtype.hasobject or not block.ndim:
        found = f"{type(block).__name__} {getattr(block, 'dtype', '')}".rstrip()
        raise ConfigError(
            "ring_map takes a C-contiguous NumPy array of plain numbers: use "
            f"numpy.ascontiguousarray; got {found}"
        )
    if not callable(function):
        raise ConfigError(
            f"ring_map takes a function of a block and its rank, got {type(function).__name__}"
        )


class _Loan:
    """A block, for reading: lives as long as any view of it does."""

    def __init__(self, block: np.ndarray) -> None:
        self._block = block
        address = native.address(block)
        self.__array_interface__ = {
            "data": (address, True),
            "shape": (block.nbytes,),
            "typestr": "|u1",
            "version": 3,
        }

    def array(self) -> np.ndarray:
        return np.asarray(self).view(self._block.dtype).reshape(self._block.shape)


def _pass_on(
    channel: Channel,
    block: np.ndarray,
    following: np.ndarray,
    row: MPI.Datatype,
    tag: int,
    flight: Flight,
) -> None:
    comm, rank, size = channel.comm, channel.rank, channel.size
    flight.add(comm.Irecv([following, len(following), row], (rank - 1) % size, tag))
    flight.add(comm.Isend([block, len(block), row], (rank + 1) % size, tag))
