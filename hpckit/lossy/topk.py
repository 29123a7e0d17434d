"""Allreduce of the k largest numbers of each rank, in magnitude (Aji & Heafield, EMNLP 2017).

A contribution y loses at most (1 - k/n)**0.5 of its Euclidean norm, and no element loses more than
the smallest magnitude that was sent. The sums are not compressed. NaN counts as largest; what is
not finite and was not sent is forgotten.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from mpi4py import MPI

from hpckit.collectives.algorithms.twoshot import direct_allgather
from hpckit.collectives.messages import Messages
from hpckit.collectives.persistent import Operands, Work
from hpckit.errors import ConfigError
from hpckit.lossy.compression import Compressed, Compression, kernel, rounded_up

_LIMIT = 2**31 - 1  # numbers: indices have 32 bits
_DIGIT = 11  # bits of the kernel's counts


class TopK(Compression):
    """The largest numbers, with their places.

    fraction : of all numbers, above 0 and up to 1; at least one is sent ::

        plan = Allreduce(comm, gradient, algorithm=TopK(0.01))
    """

    def __init__(self, fraction: float) -> None:
        self.name = f"topk:{fraction}"
        self.fraction = fraction

    def check(self, array: np.ndarray, op: MPI.Op, chunks: int) -> None:
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"fraction {self.fraction!r} must be above 0 and up to 1")
        super().check(array, op, chunks)
        if array.size > _LIMIT * chunks:
            raise ConfigError(
                f"{self.name!r} takes {_LIMIT} elements at a time, not {array.size}: use chunks"
            )

    def sent_bytes(self, array: np.ndarray, ranks: int) -> int:
        return (ranks - 1) * self._message_bytes(array.size, array.itemsize)

    def bind(self, operands: Operands) -> Compressed:
        """Each rank sends all the others its k largest, which everybody adds up in rank order."""
        channel, target = operands.channel, operands.target
        n, rank, size = target.size, channel.rank, channel.size
        k, nbytes = self._kept(n), self._message_bytes(n, target.itemsize)
        buffer = np.zeros(size * nbytes, np.uint8)
        values = [buffer[r * nbytes :] for r in range(size)]
        indices = [buffer[r * nbytes + k * target.itemsize :] for r in range(size)]
        counts = np.empty(1 << _DIGIT, np.int64)
        lost = np.zeros_like(target)
        mine = indices[rank], values[rank]
        select = kernel("select", lost, operands.source, *mine, counts, n, k)
        add = [kernel("scatter", target, indices[r], values[r], k) for r in range(size)]
        schedule = direct_allgather(rank, size, [r * nbytes for r in range(size + 1)])

        def sum_up() -> None:
            target.fill(0)
            for each in add:
                each()

        messages = Messages(replace(operands, source=buffer, target=buffer), schedule)
        return Compressed(channel, target, lost, [Work(select), messages, Work(sum_up)])

    def _kept(self, n: int) -> int:
        """How many of n numbers are sent."""
        return min(n, max(1, round(self.fraction * n)))

    def _message_bytes(self, n: int, itemsize: int) -> int:
        """Bytes of their values and indices."""
        return rounded_up(self._kept(n) * (itemsize + 4))
