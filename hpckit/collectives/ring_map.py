"""All pairs of ranks' blocks, computed while the blocks travel round a ring."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from mpi4py import MPI

from hpckit.collectives.channel import Channel
from hpckit.errors import ConfigError, agree, same, together

T = TypeVar("T")


def ring_map(comm: MPI.Intracomm, block: np.ndarray, function: Callable[[np.ndarray, int], T]) -> list[T]:
    """`function(block of rank r, r)` for all r, in rank order: distances, forces, attention (collective).

    Blocks go from neighbour to neighbour, so that a rank holds three at a time, and the next is on its way while
    `function` computes (Liu et al., Ring Attention, arXiv:2310.01889).

    block : this rank's, contiguous; ranks' blocks may differ in their first dimension
    function : must not keep the block, whose memory is used again

    Where `function` raises on any rank, all ranks raise once the blocks have gone round.
    """
    with together(comm):
        if not isinstance(block, np.ndarray) or not block.flags.c_contiguous or block.dtype.hasobject or not block.ndim:
            raise ConfigError("ring_map takes a C-contiguous NumPy array of plain numbers: use numpy.ascontiguousarray")
    same(comm, "dtype and trailing dimensions of the blocks", (block.dtype.str, block.shape[1:]))
    channel, size, rank = Channel.of(comm), comm.size, comm.rank
    lengths, tag = comm.allgather(len(block)), channel.tag()
    row = MPI.BYTE.Create_contiguous(block.itemsize * math.prod(block.shape[1:])).Commit()  # counts stay below 2**31
    buffers = [np.empty((max(lengths), *block.shape[1:]), block.dtype) for _ in range(min(size - 1, 2))]
    results: dict[int, T] = {}
    error = None
    for step in range(size):
        source = (rank - step) % size
        last = step == size - 1
        following = buffers[step % 2][: lengths[(source - 1) % size]] if not last else block
        requests = [] if last else _pass_on(channel, block, following, row, tag)
        try:
            if error is None:
                results[source] = function(block, source)
        except Exception as caught:  # the others still need the blocks
            error = caught
        MPI.Request.Waitall(requests)
        block = following
    row.Free()
    agree(comm, error)
    return [results[source] for source in range(size)]


def _pass_on(
    channel: Channel, block: np.ndarray, following: np.ndarray, row: MPI.Datatype, tag: int
) -> list[MPI.Request]:
    left, right = (channel.rank - 1) % channel.size, (channel.rank + 1) % channel.size
    receive = channel.comm.Irecv([following, len(following), row], left, tag)
    return [receive, channel.comm.Isend([block, len(block), row], right, tag)]
