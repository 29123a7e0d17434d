"""What the solvers' tests share: a run on one rank to compare with, and norms over all ranks."""

import numpy as np
from mpi4py import MPI

from hpckit.comm.grid import Grid


def alone(shape, **options):
    """The same grid on this rank alone."""
    return Grid(MPI.COMM_SELF, shape, **options)


def mine(grid, whole):
    """This rank's box of a whole array; faces at an upper end belong to the last rank there."""
    stop = [
        n if b == cells else b
        for n, cells, b in zip(whole.shape, grid.shape, grid.stop, strict=True)
    ]
    return whole[tuple(map(slice, grid.start, stop))]


def largest(comm, difference):
    """Largest absolute value over all ranks."""
    return comm.allreduce(float(np.abs(difference).max(initial=0)), MPI.MAX)
