"""What the allreduces that compress have in common: they add in the next call what they lost in
this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.collectives.channel import Channel
from hpckit.collectives.engine import Stages, Way, Work

SLOT = 64  # bytes to which messages are rounded up: each begins on a cache line


class Lossy(Stages):
    """A sum over all ranks, of numbers that travel in fewer bytes.

    target : (n,), the result
    lost : (n,), what the messages of this rank still lack of its contributions
    lost_again : what the sums lack that this rank compressed for the others; ranks do this for
        different elements

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
        stages: Sequence[Way],
        lost_again: np.ndarray | None = None,
    ) -> None:
        again = target[:0] if lost_again is None else lost_again
        settle = kernel("settle", target, lost, again, target.size, again.size)
        self._finite = finite = [True]

        def end() -> None:
            finite[0] = not settle()

        super().__init__([*stages, Work(end)])
        self._comm, self._lost, self._lost_again = channel.comm, lost, again

    def error_bound(self) -> float:
        """The most by which an element of the sum of all results so far may be wrong (collective).

        After the first call that is the error of its result. Formula: the sum over ranks of max
        |lost|, plus the largest |lost_again|. The rounding of the additions comes on top, a few
        units in the last place of the sum. Infinite after a result (of a chunk) that is not all
        finite; the sum begins anew with the next one.
        """
        first, again = (
            float(np.abs(lost).max(initial=0)) for lost in (self._lost, self._lost_again)
        )
        return self._comm.allreduce(first if self._finite[0] else np.inf) + self._comm.allreduce(
            again, MPI.MAX
        )


def kernel(name: str, like: np.ndarray, *arguments: np.ndarray | int) -> Callable[[], Any]:
    """The kernel of that name for numbers `like` these, its first argument, with all its arguments
    for good.
    """
    kernels = native.load("hpckit.collectives.compress_kernels")
    words = [a if isinstance(a, int) else native.address(a) for a in arguments]
    function = getattr(kernels, f"{name}_f{like.itemsize}")
    return native.bind(function, native.address(like), *words, keep=(like, arguments))


def slot(nbytes: int) -> int:
    """Bytes of a message, rounded up."""
    return -(-nbytes // SLOT) * SLOT
