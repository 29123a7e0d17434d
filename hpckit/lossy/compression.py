"""What compressions have in common: they add in the next call what they lost in this one.

It pays where links are slow and the array is large, so that its bytes take several times the links'
latency. On one node the bytes are moved faster than they are compressed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.collectives.algorithms.algorithm import Algorithm
from hpckit.collectives.channel import Channel
from hpckit.collectives.persistent import Persistent, Stages, Work
from hpckit.errors import ConfigError

_LINE = 64  # bytes to which messages are rounded up: each begins on a cache line


class Compression(Algorithm):
    """An allreduce of float32 or float64, by `MPI.SUM`, whose numbers travel in fewer bytes."""

    acts_alone = True

    def __repr__(self) -> str:
        return f"compressed({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Compression) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def check(self, array: np.ndarray, op: MPI.Op, chunks: int) -> None:
        if op != MPI.SUM or array.dtype not in (np.float32, np.float64):
            operation = "MPI.SUM" if op == MPI.SUM else "another operation"
            raise ConfigError(
                f"{self.name!r} takes MPI.SUM of float32 or float64, not {operation} of "
                f"{array.dtype}"
            )

    def sent_bytes(self, array: np.ndarray, ranks: int) -> int:
        """Bytes that a rank sends in an allreduce of such an array among so many ranks."""
        raise NotImplementedError

    def error_bound(self, operations: Sequence[Persistent]) -> float:
        return max(o.error_bound() for o in operations if isinstance(o, Compressed))

    def remark(self, channel: Channel) -> str:
        return "on one node it costs more than it saves" if channel.one_node else ""


class Compressed(Stages):
    """A sum over all ranks, of numbers that travel in fewer bytes.

    target : (n,), the result
    lost : (n,), what the messages of this rank still lack of its contributions
    lost_again : what the sums lack that this rank compressed for the others; ranks do this for
        different elements
    memory : all of this that the next call depends on

    Results are the same bits on all ranks, and their sum over the calls so far lacks but `lost` and
    `lost_again`. What is not finite stays so: NaN, infinity, and what is too large for the form in
    which it travels, make the result NaN or infinite. Then all that was lost is forgotten, so that
    nothing of it is in the next call.
    """

    def __init__(
        self,
        channel: Channel,
        target: np.ndarray,
        lost: np.ndarray,
        stages: Sequence[Persistent],
        lost_again: np.ndarray | None = None,
    ) -> None:
        again = target[:0] if lost_again is None else lost_again
        settle = kernel("settle", target, lost, again, target.size, again.size)
        self._finite = finite = [True]

        def end() -> None:
            finite[0] = not settle()

        super().__init__([*stages, Work(end)])
        self._comm = channel.comm
        self._lost = lost
        self._lost_again = again
        self.memory = [lost, again]

    def error_bound(self) -> float:
        """The most by which an element of the sum of all results so far may be wrong (collective).

        After the first call that is the error of its result. Formula: the sum over ranks of max
        |lost|, plus the largest |lost_again|. The rounding of the additions comes on top, a few
        units in the last place of the sum. Infinite after a result (of a chunk) that is not all
        finite; the sum begins anew with the next one.
        """
        first, again = (float(np.abs(x).max(initial=0)) for x in (self._lost, self._lost_again))
        every = self._comm.allreduce(first if self._finite[0] else np.inf)
        return every + self._comm.allreduce(again, MPI.MAX)


def kernel(name: str, like: np.ndarray, *arguments: np.ndarray | int) -> Callable[[], Any]:
    """The kernel of that name for numbers `like` its first argument, with all its arguments."""
    kernels = native.load("hpckit.lossy.kernels")
    words = [a if isinstance(a, int) else native.address(a) for a in arguments]
    function = getattr(kernels, f"{name}_f{like.itemsize}")
    return native.bind(function, native.address(like), *words, keep=(like, arguments))


def rounded_up(nbytes: int) -> int:
    """Bytes of a message, whole cache lines."""
    return -(-nbytes // _LINE) * _LINE


def twoshot_bytes(n: int, ranks: int, itemsize: int) -> int:
    """Bytes that a rank sends in a two-shot exchange of n numbers."""
    return 2 * (n - n // ranks) * itemsize
