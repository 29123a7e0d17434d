"""Allreduce of matrices of low rank: PowerSGD (Vogels, Karimireddy & Jaggi, NeurIPS 2019, algorithm 1).

With M_r the matrix of rank r and B the basis that the last call left: P = sum_r M_r B' is made orthonormal, then
Q = sum_r P' M_r, and the result is P Q, the projection of the sum on the columns of P; Q is the next B. A contribution
keeps what lies in their span, so it loses at most its Euclidean norm, and nothing if its rank does not exceed that of
the basis and the span is right. Two small two-shot allreduces, of rows and of columns.
"""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from hpckit.collectives.algorithms import twoshot
from hpckit.collectives.channel import Channel
from hpckit.collectives.engine import Messages, Work
from hpckit.collectives.lossy import Lossy, kernel
from hpckit.comm.partition import starts


class PowerSGD(Lossy):
    """`source` and `target` are (n,) float32 or float64, the rows of a matrix one after the other.

    columns : length of a row
    rank : of the approximation; at most the matrix's rows and columns
    """

    def __init__(
        self,
        channel: Channel,
        source: np.ndarray,
        target: np.ndarray,
        op: MPI.Op,
        deadline: float | None = None,
        *,
        columns: int,
        rank: int,
    ) -> None:
        rows = target.size // columns if columns else 0
        rank = min(rank, rows, columns)
        lost = np.zeros((rows, columns), target.dtype)
        left = np.empty((rank, rows), target.dtype)
        own = np.empty((rank, columns), target.dtype)
        fresh = np.random.default_rng(0).standard_normal(own.shape).astype(target.dtype)
        basis = fresh.copy()
        flat = lost.reshape(-1)
        orthonormalise = kernel("orthonormalise", left, rank, rows)
        multiply = kernel("multiply", target, flat, left, basis, own, rows, columns, rank)
        restart = kernel("restart", basis, fresh, rank, columns)

        def reduced(part: np.ndarray, total: np.ndarray) -> Messages:
            schedule = twoshot(channel.rank, channel.size, starts(total.size, channel.size))
            return Messages(channel, part.reshape(-1), total.reshape(-1), op, schedule, deadline)

        def project() -> None:
            np.add(flat, source, out=flat)
            np.matmul(basis, lost.T, out=left)

        def project_back() -> None:
            orthonormalise()
            np.matmul(left, lost, out=own)

        def expand() -> None:
            multiply()
            if restart():
                lost.fill(0)

        stages = [Work(project), reduced(left, left), Work(project_back), reduced(own, basis), Work(expand)]
        super().__init__(channel, flat, target[:0], stages)
