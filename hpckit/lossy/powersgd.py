"""Allreduce of matrices of low rank (Vogels, Karimireddy & Jaggi, NeurIPS 2019, algorithm 1).

With M_r the matrix of rank r and B the basis that the last call left: P = sum_r M_r B' is made
orthonormal, then Q = sum_r P' M_r, and the result is P Q, the projection of the sum on the columns
of P; Q is the next B. A contribution keeps what lies in their span, so it loses at most its
Euclidean norm, and nothing if its rank does not exceed that of the basis and the span is right. Two
small two-shot allreduces, of rows and of columns.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from mpi4py import MPI

from hpckit.collectives.algorithms.twoshot import TwoShot
from hpckit.collectives.messages import Messages
from hpckit.collectives.persistent import Operands, Work
from hpckit.comm.partition import starts
from hpckit.errors import ConfigError
from hpckit.lossy.compression import Compressed, Compression, kernel, twoshot_bytes


class PowerSGD(Compression):
    """A matrix's best approximation of low rank; contiguous arrays of two or more dimensions.

    rank : of the approximation; at most the matrix's rows and columns ::

        plan = Allreduce(comm, weights, algorithm=PowerSGD(4))
    """

    def __init__(self, rank: int) -> None:
        self.name = f"powersgd:{rank}"
        self.rank = rank

    def check(self, array: np.ndarray, op: MPI.Op, chunks: int) -> None:
        if self.rank < 1 or self.rank != int(self.rank):
            raise ConfigError(f"rank {self.rank!r} must be a whole number above 0")
        super().check(array, op, chunks)
        if array.ndim < 2 or chunks > 1 or not array.flags.forc:
            raise ConfigError(
                f"{self.name!r} takes contiguous arrays of two or more dimensions, in one chunk; "
                f"this one has shape {array.shape} and {chunks} chunks: use 'int8'"
            )

    def sent_bytes(self, array: np.ndarray, ranks: int) -> int:
        columns = (array.shape or (1,))[-1 if array.flags.c_contiguous else 0]
        rows = array.size // max(columns, 1)
        n = min(self.rank, rows, columns) * (rows + columns)
        return twoshot_bytes(n, ranks, array.itemsize)

    def bind(self, operands: Operands) -> Compressed:
        """P and Q as above: `left` is P, `basis` is Q, `own` this rank's part of it."""
        source, target, columns = operands.source, operands.target, operands.columns
        channel = operands.channel
        rows = target.size // columns if columns else 0
        rank = min(self.rank, rows, columns)
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
            cuts = starts(total.size, channel.size)
            schedule = TwoShot().schedule(channel.rank, channel.size, cuts)
            flat = replace(operands, source=part.reshape(-1), target=total.reshape(-1))
            return Messages(flat, schedule)

        def back() -> None:
            orthonormalise()
            project_back()

        def finish() -> None:
            expand()
            if restart():
                lost.fill(0)

        stages = [Work(project), reduced(left, left), Work(back), reduced(own, basis), Work(finish)]
        operation = Compressed(channel, target, lost, stages)
        operation.memory.append(basis)
        return operation
