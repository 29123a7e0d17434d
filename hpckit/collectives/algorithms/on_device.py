"""What algorithms that reduce on a device have in common."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from hpckit.collectives.algorithms.algorithm import Algorithm
from hpckit.collectives.folds import fold_kernel

_LINE = 256  # bytes: what begins there is read and written by whole transactions


class OnDevice(Algorithm):
    """An algorithm whose operands are on a device, and stay there: kernels reduce them."""

    kind = "device"
    in_rank_order = True
    acts_alone = True

    def check(self, array: np.ndarray, op: MPI.Op, chunks: int) -> None:
        fold_kernel(op, array.dtype)


def slices(nbytes: int, ranks: int) -> list[int]:
    """Offsets in bytes of slices of equal length, cut where memory is fast, and the end."""
    step = rounded(-(-nbytes // ranks))
    return [min(step * rank, nbytes) for rank in range(ranks + 1)]


def rounded(nbytes: int) -> int:
    """So many and a few more, for what comes after them to begin well."""
    return -(-nbytes // _LINE) * _LINE
