"""Allreduce of matrices of low rank: PowerSGD (Vogels, Karimireddy & Jaggi, NeurIPS 2019, algorithm
1).

With M_r the matrix of rank r and B the basis that the last call left: P = sum_r M_r B' is made
orthonormal, then Q = sum_r P' M_r, and the result is P Q, the projection of the sum on the columns
of P; Q is the next B. A contribution keeps what lies in their span, so it loses at most its
Euclidean norm, and nothing if its rank does not exceed that of the basis and the span is right. Two
small two-shot allreduces, of rows and of columns.
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
        lost = np.zeros_like(target)
        left = np.empty((rank, rows), target.dtype)
        own = np.empty((rank, columns), target.dtype)
        fresh = np.random.default_rng(0).standard_normal(own.shape).astype(target.dtype)
        basis = fresh.copy()
        shape = rows, columns, rank
        project = kernel("project", left, lost, source, basis, *shape)
        orthonormalise = kernel("orthonormalise", left, rank, rows)
        project_back = kernel("project_back", own, left, lost, *shape)
        expand = kernel("expand_low_rank", target, lost, left, basis, own, *shape)
        restart = kernel("restart", basis, fresh, rank, columns)

        def reduced(part: np.ndarray, total: np.ndarray) -> Messages:
            schedule = twoshot(channel.rank, channel.size, starts(total.size, channel.size))
            return Messages(channel, part.reshape(-1), total.reshape(-1), op, schedule, deadline)

        def back() -> None:
            orthonormalise()
            project_back()

        def finish() -> None:
            expand()
            if restart():
                lost.fill(0)

        stages = [Work(project), reduced(left, left), Work(back), reduced(own, basis), Work(finish)]
        super().__init__(channel, target, lost, stages)
