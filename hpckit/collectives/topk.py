"""Allreduce of the k largest numbers of each rank, in magnitude (Aji & Heafield, EMNLP 2017).

A contribution y loses at most (1 - k/n)**0.5 of its Euclidean norm, and no element loses more than
the smallest magnitude that was sent. The sums are not compressed. NaN counts as largest; what is
not finite and was not sent is forgotten.
"""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from hpckit.collectives.algorithms import direct_allgather
from hpckit.collectives.channel import Channel
from hpckit.collectives.engine import Messages, Work
from hpckit.collectives.lossy import Lossy, kernel, slot

LIMIT = 2**31 - 1  # numbers: indices have 32 bits
_DIGIT = 11  # bits of the kernel's counts


def kept(fraction: float, n: int) -> int:
    """How many of n numbers are sent: at least one."""
    return min(n, max(1, round(fraction * n)))


def message_bytes(fraction: float, n: int, itemsize: int) -> int:
    """Bytes of their values and indices."""
    return slot(kept(fraction, n) * (itemsize + 4))


class TopK(Lossy):
    """Each rank sends all the others its k largest, which everybody adds up in rank order.

    source, target : (n,) float32 or float64, n at most `LIMIT`
    fraction : k / n
    """

    def __init__(
        self,
        channel: Channel,
        source: np.ndarray,
        target: np.ndarray,
        op: MPI.Op,
        deadline: float | None = None,
        *,
        fraction: float,
    ) -> None:
        n, rank, size = target.size, channel.rank, channel.size
        k, nbytes = kept(fraction, n), message_bytes(fraction, n, target.itemsize)
        buffer = np.zeros(size * nbytes, np.uint8)
        values = [buffer[r * nbytes :] for r in range(size)]
        indices = [buffer[r * nbytes + k * target.itemsize :] for r in range(size)]
        lost = np.zeros_like(target)
        select = kernel(
            "select",
            lost,
            source,
            indices[rank],
            values[rank],
            np.empty(1 << _DIGIT, np.int64),
            n,
            k,
        )
        add = [kernel("scatter", target, indices[r], values[r], k) for r in range(size)]
        schedule = direct_allgather(rank, size, [r * nbytes for r in range(size + 1)])

        def sum_up() -> None:
            target.fill(0)
            for each in add:
                each()

        messages = Messages(channel, buffer, buffer, op, schedule, deadline)
        super().__init__(channel, target, lost, [Work(select), messages, Work(sum_up)])
